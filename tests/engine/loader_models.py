"""Random models of any architecture that llama.cpp knows: its own loader names each tensor and its shape.

random_models.py writes those of the first architectures by hand, as their real files are; this writes every tensor that
the loader asks for, or would take.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from dsdnode.engine import llama_api
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.llama_api import llama_cpp
from tests.engine.loader_variants import Keys, LoaderVariant

VOCAB, CONTEXT_TOKENS = 96, 4096
BARE = "xielu."
_PLAIN = (
    "norm",
    "ffn_gate_inp",
    "rope_f",
    "sinks",
    "scale",
    ".bias",
    "exp_probs",
    "conv1d",
    "ssm_a.",
    "ssm_d.",
    "ssm_dt",
    "shortconv.conv",
)
"""Parts of names of tensors that are not quantised."""


def write_loader_model(
    path: Path,
    variant: LoaderVariant,
    num_layers: int,
    kind: Type = Type.F32,
    seed: int = 0,
    keys: Keys | None = None,
    made: Callable[[str, tuple[int, ...]], NDArray[np.float32] | None] = lambda name, shape: None,
    left_out: tuple[str, ...] = (),
) -> None:
    """Write a model of `num_layers` tiny layers, its matrices of type `kind`; `keys` go over the variant's. `made`: a
    tensor that is not to be random, by its name and shape. `left_out`: parts of names."""
    rng = np.random.default_rng(seed)
    width = 256 if gguf.GGML_QUANT_SIZES[kind][0] > 32 else 64
    given = _base(num_layers, width) | variant.keys(num_layers) | (keys or {})
    if width > 64:
        given |= {key: width for key in ("expert_feed_forward_length",) if key in given}
        if variant.architecture in ("granitehybrid", "jamba"):  # llama.cpp insists on it
            given["ssm.inner_size"] = 2 * width
    given["block_count"] += given.get("nextn_predict_layers", 0)
    out = _writer(path, variant.architecture, given)
    for name, shape in shapes(variant.architecture, given).items():
        if not (variant.tied and name == "output.weight") and not any(part in name for part in left_out):
            data, raw_kind = _random(name, shape, rng, kind)
            given_data = made(name, shape)
            out.add_tensor(name, *((data, None, raw_kind) if given_data is None else (given_data,)))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _base(num_layers: int, width: int) -> Keys:
    return {
        "context_length": CONTEXT_TOKENS,
        "embedding_length": width,
        "block_count": num_layers,
        "feed_forward_length": max(width, 128),
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.dimension_count": width // 4,
        "vocab_size": VOCAB,
    }


def _writer(path: Path, architecture: str, keys: Keys) -> gguf.GGUFWriter:
    out = gguf.GGUFWriter(path, architecture)
    out.add_name(f"Random {architecture}")
    out.add_tokenizer_model("none")
    for key, value in keys.items():
        name = key if key.startswith(BARE) else f"{architecture}.{key}"
        match value:
            case bool():
                out.add_bool(name, value)
            case int():
                out.add_uint32(name, value)
            case float():
                out.add_float32(name, value)
            case str():
                out.add_string(name, value)
            case _:
                out.add_array(name, value)
    return out


class _Tensor(ctypes.Structure):
    """The head of ggml's own."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4))


class _Options(ctypes.Structure):
    """gguf_init_params"""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


def shapes(architecture: str, keys: Keys) -> dict[str, tuple[int, ...]]:
    """By name, the shape (as numpy has it) of each tensor that the loader makes of this metadata."""
    ggml = llama_api.ggml
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _Options]
    found: dict[str, tuple[int, ...]] = {}

    def seen(tensor: int, _: object) -> None:
        sizes = list(_Tensor.from_address(tensor).ne)
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        found[ggml.ggml_get_name(tensor).decode()] = tuple(reversed(sizes))

    callback_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    init = llama_cpp._lib.llama_model_init_from_user
    init.restype = ctypes.c_void_p
    init.argtypes = [ctypes.c_void_p, callback_type, ctypes.c_void_p, llama_cpp.llama_model_params]
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False
    params.load_mtp = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metadata.gguf"
        out = _writer(path, architecture, keys)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()
        metadata = ggml.gguf_init_from_file(bytes(path), _Options(True, None))
    llama_api.recent_errors.clear()
    model = init(metadata, callback_type(seen), None, params)
    assert model, f"{architecture}: {list(llama_api.recent_errors)}"
    llama_cpp.llama_model_free(model)
    return {name: shape for name, shape in found.items() if not _is_unused(name)}


def _is_unused(name: str) -> bool:
    """Of a type of numbers that no model here has, or of models that classify."""
    return name.startswith(("cls.", "dense_")) or (
        name.endswith((".scale", ".input_scale")) and "ffn_gate_inp" not in name
    )


def _random(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, kind: Type
) -> tuple[NDArray[Any], Type | None]:
    """Data, and its type where that is not numpy's. Norms and biases are random, too: one in a wrong place shows."""
    if name.endswith(("ssm_a", "ssm_a.weight")):  # states die away
        return (-np.abs(rng.standard_normal(shape)) - 0.1).astype(np.float32), None
    if "rope_f" in name:
        return (1.5 + 0.1 * rng.standard_normal(shape)).astype(np.float32), None
    if ("norm" in name and name.endswith("weight")) or name.endswith("scale"):
        return (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32), None
    if len(shape) == 1 or any(part in name for part in _PLAIN):
        spread = 0.1 if len(shape) == 1 else 1 / np.sqrt(shape[-1])
        return (spread * rng.standard_normal(shape)).astype(np.float32), None
    values = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
    if kind == Type.F32 or shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        return values, None
    if kind == Type.Q4_K:
        return random_blocks(kind, shape, rng), kind
    return quantised(values, kind), kind


def quantised(values: NDArray[np.float32], kind: Type) -> NDArray[Any]:
    """As gguf.quants.quantize, which takes sixteen rows at a time: all of these small ones at once."""
    if kind == Type.Q8_0:
        rows: NDArray[Any] = gguf.quants.Q8_0.quantize_rows(values)
        return rows
    result: NDArray[Any] = gguf.quants.quantize(values, kind)
    return result


def random_blocks(kind: Type, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Of a type that the library has no quantiser for."""
    return {Type.Q4_K: random_q4_k, Type.Q6_K: random_q6_k}[kind](shape, rng)


def random_q6_k(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Valid random blocks: 192 bytes of quants, 16 of scales, d."""
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // 256, 210), np.uint8)
    blocks[..., 192:208] = rng.integers(-16, 17, blocks[..., 192:208].shape, np.int8).view(np.uint8)
    blocks[..., 208:210] = np.frombuffer(np.float16(1 / (np.sqrt(shape[-1]) * 18 * 10)).tobytes(), np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def random_q4_k(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Valid random blocks: d, dmin, 12 bytes of scales, 128 of quants."""
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // 256, 144), np.uint8)
    step = np.float16(1 / (np.sqrt(shape[-1]) * 32 * 8))
    blocks[..., 0:2] = np.frombuffer(step.tobytes(), np.uint8)
    blocks[..., 2:4] = np.frombuffer(np.float16(step * 7.5).tobytes(), np.uint8)
    return blocks.reshape(*shape[:-1], -1)

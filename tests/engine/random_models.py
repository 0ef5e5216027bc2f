"""Random models of each architecture: real layer counts, tiny widths, written with the gguf library's own writer.

Norms and biases are random too, so that a tensor that went to the wrong layer, or metadata cut wrongly, shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from tests.engine.loader_models import VOCAB, quantised, random_blocks, write_loader_model
from tests.engine.loader_variants import LOADER_VARIANTS, LoaderVariant

HEADS, KV_HEADS, EXPERTS, EXPERTS_USED, CONTEXT_TOKENS = 4, 2, 4, 2, 512
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Variant:
    """How one architecture's blocks look; the plain case is llama's."""

    architecture: str
    num_layers: tuple[int, ...]
    """Of the real models."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Metadata under the architecture's name."""
    tied: bool = False
    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    norm_biases: bool = False
    wide_heads: bool = False
    """Heads that together are wider than the model, as many real ones have."""
    qk_norm: str = ""
    """"head": one for all heads; "full": over the whole width."""
    biases: tuple[str, ...] = ()
    fused: bool = False
    """phi3: one tensor for queries, keys and values, one for gate and up."""
    gate: bool = True
    experts: bool = False
    dense_lead: int = 0
    shared_expert: str = ""
    """"plain", or "gated" by a vector of its own."""
    sinks: bool = False
    end_tensors: tuple[str, ...] = ()
    """Rope factors."""


QKV = ("attn_q", "attn_k", "attn_v")
EXPERTS_3 = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
SANDWICH = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
GRANITE = {"logit_scale": 8.0, "residual_scale": 0.22, "embedding_scale": 12.0, "attention.scale": 0.015625}
LONG_ROPE = ("rope_factors_long", "rope_factors_short")
WINDOW = {"attention.sliding_window": 16}
MHA = {"attention.head_count_kv": HEADS}

VARIANTS: dict[str, Variant | LoaderVariant] = {
    "llama": Variant("llama", (16, 32, 80), end_tensors=("rope_freqs",)),
    "llama (mistral)": Variant("llama", (32, 40), keys=WINDOW, tied=True),
    "llama (mixture of experts)": Variant("llama", (32, 56), experts=True),
    "qwen2": Variant("qwen2", (24, 28, 64), biases=QKV, tied=True),
    "qwen3": Variant("qwen3", (28, 36), qk_norm="head", wide_heads=True),
    "qwen3moe": Variant("qwen3moe", (48, 94), qk_norm="head", wide_heads=True, experts=True),
    "phi3": Variant("phi3", (32, 40), fused=True, end_tensors=LONG_ROPE),
    "gemma3": Variant(
        "gemma3",
        (18, 26, 34, 48),
        keys=WINDOW | {"rope.freq_base": 1e6},
        tied=True,
        norms=SANDWICH,
        qk_norm="head",
        wide_heads=True,
    ),
    "granite": Variant("granite", (32, 40), keys=GRANITE, tied=True),
    "olmo2": Variant("olmo2", (16, 32, 40), norms=("post_attention_norm", "post_ffw_norm"), qk_norm="full"),
    "olmo2 (sliding window)": Variant(
        "olmo2",
        (32, 64),
        keys=WINDOW | {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0},
        norms=("post_attention_norm", "post_ffw_norm"),
        qk_norm="full",
    ),
    "arcee": Variant("arcee", (36,), gate=False),
    "deepseek": Variant(
        "deepseek",
        (28,),
        keys=MHA | {"leading_dense_block_count": 3, "expert_shared_count": 1},
        experts=True,
        dense_lead=3,
        shared_expert="plain",
    ),
    "ernie4_5": Variant("ernie4_5", (18,), tied=True),
    "exaone": Variant("exaone", (30, 32), end_tensors=("rope_freqs",)),
    "gpt-oss": Variant(
        "gpt-oss",
        (24, 36),
        keys=WINDOW,
        norms=("attn_norm", "post_attention_norm"),
        biases=(*QKV, "attn_output", "ffn_gate_inp", *EXPERTS_3),
        wide_heads=True,
        experts=True,
        sinks=True,
    ),
    "granitemoe": Variant("granitemoe", (24, 32), keys=GRANITE, tied=True, experts=True, shared_expert="plain"),
    "internlm2": Variant("internlm2", (24, 32, 48)),
    "mistral3": Variant(
        "mistral3",
        (26, 34, 40),
        keys={"attention.temperature_scale": 0.1, "rope.scaling.original_context_length": 8},
        tied=True,
    ),
    "olmoe": Variant("olmoe", (16,), keys=MHA, qk_norm="full", experts=True),
    "qwen2moe": Variant("qwen2moe", (24, 28), biases=QKV, experts=True, shared_expert="gated"),
    "seed_oss": Variant("seed_oss", (64,), norms=("attn_norm", "post_attention_norm"), biases=QKV),
    "starcoder2": Variant(
        "starcoder2",
        (30, 32, 40),
        tied=True,
        norm_biases=True,
        biases=(*QKV, "attn_output", "ffn_up", "ffn_down"),
        gate=False,
    ),
} | LOADER_VARIANTS


class _Builder:
    def __init__(self, path: Path, variant: Variant, num_layers: int, kind: Type, seed: int) -> None:
        self.variant, self.num_layers, self.kind = variant, num_layers, kind
        self.width = 256 if gguf.GGML_QUANT_SIZES[kind][0] > 32 else 64
        self.feed_forward = max(self.width, 128)
        self.head_width = self.width // HEADS * (2 if variant.wide_heads else 1)
        self.vocab_size = VOCAB
        self.rng = np.random.default_rng(seed)
        self.out = gguf.GGUFWriter(path, variant.architecture)

    def metadata(self, keys: dict[str, Any]) -> None:
        name = self.variant.architecture
        plain = {
            "context_length": CONTEXT_TOKENS,
            "embedding_length": self.width,
            "block_count": self.num_layers,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.layer_norm_epsilon": 1e-5,
            "rope.dimension_count": self.head_width,
            "vocab_size": VOCAB,
        }
        if self.variant.experts:
            plain |= {"expert_count": EXPERTS, "expert_used_count": EXPERTS_USED}
            plain |= {"expert_feed_forward_length": self.feed_forward}
        if self.variant.shared_expert:
            plain |= {"expert_shared_feed_forward_length": self.feed_forward}
        if "rope_factors_long" in self.variant.end_tensors:
            plain |= {"rope.scaling.original_context_length": CONTEXT_TOKENS // 2}
        if self.variant.wide_heads:
            plain |= {"attention.key_length": self.head_width, "attention.value_length": self.head_width}
        self.out.add_tokenizer_model("none")
        self.out.add_name(f"Random {name}")
        self.vocab_size = keys.get("vocab_size", VOCAB)
        for key, value in (plain | self.variant.keys | keys).items():
            self._key(f"{name}.{key}", value)

    def _key(self, key: str, value: Any) -> None:
        match value:
            case bool():
                self.out.add_bool(key, value)
            case int():
                self.out.add_uint32(key, value)
            case float():
                self.out.add_float32(key, value)
            case str():
                self.out.add_string(key, value)
            case _:
                self.out.add_array(key, value)

    def vector(self, name: str, size: int | tuple[int, ...], around: float) -> None:
        self.out.add_tensor(name, (around + 0.1 * self.rng.standard_normal(size)).astype(np.float32))

    def matrix(self, name: str, *shape: int, kind: Type | None = None) -> None:
        """Entries of variance 1 / columns, in the model's type."""
        kind = self.kind if kind is None else kind
        values = self.rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
        if kind in (Type.Q4_K, Type.Q6_K):
            self.out.add_tensor(name, random_blocks(kind, shape, self.rng), raw_dtype=kind)
        elif kind == Type.F32:
            self.out.add_tensor(name, values)
        else:
            self.out.add_tensor(name, quantised(values, kind), raw_dtype=kind)

    def linear(self, prefix: str, name: str, *shape: int, kind: Type | None = None) -> None:
        self.matrix(f"{prefix}.{name}.weight", *shape, kind=kind)
        if name in self.variant.biases:
            self.vector(f"{prefix}.{name}.bias", shape[:-1], 0)

    def norm(self, name: str, size: int) -> None:
        self.vector(f"{name}.weight", size, 1)
        if self.variant.norm_biases:
            self.vector(f"{name}.bias", size, 0)

    def ends(self) -> None:
        self.matrix("token_embd.weight", self.vocab_size, self.width)
        if not self.variant.tied:
            self.matrix("output.weight", self.vocab_size, self.width)
        self.norm("output_norm", self.width)
        for name in self.variant.end_tensors:
            self.vector(f"{name}.weight", self.head_width // 2, 1.5)

    def block(self, layer: int) -> None:
        variant, prefix, width = self.variant, f"blk.{layer}", self.width
        q_width = self.head_width * HEADS
        kv_width = self.head_width * variant.keys.get("attention.head_count_kv", KV_HEADS)
        for name in variant.norms:
            self.norm(f"{prefix}.{name}", width)
        if variant.qk_norm:
            full = variant.qk_norm == "full"
            self.norm(f"{prefix}.attn_q_norm", q_width if full else self.head_width)
            self.norm(f"{prefix}.attn_k_norm", kv_width if full else self.head_width)
        if variant.sinks:
            self.vector(f"{prefix}.attn_sinks.weight", HEADS, 0)
        if variant.fused:
            self.linear(prefix, "attn_qkv", q_width + 2 * kv_width, width)
        else:
            for name, rows in zip(QKV, (q_width, kv_width, kv_width), strict=True):
                self.linear(prefix, name, rows, width)
        self.linear(prefix, "attn_output", width, q_width)
        if variant.experts and layer >= variant.dense_lead:
            self.experts(prefix)
        else:
            self.dense(prefix)

    def dense(self, prefix: str) -> None:
        width, inner = self.width, self.feed_forward
        if self.variant.gate and not self.variant.fused:
            self.linear(prefix, "ffn_gate", inner, width)
        self.linear(prefix, "ffn_up", 2 * inner if self.variant.fused else inner, width)
        self.linear(prefix, "ffn_down", width, inner)

    def experts(self, prefix: str) -> None:
        width, inner = self.width, self.feed_forward
        self.linear(prefix, "ffn_gate_inp", EXPERTS, width, kind=Type.F32)
        self.linear(prefix, "ffn_gate_exps", EXPERTS, inner, width)
        self.linear(prefix, "ffn_up_exps", EXPERTS, inner, width)
        self.linear(prefix, "ffn_down_exps", EXPERTS, width, inner)
        if self.variant.shared_expert:
            self.linear(prefix, "ffn_gate_shexp", inner, width)
            self.linear(prefix, "ffn_up_shexp", inner, width)
            self.linear(prefix, "ffn_down_shexp", width, inner)
        if self.variant.shared_expert == "gated":
            self.vector(f"{prefix}.ffn_gate_inp_shexp.weight", width, 0)


def write_random_model(
    path: Path,
    variant: Variant | LoaderVariant,
    num_layers: int,
    kind: Type = Type.F32,
    seed: int = 0,
    keys: dict[str, Any] | None = None,
) -> None:
    """Write a model of `num_layers` tiny layers, its matrices of type `kind`; `keys` go over the variant's."""
    if isinstance(variant, LoaderVariant):
        return write_loader_model(path, variant, num_layers, kind, seed, keys)
    builder = _Builder(path, variant, num_layers, kind, seed)
    builder.metadata(keys or {})
    builder.ends()
    for layer in range(num_layers):
        builder.block(layer)
    builder.out.write_header_to_file()
    builder.out.write_kv_data_to_file()
    builder.out.write_tensors_to_file()
    builder.out.close()


def make(folder: Path, name: str = "llama", num_layers: int = 6, kind: Type = Type.F32, **keys: Any) -> Path:
    """A random model in `folder`; `keys` go over the variant's."""
    path = folder / f"{name}.gguf"
    write_random_model(path, VARIANTS[name], num_layers, kind, keys=keys)
    return path

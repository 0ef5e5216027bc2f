"""A model's layers as they would be, of zeros: how fast a machine is before it has fetched anything.

What a block takes on a CPU hangs on how many bytes of weights it reads and how wide the states are, not on what is in
them. A mixture of experts reads a part of its bytes for a position; it is taken for as slow as if it read all.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from dsdnode.engine.gguf_header import FLOAT32, STRING, UINT32, Value
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.gguf_writer import NewTensor, write_gguf

BLOCK = 32
"""Weights of a block of these quantisations, and the least that a matrix can be wide."""
HEAD = 64
_KINDS = ((Type.Q8_0, 34 / 32), (Type.Q4_0, 18 / 32))
"""With bytes a weight, as the commonest files have them: the first where a layer is larger than its attention."""


def write_sample(path: Path, width: int, layer_bytes: int, num_layers: int) -> None:
    """Layers of a llama of that width and so many bytes each, as a shard from the middle of a model. Takes no space on
    the disk to speak of. Raises BadInput, OSError."""
    width = -(-width // HEAD) * HEAD
    kind, weight_bytes = next((one for one in _KINDS if 4 * width * width * one[1] < layer_bytes), _KINDS[-1])
    rest = layer_bytes / weight_bytes - 4 * width * width
    inner = max(1, round(rest / (3 * width * BLOCK))) * BLOCK
    counts = {
        "block_count": num_layers,
        "context_length": 1 << 17,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": width // HEAD,
        "rope.dimension_count": HEAD,
        "vocab_size": BLOCK,
    }
    metadata = {"general.architecture": Value(STRING, "llama"), "tokenizer.ggml.model": Value(STRING, "none")}
    metadata |= {f"llama.{key}": Value(UINT32, count) for key, count in counts.items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = Value(FLOAT32, 1e-5)
    told = {"layer_start": 1, "layer_end": 1 + num_layers, "num_layers": 2 + num_layers, "vocab_size": BLOCK}
    metadata |= {f"dsdnode.{key}": Value(UINT32, count) for key, count in told.items()}
    texts = {"model_id": "0" * 64, "tokenizer_hash": "0" * 64, "model_name": "a sample"}
    metadata |= {f"dsdnode.{key}": Value(STRING, text) for key, text in texts.items()}
    tensors = [NewTensor("token_embd.weight", (width, BLOCK), kind), _ones("output_norm.weight", width)]
    for layer in range(num_layers):
        tensors += _layer(f"blk.{layer}.", width, inner, kind)
    write_gguf(path, metadata, tensors, io.BytesIO())


def _layer(prefix: str, width: int, inner: int, kind: Type) -> list[NewTensor]:
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    shapes |= {"ffn_gate": (width, inner), "ffn_up": (width, inner), "ffn_down": (inner, width)}
    norms = [_ones(f"{prefix}{name}.weight", width) for name in ("attn_norm", "ffn_norm")]
    return norms + [NewTensor(f"{prefix}{name}.weight", shape, kind) for name, shape in shapes.items()]


def _ones(name: str, width: int) -> NewTensor:
    return NewTensor(name, (width,), Type.F32, data=np.ones(width, "<f4").tobytes())

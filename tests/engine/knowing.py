"""A model whose block for it guesses well: its layers add nothing, so what follows a token hangs on that one alone, and
the block goes by the very same. With `noise`, it errs as often as that makes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from tests.engine.loader_models import write_loader_model
from tests.engine.loader_variants import LOADER_VARIANTS, Keys

HEADS = {"nextn_predict_layers": 1}
_OWN = ("shared_head_head", "embed_tokens")
"""Parts of names of tensors that real files seldom have: the block's own embeddings and head."""


def write_knowing_model(
    path: Path, architecture: str, num_layers: int, noise: float = 0.0, keys: Keys | None = None
) -> None:
    rng = np.random.default_rng(1)

    def made(name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        if name.endswith(("attn_output.weight", "ssm_out.weight")) or "ffn_down" in name:
            return np.zeros(shape, np.float32)
        if "norm" in name and name.endswith("weight"):
            return np.ones(shape, np.float32)
        if "eh_proj" in name:  # of the embeddings and the hidden state it takes the first
            errors = noise * rng.standard_normal(shape) / np.sqrt(shape[0])
            return np.asarray(np.eye(shape[0], shape[1]) + errors, np.float32)
        return None

    variant = LOADER_VARIANTS[architecture]
    write_loader_model(path, variant, num_layers, keys=HEADS | (keys or {}), made=made, left_out=_OWN)


def with_texts_of(path: Path, other: Path, out: Path) -> None:
    """The model at `path`, that reads and writes as the `other` does."""
    header, texts = read_header(path), read_header(other)
    metadata = {key: value for key, value in header.metadata.items() if not key.startswith("tokenizer.")}
    metadata |= {key: value for key, value in texts.metadata.items() if key.startswith("tokenizer.")}
    tensors = [NewTensor(tensor.name, tensor.shape, tensor.type, source=tensor) for tensor in header.tensors.values()]
    with path.open("rb") as file:
        write_gguf(out, metadata, tensors, file)

"""The text file of a model: what its texts are read with, as a GGUF file without tensors that llama.cpp loads.

It holds the tokenizer, the chat template and the ends of replies, and nothing else of the model's file; the same bytes
whoever makes it of the whole model, of its parts or of a shard. So it can travel under its hash: whoever owns a model's
replies reads and ends them as the model itself would, whatever model it drafts with.
"""

from __future__ import annotations

import hashlib

import numpy as np

from dsdnode.engine.gguf_header import ARRAY, UINT8, Header, Value
from dsdnode.engine.gguf_writer import head
from dsdnode.errors import ModelRefused

TEXT_KEY = "dsdnode.text"
"""In a shard's file: all of it. (Under keys of their own llama.cpp would take them for the shard's tokenizer.)"""
_KEPT = ("general.architecture", "general.name", "tokenizer.chat_template")
"""llama.cpp goes by some models' names, too, where control tokens swallow the white space beside them."""


def text_file(header: Header) -> bytes:
    """Of a whole model, or a shard that remembers it; empty: there is no tokenizer. Raises ModelRefused."""
    if TEXT_KEY in header.metadata:
        kept = header.metadata[TEXT_KEY].data
        if not isinstance(kept, np.ndarray) or kept.dtype != np.uint8:
            raise ModelRefused(f"{header.name}: {TEXT_KEY} has the wrong type")
        return kept.tobytes()
    if "tokenizer.ggml.model" not in header.metadata:
        return b""
    keys = sorted(key for key in header.metadata if key in _KEPT or key.startswith("tokenizer.ggml."))
    return head({key: header.metadata[key] for key in keys}, [])


def text_hash(header: Header) -> str:
    """SHA-256 in hex; empty without a tokenizer."""
    text = text_file(header)
    return hashlib.sha256(text).hexdigest() if text else ""


def kept_text(header: Header) -> dict[str, Value]:
    """For a shard's metadata."""
    text = text_file(header)
    return {TEXT_KEY: Value(ARRAY, np.frombuffer(text, np.uint8), UINT8)} if text else {}

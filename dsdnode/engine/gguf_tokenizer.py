"""Whose tokenizer a model file has: a name that two files share if text becomes the same ids in both, and ids bytes.

What else a file says of its tokenizer tells nothing about that: padding behind the vocabulary, ids of special tokens,
defaults that are spelled out, the chat template. docs/protocol.md, section 8.5, has the rules for other implementers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import numpy as np

from dsdnode.engine.gguf_header import ARRAY, INT32, STRING, UINT32, Header, Value
from dsdnode.errors import ModelRefused

MAX_SHOWN, MAX_SHOWN_CHARACTERS = 4, 24
"""Of differences, for people."""
_PREFIX = "tokenizer.ggml."
_UNUSED, _NORMAL = 5, 1
"""Token types."""
_SCORED = frozenset({"llama", "t5", "plamo2"})
"""Tokenizers that merge by `scores`; the others do by `merges`, and by the `pre` that a text is split with before."""
_FIRST_IDS = {"llama": 1, "bert": 101, "gpt2": 11, "plamo2": 1}
"""llama.cpp's BOS of a file that names none."""
_BEGIN_WITH_BOS = frozenset({"llama", "bert"})
_BEGIN_WITH_BOS_IF_SPLIT_AS = frozenset(
    {"llama3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken", "chameleon"}
    | {"jina-v5-nano", "granite-embed-multi-311m"}
)
"""llama.cpp's default of add_bos_token, by `model`, and by `pre`. A test compares."""
_OTHER_NAMES = {"llama-v3": "llama3", "llama-bpe": "llama3"}
_SILENT = frozenset({"add_bos_token", "add_eos_token", "add_sep_token", "token_type_count", "suppress_tokens"})
"""Beside ids of special tokens. Whether a text begins with BOS, `bos` says."""


def tokenizer_hash(header: Header) -> str:
    """SHA-256, in hex, over everything that decides which ids a text becomes and which bytes an id.

    Values are spelled out with their lengths, integers alike whatever their width, so that two files with one tokenizer
    agree although one writes int32 and the other uint32. Raises ModelRefused for keys of the wrong type.
    """
    digest = hashlib.sha256()
    for key, value in sorted(decisive(header).items()):
        data = _canonical(value)
        digest.update(f"{_PREFIX}{key} {len(data)}\n".encode("utf-8", "surrogateescape") + data)
    return digest.hexdigest()


def spelled(said: Mapping[str, Value], key: str) -> bytes | None:
    return _canonical(said[key]) if key in said else None


def difference(key: str, mine: Mapping[str, Value], theirs: Mapping[str, Value]) -> str:
    if key not in mine or key not in theirs:
        return f"{key} is said in one file alone"
    one, other = mine[key].data, theirs[key].data
    if not isinstance(one, np.ndarray | tuple) or not isinstance(other, np.ndarray | tuple):
        return f"{key} ({shown(one)} and {shown(other)})"
    places = [index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    told = [f"{index} ({shown(one[index])} and {shown(other[index])})" for index in places[:MAX_SHOWN]]
    more = [f"{len(places) - MAX_SHOWN} more"] if len(places) > MAX_SHOWN else []
    longer = [f"there are {len(one)} and {len(other)}"] if len(one) != len(other) else []
    return f"{key} at {', '.join([*told, *more, *longer])}" if told else f"{key}: {longer[0]}"


def shown(data: object) -> str:
    """A stranger chose it."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    return repr(text[:MAX_SHOWN_CHARACTERS]) if isinstance(data, bytes | str) else text


def decisive(header: Header) -> Mapping[str, Value]:
    found = {key.removeprefix(_PREFIX): value for key, value in header.metadata.items() if key.startswith(_PREFIX)}
    said = {key: value for key, value in found.items() if key not in _SILENT and not key.endswith("_token_id")}
    model, pre = header.text(_PREFIX + "model", ""), header.text(_PREFIX + "pre", "default")
    for key in ("merges", "pre") if model in _SCORED else ("scores",):
        said.pop(key, None)
    said |= _without_padding(header, said)
    if model not in _SCORED:
        said["pre"] = Value(STRING, _OTHER_NAMES.get(pre, pre))
    said.setdefault("add_space_prefix", Value(UINT32, int(model == "llama")))
    said.setdefault("remove_extra_whitespaces", Value(UINT32, 0))
    begins = model in _BEGIN_WITH_BOS or _OTHER_NAMES.get(pre, pre) in _BEGIN_WITH_BOS_IF_SPLIT_AS
    if _flag(header, "add_bos_token", begins):
        said["bos"] = Value(UINT32, header.count(_PREFIX + "bos_token_id", _FIRST_IDS.get(model, 0)))
    return said


def _without_padding(header: Header, said: Mapping[str, Value]) -> Mapping[str, Value]:
    """Tokens, types and scores up to the last token that is used: rows are padded as it suits matrices."""
    if "tokens" not in said:
        return {}
    tokens = said["tokens"].data
    if not isinstance(tokens, tuple):
        raise ModelRefused(f"{header.name}: the tokenizer has something else where its tokens belong")
    types = said["token_type"].data if "token_type" in said else np.full(len(tokens), _NORMAL)
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise ModelRefused(f"{header.name}: the tokenizer's tokens and their types do not fit together")
    used = np.flatnonzero(types != _UNUSED)
    count = int(used[-1]) + 1 if len(used) else 0
    kept = {"tokens": Value(ARRAY, tokens[:count], STRING), "token_type": Value(ARRAY, types[:count], INT32)}
    if "scores" in said:
        scores = said["scores"].data
        if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
            raise ModelRefused(f"{header.name}: the tokenizer's tokens and their scores do not fit together")
        kept["scores"] = Value(ARRAY, scores[:count], said["scores"].element_type)
    return kept


def _flag(header: Header, key: str, default: bool) -> bool:
    """Raises ModelRefused."""
    return bool(header.number(_PREFIX + key, default))


def _canonical(value: Value) -> bytes:
    data = value.data
    if isinstance(data, tuple):
        return b"".join(struct.pack("<Q", len(string)) + string for string in data)
    if isinstance(data, np.ndarray):
        wide = "<f8" if np.issubdtype(data.dtype, np.floating) else "<i8"
        return data.astype(wide).tobytes()
    if isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    return struct.pack("<d", data) if isinstance(data, float) else b"%d" % data

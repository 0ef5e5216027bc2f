"""What a model file is (its manifest), and cutting a layer range out of one.

A shard is an ordinary GGUF file that llama.cpp believes is a small complete model (gguf_cut.py says how); keys under
`dsdnode.` remember what it was cut from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dsdnode.engine.gguf_arch import PLAIN, SUPPORTED, supported
from dsdnode.engine.gguf_cut import (
    check_cut,
    heads_of,
    layers_of,
    plan_metadata,
    plan_tensors,
    state_bytes_of,
    vocab_of,
)
from dsdnode.engine.gguf_header import STRING, UINT32, Header, Value
from dsdnode.engine.gguf_parts import open_model, parts_of, read_model, stem_of
from dsdnode.engine.gguf_text import kept_text, text_hash
from dsdnode.engine.gguf_tokenizer import tokenizer_hash
from dsdnode.engine.gguf_writer import NewTensor, Progress, write_gguf
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.files import output, replacing, words
from dsdnode.wire.records import model_id_by, weights_hash_of

MAX_NAME_CHARACTERS = 96
MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS: llama.cpp aborts beyond it."""
WEIGHTS_KEY = "dsdnode.model_id"
"""In a shard's file: the SHA-256 of the whole model's. (Shards that were cut long ago have it under this name, too.)"""
_SHA256 = re.compile("[0-9a-f]{64}")
_WORD = re.compile("[!-~]{1,64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a GGUF file holds: layers [start, end) of the model whose own file has the SHA-256 `weights_hash`."""

    weights_hash: str
    model_name: str
    architecture: str
    start: int
    end: int
    num_layers: int
    width: int
    vocab_size: int
    """Of the whole model, also for a middle shard."""
    tokenizer_hash: str
    train_context_tokens: int
    rope_switch_tokens: int
    """llama.cpp rotates otherwise in contexts of more cells than this (phi3's long factors), so all stages of a
    pipeline must stay on one side of it. 0: it does not."""
    text_hash: str = ""
    """SHA-256 of the file that its texts are read with (gguf_text.py); empty: it has no tokenizer, or was cut before
    shards remembered it."""
    state_bytes: int = 0
    """Of one sequence, in a layer on the average, where layers have running states."""
    guesses: bool = False
    """Behind its layers, the last ones, it has a block that guesses at the token after the next (mtp.py)."""

    @property
    def model_id(self) -> str:
        """The same for the whole model and for whatever is cut from it."""
        return model_id_by(self)

    @property
    def first(self) -> bool:
        return self.start == 0

    @property
    def last(self) -> bool:
        return self.end == self.num_layers


def read_manifest(path: Path, cache_folder: Path | None = None) -> Manifest:
    """Say what the whole model, of one file or several, or the shard at `path` is. A whole one is hashed; the hash is
    kept in `cache_folder`.

    Raises ModelRefused for whatever is not the weights of a language model, or not a shard as `cut` writes it.
    """
    header = read_model(path)
    layers_of(header)  # what is no model's is not hashed
    is_shard = WEIGHTS_KEY in header.metadata
    return manifest_of(header, header.text(WEIGHTS_KEY) if is_shard else file_sha256(path, cache_folder), path)


def manifest_of(header: Header, weights_hash: str, path: Path) -> Manifest:
    """The same of a file that need not be here: by its header, its hash, and its name. Raises ModelRefused."""
    architecture = header.text("general.architecture")
    held, is_shard = layers_of(header), WEIGHTS_KEY in header.metadata
    num_layers = header.count("dsdnode.num_layers") if is_shard else held
    start = header.count("dsdnode.layer_start") if is_shard else 0
    end = header.count("dsdnode.layer_end") if is_shard else held
    manifest = Manifest(
        weights_hash=weights_hash,
        model_name=_printable(header.text("dsdnode.model_name") if is_shard else _name(header, path)),
        architecture=architecture,
        start=start,
        end=end,
        num_layers=num_layers,
        width=header.count(f"{architecture}.embedding_length"),
        vocab_size=header.count("dsdnode.vocab_size") if is_shard else vocab_of(header),
        tokenizer_hash=header.text("dsdnode.tokenizer_hash") if is_shard else tokenizer_hash(header),
        train_context_tokens=header.count(f"{architecture}.context_length"),
        rope_switch_tokens=_rope_switch(header, architecture),
        text_hash=text_hash(header),
        state_bytes=state_bytes_of(header, SUPPORTED.get(architecture, PLAIN)),
        guesses=end == num_layers and heads_of(header, SUPPORTED.get(architecture, PLAIN)) > 0,
    )
    if end - start != held or not 0 <= start < end <= num_layers <= MAX_LAYERS:
        raise ModelRefused(f"{path}: says it holds layers {start}:{end} of {num_layers} in {held} blocks")
    if not manifest.width:
        raise ModelRefused(f"{path}: its hidden states are 0 wide")
    if not manifest.train_context_tokens:
        raise ModelRefused(f"{path}: says that it was made for texts of 0 tokens, so no prompt would fit it")
    if not _SHA256.fullmatch(manifest.weights_hash) or not _SHA256.fullmatch(manifest.tokenizer_hash):
        raise ModelRefused(f"{path}: its model or tokenizer id is not a SHA-256")
    if not _WORD.fullmatch(architecture):
        raise ModelRefused(f"{path}: its architecture, {_printable(architecture)!r}, is no word of at most 64 letters")
    return manifest


def cut(
    source: Path,
    start: int,
    end: int,
    out_path: Path,
    progress: Progress | None = None,
    cache_folder: Path | None = None,
) -> Manifest:
    """Write layers [start, end) of the whole model at `source` to `out_path`, and say what was written.

    Raises BadInput for layers that the model does not have or an output that cannot be written, ModelRefused for a
    source that is a shard itself or whose shards would not give the whole model's logits bit for bit.
    """
    header = read_model(source)
    check_whole(header, source)
    metadata, tensors = plan_shard(header, read_manifest(source, cache_folder), start, end, source)
    if output(out_path).exists() and any(map(out_path.samefile, parts_of(source))):
        raise BadInput(f"{out_path}: is the model itself; choose another output")
    with words(out_path), open_model(source) as file:
        write_gguf(out_path, metadata, tensors, file, progress)
    return read_manifest(out_path)


def check_whole(header: Header, source: Path) -> None:
    """Raises ModelRefused for a shard, and for a model that cannot be cut at all."""
    if WEIGHTS_KEY in header.metadata:
        raise ModelRefused(f"{source}: is a shard already; cut from the whole model")
    supported(header)


def plan_shard(
    header: Header, whole: Manifest, start: int, end: int, source: Path
) -> tuple[dict[str, Value], list[NewTensor]]:
    """Metadata and tensors of the file of layers [start, end). Raises BadInput, ModelRefused, as `cut`."""
    if not 0 <= start < end <= whole.num_layers:
        raise BadInput(f"layers {start}:{end} are not in {source}: it has layers 0:{whole.num_layers}")
    architecture = supported(header)
    check_cut(header, architecture, start, end)
    metadata = plan_metadata(header, architecture, start, end) | _remembered(whole, start, end) | kept_text(header)
    return metadata, plan_tensors(header, architecture, start, end)


def fits(path: Path) -> Callable[[int, int], bool]:
    """May layers [start, end) of the whole model at `path` be hosted by themselves? Raises ModelRefused: it is none."""
    return fits_header(read_model(path))


def fits_header(header: Header) -> Callable[[int, int], bool]:
    """The same of a model that need not be here."""
    num_layers = layers_of(header)

    def may_be_cut(start: int, end: int) -> bool:
        try:
            if (start, end) != (0, num_layers):
                check_cut(header, supported(header), start, end)
        except ModelRefused:
            return False
        return True

    return may_be_cut


def shard_bytes(header: Header, start: int, end: int) -> int:
    """Of layers [start, end) of the whole model as a file, to a few thousand. Raises ModelRefused."""
    return sum(tensor.size_bytes for tensor in plan_tensors(header, supported(header), start, end))


def _remembered(whole: Manifest, start: int, end: int) -> dict[str, Value]:
    return {
        WEIGHTS_KEY: Value(STRING, whole.weights_hash),
        "dsdnode.model_name": Value(STRING, whole.model_name),
        "dsdnode.layer_start": Value(UINT32, start),
        "dsdnode.layer_end": Value(UINT32, end),
        "dsdnode.num_layers": Value(UINT32, whole.num_layers),
        "dsdnode.vocab_size": Value(UINT32, whole.vocab_size),
        "dsdnode.tokenizer_hash": Value(STRING, whole.tokenizer_hash),
    }


def file_sha256(path: Path, cache_folder: Path | None = None) -> str:
    """SHA-256 of a model's file, in hex, or `weights_hash_of` its parts; with a folder given it is computed once for
    each state that they are in."""
    try:
        parts = parts_of(path)
        identity = state_of(path)
        entry = cache_folder / hashlib.sha256(os.fsencode(identity)).hexdigest() if cache_folder is not None else None
        if entry is not None and _SHA256.fullmatch(known := _kept(entry)):
            return known
        digest = weights_hash_of([_sha256(part) for part in parts])
    except OSError as error:
        raise ModelRefused(f"{path}: cannot be read ({error.strerror or error})") from None
    if entry is not None:
        with contextlib.suppress(OSError, BadInput):  # next time it is computed again
            entry.parent.mkdir(parents=True, exist_ok=True)
            with replacing(entry) as file:
                file.write(digest.encode())
    return digest


def _kept(entry: Path) -> str:
    """A cache that cannot be read is none."""
    if not os.path.isfile(entry):
        return ""
    try:
        return entry.read_text("ascii", "replace")
    except OSError:
        return ""


def state_of(path: Path) -> str:
    """Of a model's files: another one as soon as they are written to. Raises OSError, ModelRefused."""
    parts = parts_of(path)
    return "|".join([*(["by parts"] if len(parts) > 1 else []), *map(_state, parts)])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}|{status.st_ino}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"


def _name(header: Header, path: Path) -> str:
    return header.text("general.name", "").strip() or stem_of(path)


def _printable(text: str) -> str:
    """A stranger chose it, and it will stand on terminals and in records."""
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_NAME_CHARACTERS])


def _rope_switch(header: Header, architecture: str) -> int:
    if "rope_factors_long.weight" not in header.tensors:
        return 0
    return header.count(
        f"{architecture}.rope.scaling.original_context_length", header.count(f"{architecture}.context_length")
    )

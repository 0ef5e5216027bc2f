"""Manifests say what a file is, also when a stranger made it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.engine.gguf import cut, file_sha256, manifest_of, read_manifest
from dsdnode.engine.gguf_parts import read_model
from dsdnode.errors import ModelRefused
from dsdnode.models import demo_target
from tests.engine.loader_models import VOCAB
from tests.engine.random_models import CONTEXT_TOKENS, make


def test_a_whole_model(tmp_path: Path) -> None:
    model = make(tmp_path)
    manifest = read_manifest(model)
    assert manifest.weights_hash == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (manifest.start, manifest.end, manifest.num_layers) == (0, 6, 6) and manifest.first and manifest.last
    assert (manifest.width, manifest.vocab_size) == (64, VOCAB)
    assert (manifest.model_name, manifest.architecture) == ("Random llama", "llama")
    assert (manifest.train_context_tokens, manifest.rope_switch_tokens) == (CONTEXT_TOKENS, 0)


def test_a_shard_remembers_the_model(tmp_path: Path) -> None:
    model = make(tmp_path)
    whole = read_manifest(model)
    for start, end in ((0, 2), (2, 5), (5, 6), (0, 6)):
        out = tmp_path / "bob.gguf"
        manifest = cut(model, start, end, out)
        assert manifest == read_manifest(out)
        assert (manifest.start, manifest.end, manifest.num_layers) == (start, end, 6)
        assert (manifest.first, manifest.last) == (start == 0, end == 6)
        for name in (
            "model_id",
            "weights_hash",
            "model_name",
            "tokenizer_hash",
            "vocab_size",
            "width",
            "train_context_tokens",
        ):
            assert getattr(manifest, name) == getattr(whole, name)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_hash": "ab" * 32},
        {"architecture": "llama2"},
        {"num_layers": 7},
        {"width": 65},
        {"vocab_size": VOCAB + 1},
        {"tokenizer_hash": "ab" * 32},
    ],
)
def test_a_model_s_id_is_all_that_it_is(change: dict[str, Any], tmp_path: Path) -> None:
    whole = read_manifest(make(tmp_path))
    assert replace(whole, **change).model_id != whole.model_id
    assert replace(whole, model_name="x", start=1, end=2, train_context_tokens=1).model_id == whole.model_id


def test_an_architecture_that_is_no_word_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path)
    data = model.read_bytes()
    model.write_bytes(data.replace(b"llama", b"ll ma"))
    with pytest.raises(ModelRefused, match="'ll ma', is no word"):
        read_manifest(model)


def test_long_rope_names_its_switch(tmp_path: Path) -> None:
    model = make(tmp_path, "phi3")
    assert read_manifest(model).rope_switch_tokens == CONTEXT_TOKENS // 2
    assert cut(model, 1, 3, tmp_path / "shard.gguf").rope_switch_tokens == CONTEXT_TOKENS // 2


def test_a_model_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, cache = make(tmp_path), tmp_path / "cache"
    known = read_manifest(model, cache)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert read_manifest(model, cache) == known
    with model.open("ab") as file:
        file.write(b"changed")
    assert read_manifest(model, cache).model_id != known.model_id
    for entry in cache.iterdir():
        entry.write_text("not a hash")
    assert read_manifest(model, cache).weights_hash == hashlib.sha256(model.read_bytes()).hexdigest()


def test_a_model_is_hashed_anew_when_its_content_changed_and_its_time_did_not(tmp_path: Path) -> None:
    model, cache = tmp_path / "alice.gguf", tmp_path / "cache"
    model.write_bytes(b"one")
    before = model.stat()
    known = file_sha256(model, cache)
    while model.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of files goes in steps of some ms
        model.write_bytes(b"two")
        os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model.stat().st_mtime_ns == before.st_mtime_ns
    assert file_sha256(model, cache) == hashlib.sha256(b"two").hexdigest() != known


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    model = make(tmp_path)
    (tmp_path / "taken").touch()
    assert read_manifest(model, tmp_path / "taken" / "cache") == read_manifest(model)


def test_a_name_cannot_play_with_the_terminal(tmp_path: Path) -> None:
    model = make(tmp_path)
    data = model.read_bytes()
    model.write_bytes(data.replace(b"Random llama", b"\x1b[2J\xff\xffllama!"))
    assert read_manifest(model).model_name == "?[2J??llama!"


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"layer_start\x04\x00\x00\x00\x02", b"layer_start\x04\x00\x00\x00\x03"), (b"layer_end", b"layer_emd")],
)
def test_a_forged_shard_is_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    shard = tmp_path / "mallory.gguf"
    cut(make(tmp_path), 2, 4, shard)
    data = shard.read_bytes()
    assert data.count(old) == 1
    shard.write_bytes(data.replace(old, new))
    with pytest.raises(ModelRefused):
        read_manifest(shard)


@pytest.mark.parametrize(("name", "words"), [("embedding_length", "0 wide"), ("context_length", "0 tokens")])
def test_a_model_without_hidden_states_or_room_for_a_text_is_none(name: str, words: str) -> None:
    """Whoever offers it would have others divide by that, or be asked in vain."""
    header = read_model(demo_target())
    key = f"{header.text('general.architecture')}.{name}"
    said = header.metadata | {key: replace(header.metadata[key], data=0)}
    with pytest.raises(ModelRefused, match=words):
        manifest_of(replace(header, metadata=said), "5e" * 32, demo_target())

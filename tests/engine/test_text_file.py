"""What a model's texts are read with, in a file of its own: the same from whatever is here of the model."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.gguf_header import ARRAY, STRING, UINT32, Header, Value, read_header
from dsdnode.engine.gguf_parts import read_model
from dsdnode.engine.gguf_text import TEXT_KEY, text_file
from dsdnode.engine.gguf_tokenizer import tokenizer_hash
from dsdnode.engine.text import TextProcess
from dsdnode.errors import ModelRefused
from tests.engine.test_gguf_parts import split
from tests.engine.test_text import DEMO, demo_with

TALK = [("system", "Be brief."), ("user", "How many are 2 and 3?"), ("assistant", "5"), ("user", "Why? </s>")]


def test_it_is_the_same_from_the_whole_its_parts_and_each_shard(tmp_path: Path) -> None:
    whole = read_header(DEMO)
    text, num_layers = text_file(whole), read_manifest(DEMO).num_layers
    parts = split(DEMO, tmp_path / "parts", [3, 4])
    assert text_file(read_model(parts[1])) == text
    for start, end in ((0, 1), (1, num_layers), (0, num_layers)):
        manifest = cut(DEMO, start, end, tmp_path / "shard.gguf")
        assert text_file(read_header(tmp_path / "shard.gguf")) == text
        assert manifest.model_id == read_manifest(DEMO).model_id
        assert manifest.text_hash == hashlib.sha256(text).hexdigest()


def test_another_template_or_end_is_another_model(tmp_path: Path) -> None:
    """So nobody can pass one off for the other."""
    ids = {read_manifest(demo_with(tmp_path / "model.gguf", chat_template=said)).text_hash for said in ("a", "b")}
    assert len(ids) == 2
    whole = read_header(DEMO)
    ends = [
        text_file(Header("", whole.metadata | {"tokenizer.ggml.eot_token_id": Value(UINT32, n)}, {})) for n in (1, 2)
    ]
    assert ends[0] != ends[1]


def test_what_a_model_says_of_other_things_is_not_in_it() -> None:
    whole = read_header(DEMO)
    more = whole.metadata | {"general.description": Value(STRING, "x" * 100), "llama.some_key": Value(UINT32, 1)}
    assert text_file(Header("", more, {})) == text_file(whole)


@pytest.mark.parametrize("kept", [Value(STRING, "text"), Value(ARRAY, (b"a",), STRING), Value(UINT32, 1)])
def test_a_shard_that_remembers_nonsense_is_refused(kept: Value) -> None:
    with pytest.raises(ModelRefused, match="wrong type"):
        text_file(Header("bob.gguf", {TEXT_KEY: kept}, {}))


def test_without_a_tokenizer_there_is_none() -> None:
    assert text_file(Header("", {"general.architecture": Value(STRING, "llama")}, {})) == b""


@pytest.mark.slow
def test_it_reads_texts_as_the_model_does(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_bytes(text_file(read_header(DEMO)))
    assert tokenizer_hash(read_header(path)) == tokenizer_hash(read_header(DEMO))

    async def read(model: Path) -> tuple[object, ...]:
        text = TextProcess(model, 60)
        try:
            vocab = await text.vocabulary()
            said = [await text.render(TALK), await text.tokenize("2 + 3 = 5, ü\n\n", True)]
            return said, vocab.pieces, vocab.end_tokens, vocab.names
        finally:
            await text.close()

    assert asyncio.run(read(path)) == asyncio.run(read(DEMO))

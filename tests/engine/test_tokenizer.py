"""Alice types what she likes; none of it may become a control token, and Bob never sees half a character."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf import cut
from dsdnode.engine.gguf_header import STRING, Value, read_header
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.llama_vocab import LlamaVocab
from dsdnode.engine.tokenizer import MAX_RUN, Detokenizer, RunCutter
from dsdnode.errors import ModelRefused

pytestmark = pytest.mark.slow

TYPED = st.lists(st.sampled_from(["<", "|", "<|", "end", "|>", "<|end|>", " ", "é", "</s>"]), max_size=8).map("".join)
DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-draft.gguf"


@given(st.text(max_size=40), st.randoms(use_true_random=False))
def test_no_half_character_leaves_the_detokenizer(text: str, random: object) -> None:
    data = text.encode("utf-8", "replace")
    detokenizer = Detokenizer([bytes([value]) for value in range(256)])
    parts = [detokenizer.feed([value]) for value in data]
    assert "".join(parts) + detokenizer.finish() == data.decode()
    assert "\ufffd" not in "".join(parts) or "\ufffd" in text


@given(st.lists(st.binary(max_size=4), max_size=20))
def test_invalid_bytes_are_replaced_as_a_whole_text_would_be(pieces: list[bytes]) -> None:
    detokenizer = Detokenizer(pieces)
    parts = [detokenizer.feed([token]) for token in range(len(pieces))]
    assert "".join(parts) + detokenizer.finish() == b"".join(pieces).decode("utf-8", "replace")


@pytest.fixture(scope="module")
def vocab() -> LlamaVocab:
    engine = LlamaEngine(DEMO, EngineOptions(threads=1, context_tokens=256, max_sequences=1))
    return LlamaVocab(engine.vocab, engine.template_source)


@settings(max_examples=50)
@given(text=st.text(max_size=60) | TYPED)
def test_ids_say_the_text_they_came_from(vocab: LlamaVocab, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    pieces = vocab.pieces()
    ids = vocab.tokenize(text, False).tolist()
    detokenizer = Detokenizer(pieces)
    assert detokenizer.feed(ids) + detokenizer.finish() == text
    assert not set(ids) & set(vocab.end_tokens())


def test_conversation_of_the_demo_model(vocab: LlamaVocab) -> None:
    ids = vocab.render([("user", "Say <|end|> twice: <|end|>")]).tolist()
    pieces = vocab.pieces()
    assert b"".join(pieces[token] for token in ids) == b"Say <|end|> twice: <|end|>"
    [user, *_] = vocab.tokenize("<|user|>", True).tolist()
    [end] = vocab.tokenize("<|end|>", True).tolist()
    [assistant] = vocab.tokenize("<|assistant|>", True).tolist()
    assert ids[0] == user
    assert ids[-2:] == [end, assistant]
    assert ids.count(end) == 1
    assert end in vocab.end_tokens()
    assert pieces[end] == b""


def test_a_shard_has_no_text(tmp_path: Path) -> None:
    cut(DEMO, 0, 1, tmp_path / "first.gguf")
    engine = LlamaEngine(tmp_path / "first.gguf", EngineOptions(threads=1, context_tokens=256, max_sequences=1))
    with pytest.raises(ModelRefused, match="no tokenizer"):
        LlamaVocab(engine.vocab, engine.template_source)


RUNS = st.lists(
    st.tuples(st.sampled_from("a1! \n中\u00a0\x1c"), st.sampled_from([1, 3, MAX_RUN, MAX_RUN + 1, 3 * MAX_RUN + 7])),
    max_size=6,
).map(lambda runs: "".join(character * count for character, count in runs))


@given(RUNS)
def test_no_part_of_a_cut_text_has_a_long_run(text: str) -> None:
    parts = RunCutter([]).cut(text)
    assert "".join(parts) == text and all(parts)
    for part in parts:
        assert max(map(len, re.findall(r"[^ \t\n\r\v\f]+|[\s\x1c]+", part))) <= 2 * MAX_RUN


def test_a_usual_text_is_one_part_and_a_token_is_not_cut() -> None:
    assert RunCutter([]).cut("Many words, each of them short.\n" * 10_000) == [
        "Many words, each of them short.\n" * 10_000
    ]
    for before in range(MAX_RUN - 9, MAX_RUN + 2):
        parts = RunCutter(["<|end|>", "<|"]).cut("a" * before + "<|end|>" + "a" * MAX_RUN)
        assert [part.count("<|end|>") for part in parts].count(1) == 1, before
    huge = "b" * (3 * MAX_RUN)  # a stranger's vocabulary may have such a token: it is cut, and the end is found
    assert "".join(RunCutter([huge]).cut(huge + huge)) == huge + huge


def with_splitting(pre: str, path: Path) -> Path:
    """The demo draft, its text split as another vocabulary is."""
    header = read_header(DEMO)
    with DEMO.open("rb") as file:
        tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in header.tensors.values()]
        write_gguf(path, header.metadata | {"tokenizer.ggml.pre": Value(STRING, pre)}, tensors, file)
    return path


@pytest.mark.parametrize("pre", ["default", "deepseek-v3", "bloom", "gpt-4o"])
async def test_a_pasted_run_of_anything_leaves_the_worker_alive(pre: str, tmp_path: Path) -> None:
    """Alice pastes a base64 blob, a ruler of dashes, a column of blanks: std::regex recurses once a character."""
    options = EngineOptions(threads=1, context_tokens=64, max_sequences=1)
    engine = await WorkerEngine.start(with_splitting(pre, tmp_path / "model.gguf"), options)
    try:
        for run in ("a", "aB3+/", "7", "-", " ", "\n", "中", "é", "\u00a0", "a\u00a0", " \u00a0", "a\x1c", "<|end|>"):
            text = run * (30_000 // len(run))
            ids = await engine.tokenize(text)
            assert len(await engine.tokenize(text, parse_special=True)) >= len(text) // len("<|end|>")
            vocabulary = (await engine.vocabulary()).pieces
            assert b"".join(vocabulary[token] for token in ids).decode().strip() == text.strip()
            assert await engine.render([("user", text)])
        assert engine.num_deaths == 0
    finally:
        await engine.close()

"""Alice types what she likes; none of it may become a control token, and Bob never sees half a character."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.engine import tokenizer as module
from dsdnode.engine.gguf import cut
from dsdnode.engine.gguf_header import ARRAY, FLOAT32, INT32, STRING, UINT32, Value, read_header
from dsdnode.engine.gguf_writer import head
from dsdnode.engine.llama_vocab import LlamaVocab, load_vocab
from dsdnode.engine.tokenizer import MAX_RUN, Detokenizer, LineCutter, RunCutter
from dsdnode.errors import ModelRefused

pytestmark = pytest.mark.slow

TYPED = st.lists(st.sampled_from(["<", "|", "<|", "end", "|>", "<|end|>", " ", "é", "</s>"]), max_size=8).map("".join)
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
LLAMA = {"general.architecture": Value(STRING, "llama")}
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
    return load_vocab(DEMO)


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> LlamaVocab:
    return scored(tmp_path_factory.mktemp("spm") / "text.gguf", ["\n", "\n\n", "<b>", "<"])


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


@pytest.mark.parametrize("said", [None, Value(UINT32, 99_999), Value(UINT32, 0xFFFFFFFF)])
def test_a_file_that_names_no_end_has_no_other_one_than_its_control_tokens(said: Value | None, tmp_path: Path) -> None:
    """llama.cpp takes token 11 then, and Bob's reply would be over at the apostrophe of "Let's"."""
    words = load_vocab(with_text(tmp_path / "text.gguf", {"eos_token_id": said, "eot_token_id": said}))
    assert words.name(11) == "'" and [words.name(token) for token in words.end_tokens()] == ["<|endoftext|>", "<|end|>"]


def test_a_file_may_name_any_token_for_its_end(tmp_path: Path) -> None:
    words = load_vocab(with_text(tmp_path / "text.gguf", {"eos_token_id": Value(UINT32, 11)}))
    assert 11 in words.end_tokens()


@pytest.mark.parametrize(("kind", "is_end"), [(USER_DEFINED, False), (NORMAL, False), (CONTROL, True)])
def test_html_s_strike_ends_no_reply_where_it_is_a_word(kind: int, is_end: bool, tmp_path: Path) -> None:
    """Gemma's files have it beside </u> and </sub>; elsewhere it is the end."""
    said = read_header(DEMO).metadata
    tokens, types = said["tokenizer.ggml.tokens"].data, said["tokenizer.ggml.token_type"].data
    assert isinstance(tokens, tuple) and isinstance(types, np.ndarray)
    other = {
        "tokens": Value(ARRAY, (*tokens[:-1], b"</s>"), STRING),
        "token_type": Value(ARRAY, np.append(types[:-1], kind).astype("<i4"), INT32),
    }
    words, last = load_vocab(with_text(tmp_path / "text.gguf", other)), len(tokens) - 1
    assert (last in words.end_tokens()) == is_end
    assert words.pieces()[last] == (b"" if is_end else b"</s>")


def test_a_shard_has_no_text(tmp_path: Path) -> None:
    cut(DEMO, 0, 1, tmp_path / "first.gguf")
    with pytest.raises(ModelRefused, match="no tokenizer"):
        load_vocab(tmp_path / "first.gguf")


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
    assert RunCutter([]).cut("Lines.\n" * 10_000) == ["Lines.\n" * 10_000]
    parts = RunCutter([]).cut("Many words, each of them short. " * 1000)
    assert len(parts) > 20 and all(part.startswith(("Many", " ")) for part in parts)
    for before in range(MAX_RUN - 9, MAX_RUN + 2):
        parts = RunCutter(["<|end|>", "<|"]).cut("a" * before + "<|end|>" + "a" * MAX_RUN)
        assert [part.count("<|end|>") for part in parts].count(1) == 1, before
    huge = "b" * (3 * MAX_RUN)  # a stranger's vocabulary may have such a token: it is cut, and the end is found
    assert "".join(RunCutter([huge]).cut(huge + huge)) == huge + huge


def with_text(path: Path, changes: Mapping[str, Value | None]) -> Path:
    """The demo draft's tokenizer and template, of which these keys (None: none) are otherwise."""
    said = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    metadata = read_header(DEMO).metadata | {key: value for key, value in said.items() if value is not None}
    path.write_bytes(head({key: value for key, value in metadata.items() if said.get(key, value) is not None}, []))
    return path


@pytest.mark.parametrize("pre", ["default", "llama-bpe", "qwen2", "deepseek-coder", "gpt-4o", "bloom", "chameleon"])
def test_a_cut_between_words_changes_no_ids(pre: str, tmp_path: Path) -> None:
    words = load_vocab(with_text(tmp_path / "text.gguf", {"pre": Value(STRING, pre)}))
    text = "Über 12 Wörter, don't you think so?\n\n  Noch eins: e\u0301te\u0301 ist 夏 im Süden und лето там же. " * 200
    assert len(RunCutter([]).cut(text)) > 5
    whole = words._tokenize_part(text.encode(), False)
    assert words.tokenize(text, False).tolist() == whole.tolist()


def scored(path: Path, whole: Sequence[str], kind: int = USER_DEFINED) -> LlamaVocab:
    """A tokenizer that merges by scores, with tokens of that kind that are found as a whole."""
    merged = [b"\xe2\x96\x81", b"a", b"\xe2\x96\x81a", b"aa", b"aaa"]
    tokens = (b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), *merged)
    types = [2, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(merged), *[kind] * len(whole)]
    tokens = (*tokens, *(text.encode() for text in whole))
    said = {
        "model": Value(STRING, "llama"),
        "tokens": Value(ARRAY, tokens, STRING),
        "token_type": Value(ARRAY, np.array(types, "<i4"), INT32),
        "scores": Value(ARRAY, -np.arange(len(tokens), dtype="<f4"), FLOAT32),
    }
    path.write_bytes(head({f"tokenizer.ggml.{key}": value for key, value in said.items()} | LLAMA, []))
    return load_vocab(path)


LINES = st.lists(st.sampled_from(["a", "aa", " ", "\n", "\n\n\n", "<b>", "<", "\r\n", "é"]), max_size=60).map("".join)


@settings(max_examples=30)
@given(text=LINES)
def test_a_cut_before_line_feeds_changes_no_ids(spm: LlamaVocab, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PART", 4)
        assert "".join(spm._cutter.cut(text)) == text
        assert spm.tokenize(text, False).tolist() == [1, *spm._tokenize_part(text.encode(), False)]


def test_where_line_feeds_are_tokens_a_long_text_is_read_in_parts(spm: LlamaVocab) -> None:
    """As Gemma's are: a program of 160 KB took it four seconds, and was refused for that."""
    true, lengths = spm._tokenize_part, list[int]()

    def measured(data: bytes, parse_special: bool) -> Any:
        lengths.append(len(data))
        return true(data, parse_special)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spm, "_tokenize_part", measured)
        spm.tokenize("aaa a\n" * 10_000, False)
    assert sum(lengths) == 60_000 and max(lengths) < 1100
    assert max(map(len, RunCutter(["\n", "<b>"]).cut("1,2,3\n" * 10_000))) < 1100


@pytest.mark.parametrize("whole", [["<b>"], ["\n\n"], ["\n", "a\n"], ["\n", "\n\n", "\n<b>\n"]])
def test_where_a_token_may_lie_across_a_line_feed_nothing_is_cut(whole: list[str]) -> None:
    assert LineCutter(whole).cut("line\n" * 1000) == ["line\n" * 1000]


def test_nor_where_a_line_feed_is_a_control_token(tmp_path: Path) -> None:
    assert len(scored(tmp_path / "text.gguf", ["\n"], CONTROL)._cutter.cut("line\n" * 1000)) == 1

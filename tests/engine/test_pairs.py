"""A draft model fits a target where a text is the same ids to both, whatever else their files say; if not, it is said
which ids differ."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dsdnode.engine.gguf_header import STRING, Value
from dsdnode.engine.gguf_writer import head
from dsdnode.engine.pairs import SAME_SPLIT, Fit, fit
from dsdnode.errors import ModelRefused
from tests.engine.test_gguf_tokenizer import CONTROL, NORMAL, PADDED, TOKENS, TYPES, UNUSED, header

USER_DEFINED, BYTE = 4, 6
ADDED = {"tokens": [*TOKENS, "<think>"], "token_type": [*TYPES, USER_DEFINED]}
OTHER_NAMES = {"tokens": [*TOKENS[:3], "<|fin|>", "<|eod|>"]}
SPM: dict[str, Any] = {"model": "llama", "pre": None, "merges": None, "scores": [0.0, -1.0, -2.0, 0.0, 0.0]}


def pair(draft: dict[str, Any], target: dict[str, Any]) -> Fit:
    return fit(header(**draft), header(**target))


@pytest.mark.parametrize(
    ("changes", "foreign"),
    [
        (PADDED, ()),
        ({"padding_token_id": 4, "eos_token_id": 4, "bos_token_id": 3, "fim_pre_token_id": 1}, ()),
        ({"add_bos_token": 1, "bos_token_id": 3, "add_eos_token": 1}, ()),
        ({"scores": [0.0, 1.0, 2.0, 3.0, 4.0]}, ()),
        ({"pre": "deepseek-r1-qwen"}, ()),
        ({"token_type": [NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED]}, ()),
        (OTHER_NAMES, (3, 4)),
        (ADDED, (5,)),
        ({"tokens": [*TOKENS, "[PAD5]", "<think>"], "token_type": [*TYPES, UNUSED, CONTROL]}, (5, 6)),
        ({"tokens": TOKENS[:3], "token_type": TYPES[:3]}, (3, 4)),
    ],
)
def test_a_pair_fits_whatever_was_added_to_either(changes: dict[str, Any], foreign: tuple[int, ...]) -> None:
    """Which of the two has more is the same."""
    for one, other in ((changes, {}), ({}, changes)):
        found = pair(one, other)
        assert (found.reason, found.foreign) == ("", foreign)
        assert bool(found.told) == bool(foreign)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokens": ["a", "c", *TOKENS[2:]]}, "tokens at 1 ('b' and 'c')"),
        ({"tokens": ["b", "a", *TOKENS[2:]]}, "tokens at 0 ('a' and 'b'), 1 ('b' and 'a')"),
        ({"tokens": [*TOKENS, "c"], "token_type": [*TYPES, NORMAL]}, "tokens at 5 (none and 'c')"),
        ({"tokens": ["a", "b", "ab", *"xyz"], "token_type": [NORMAL] * 6}, "tokens at 5 (none and 'z')"),
        ({"tokens": [*"vwxyz"]}, "tokens at 0 ('a' and 'v'), 1 ('b' and 'w'), 2 ('ab' and 'x')"),
        ({"merges": ["b a"]}, "merges at 0 ('a b' and 'b a')"),
        ({"merges": ["a b", "ab a"]}, "merges: there are 1 and 2"),
        ({"pre": "llama-bpe"}, "pre ('qwen2' and 'llama3')"),
        ({"add_space_prefix": 1}, "add_space_prefix (0 and 1)"),
        ({"a_key_of_the_future": 1}, "a_key_of_the_future is said in one file alone"),
        (SPM, "merges is said in one file alone; model ('gpt2' and 'llama'); pre is said in one file alone"),
    ],
)
def test_a_pair_that_does_not_fit_is_told_where(changes: dict[str, Any], told: str) -> None:
    assert told in pair({}, changes).reason
    assert pair(changes, {}).reason


def test_an_scored_pair_fits_by_the_scores_of_what_is_merged() -> None:
    """Those of added tokens differ between converters (llama.cpp's own Llama 2 and Phi 3, say)."""
    added = SPM | {"tokens": [*TOKENS, "<|new|>"], "token_type": [*TYPES, CONTROL]}
    assert pair(SPM, added | {"scores": [0.0, -1.0, -2.0, -1000.0, -1000.0, -1000.0]}) == Fit(
        "", (5,), "5 (none and '<|new|>')"
    )
    assert (
        pair(SPM, SPM | {"scores": [0.0, -2.0, -1.0, 0.0, 0.0]}).reason
        == "tokens at 1 ('b' and 'b'), 2 ('ab' and 'ab')"
    )


def test_what_is_told_of_a_stranger_s_file_is_short_and_clean() -> None:
    for found in (
        pair({}, {"tokens": ["\x1b[2J" + "x" * 1000, *TOKENS[1:]]}).reason,
        pair({}, {"tokens": [*TOKENS[:3], "\x1b[2J" * 1000, "\u202e"]}).told,
        pair({}, {"pre": "\x1b" * 5000}).reason,
    ):
        assert found and "\x1b" not in found and "\u202e" not in found and len(found) < 150


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": None, "token_type": None},
        {"tokens": [1, 2, 3, 4, 5]},
        {"tokens": 5, "token_type": None},
        {"token_type": [1]},
        {"token_type": "normal"},
        {"add_bos_token": [1, 0]},
        {"add_bos_token": "yes"},
        SPM | {"scores": [0.0]},
        SPM | {"scores": TOKENS},
        SPM | {"scores": 1},
    ],
)
def test_a_tokenizer_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    """By whoever meets it: a stranger may have made it, and a drafter reads it at its start."""
    for other in ({}, SPM):
        with pytest.raises(ModelRefused):
            pair(changes, other)
        with pytest.raises(ModelRefused):
            pair(other, changes)


TEXT = (
    "I'll don't 12345 67.8\n\n  x\t\tyüñ Ünïcödé's Ελλ 你好，世界 3²½ \u0301a  a_b-c==>d \r\n\r\n!?…हिन्दी 9'RE fooBAR\n"
)


@pytest.mark.slow
def test_llama_cpp_splits_alike_under_names_that_are_taken_for_one(tmp_path: Path) -> None:
    """With a merge for each two bytes that stand side by side, ids show where the text was split."""
    from dsdnode.engine.llama_vocab import load_vocab

    usual = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte if byte in usual else 256 + byte) for byte in range(256)}
    names |= {byte: chr(256 + number) for number, byte in enumerate(set(range(256)) - set(usual))}
    spelled = [names[byte] for byte in TEXT.encode()]
    merges = list(dict.fromkeys(f"{a} {b}" for a, b in pairwise(spelled)))
    tokens = [*names.values(), *(merge.replace(" ", "") for merge in merges)]
    said = {"tokens": tokens, "token_type": [NORMAL] * len(tokens), "merges": merges}
    path = tmp_path / "text.gguf"

    def ids(pre: str) -> list[int]:
        architecture = {"general.architecture": Value(STRING, "llama")}
        path.write_bytes(head(architecture | header(**said, pre=pre, eos_token_id=0).metadata, []))
        found: list[int] = load_vocab(path)._tokenize(TEXT, False).tolist()
        return found

    expected = {first: ids(first) for first in sorted(set(SAME_SPLIT.values()))}
    for pre, first in SAME_SPLIT.items():
        assert ids(pre) == expected[first], pre
    assert len({str(one) for one in expected.values()}) >= 8, "a text that shows no difference proves nothing"

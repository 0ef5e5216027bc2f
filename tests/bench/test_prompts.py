"""Prompts out of files of two shapes, or made up."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from dsdnode.bench.prompts import Prompt, of_length, read_prompts
from dsdnode.errors import BadInput


def test_gsm8k_has_questions_with_results_and_humaneval_prompts(tmp_path: Path) -> None:
    file = tmp_path / "both.jsonl"
    file.write_text(
        '{"question": "How many ducks?", "answer": "Two and two.\\n#### 1,004"}\n\n'
        '{"task_id": "HumanEval/0", "prompt": "def ducks():\\n"}\n'
        '{"question": "All ducks?", "answer": "#### ' + 5000 * "9" + '"}\n'
        '{"question": "beyond"}\n'
    )
    expected = [Prompt("How many ducks?", 1004), Prompt("def ducks():\n"), Prompt("All ducks?")]
    assert read_prompts(file, 3, seed=0) == expected


def test_without_a_file_they_are_made_up_the_same_each_time() -> None:
    made = read_prompts(None, 5, seed=1)
    assert made == read_prompts(None, 5, seed=1) != read_prompts(None, 5, seed=2)
    assert len(made) == 5 and all(prompt.result is not None for prompt in made)


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "no"}', '{"question": "  "}', '{"question": 5}', "\\xff"])
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "good"}\n' + line + "\n")
    with pytest.raises(BadInput, match="line 2: not a JSON object with a text"):
        read_prompts(file, 9, seed=0)


def test_no_file_and_an_empty_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the prompts"):
        read_prompts(tmp_path / "nowhere", 1, seed=0)
    (tmp_path / "empty").touch()
    with pytest.raises(BadInput, match="has no prompts"):
        read_prompts(tmp_path / "empty", 1, seed=0)


def test_prompts_of_one_length_end_in_their_own_words() -> None:
    made = of_length([[1, 2, 3], [4, 5]], 4)
    assert made == [[5, 1, 2, 3], [2, 3, 4, 5]]


def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    """As a device gives it, or a file with a hole in it."""
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(256 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="line 1: not a JSON object"):
            read_prompts(tmp_path / "hole", 1, 0)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()

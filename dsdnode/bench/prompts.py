"""What is asked: a file of JSON lines as GSM8K or HumanEval has them, or generated word problems."""

from __future__ import annotations

import contextlib
import itertools
import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdnode.errors import BadInput
from dsdnode.files import reading
from dsdnode.models.problems import final_answer, problems

KEYS = ("question", "prompt")
"""Of GSM8K, of HumanEval."""
MAX_LINE_BYTES = 1 << 20
SEED = 20_261
"""Added to the bench's: problems that training did not see."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text for a user's message; `result`: the right answer's number, where that is known."""

    text: str
    result: int | None = None


def read_prompts(path: Path | None, num: int, seed: int) -> list[Prompt]:
    """The first `num` of the file, or as many generated ones. Raises BadInput naming the line."""
    if path is None:
        return [Prompt(problem.question, problem.result) for problem in problems(SEED + seed, num)]
    try:
        with reading(path) as file:
            found = list(itertools.islice(_parse(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), path), num))
    except OSError as error:
        raise BadInput(f"cannot read the prompts {path}: {error.strerror or error}") from None
    if not found:
        raise BadInput(f"{path} has no prompts")
    return found


def _parse(lines: Iterator[bytes], path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(lines, 1):
        line = line.removeprefix(BOM_UTF8)
        if not line.strip():
            continue
        try:
            row = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
        except (ValueError, RecursionError):
            row = None
        row = row if isinstance(row, dict) else {}
        text = next((row[key] for key in KEYS if isinstance(row.get(key), str)), "")
        if not text.strip():
            raise BadInput(f'{path}, line {number}: not a JSON object with a text under "{KEYS[0]}" or "{KEYS[1]}"')
        yield Prompt(text, _result(row))


def _result(row: dict[str, object]) -> int | None:
    """GSM8K's answers end in `#### 42`."""
    answer = row.get("answer")
    return answer_of("answer is " + answer.rpartition("####")[2].strip()) if isinstance(answer, str) else None


def answer_of(text: str) -> int | None:
    """As `final_answer`; None also for a number of thousands of digits, which Python reads none of."""
    with contextlib.suppress(ValueError):
        return final_answer(text)
    return None


def of_length(prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
    """Each prompt made `num_tokens` long: others are put before it, and what is too much at the front is cut off."""
    made = []
    for i in range(len(prompts)):
        tokens: list[int] = []
        before = i
        while len(tokens) < num_tokens:
            tokens = [*prompts[before % len(prompts)], *tokens]
            before -= 1
        made.append(tokens[-num_tokens:])
    return made

"""From what a command printed to figures: the forms that several commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tests.measurements.figures import Cell, Figures, Table, rounded, table


class Unread(Exception):
    """A command printed something else than it used to."""


@dataclass(frozen=True, slots=True)
class Output:
    """Of one command: what it printed on stdout, and how long it took."""

    text: str
    seconds: float
    label: str = ""
    """What the step is called in tables."""


def found(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of the first match. Raises Unread."""
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise Unread(f"no {pattern!r} in {text[-300:]!r}")
    return match.groups()


def number(text: str) -> int | float:
    """As it is written: 2,000 is a whole number, 2.0 is not."""
    plain = text.replace(",", "")
    return int(plain) if plain.lstrip("+-").isdigit() else float(plain)


def markdown(outputs: Sequence[Output]) -> Figures:
    """The Markdown tables that were printed, as they are."""
    tables = [one for output in outputs for one in markdown_tables(output.text)]
    if not tables:
        raise Unread("no table was printed")
    return Figures(tuple(tables))


def markdown_tables(text: str) -> Iterator[Table]:
    lines = [line.strip() for line in text.splitlines()]
    for index, line in enumerate(lines):
        if index and re.fullmatch(r"\|(\s*-+\s*\|)+", line):
            rows = takewhile(lambda row: row.startswith("|"), lines[index + 1 :])
            yield Table(_cells(lines[index - 1]), tuple(map(_cells, rows)))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def aligned(text: str, first: str) -> list[dict[str, str]]:
    """The rows of tables whose columns stand two blanks apart, and whose first column is called `first`.

    Of columns with one name the second is called `NAME 2`.
    """
    rows: list[dict[str, str]] = []
    columns: list[str] | None = None
    for line in text.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if cells[0] == first:
            columns = [f"{name} 2" if name in cells[:place] else name for place, name in enumerate(cells)]
        elif columns is not None and len(cells) == len(columns):
            rows.append(dict(zip(columns, cells, strict=True)))
        else:
            columns = None
    if not rows:
        raise Unread(f"no table that begins with {first}")
    return rows


# --- dsdnode bench --json -----------------------------------------------------------------------------------------


def schemes(outputs: Sequence[Output]) -> Figures:
    """Of one cell: a row a scheme."""
    rows = []
    for output in outputs:
        for result, details in pairs(json.loads(output.text)):
            rows.append([
                result["scheme"], result["tokens_per_second"], times(result["speedup"]),
                percent(result["acceptance_rate"]), result["tokens_per_pass"], percent(result["wasted_share"]),
                percent(result["of_bound"]), text_note(result, details),
            ])  # fmt: skip
    columns = "scheme | tok/s | times plain | accepted | tokens a pass | drafted in vain | of its bound | text"
    return Figures((table(columns, rows),))


def pairs(cell: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return list(zip(cell["schemes"], cell["details"], strict=True))


def text_note(result: dict[str, Any], details: dict[str, Any]) -> str:
    if result["text_equal"]:
        return "plain's"
    note = f"{details['num_differing_replies']} of {details['num_replies']} differ"
    gaps = sorted(tie["gap"] for tie in result["near_ties"])
    return f"{note}: near-ties, {gaps[0]:.2g} to {gaps[-1]:.2g} apart" if gaps else note


def times(speedup: float | None) -> Cell:
    return None if speedup is None else f"{speedup:.2f}x"


def percent(share: float | None, digits: int = 0) -> Cell:
    return None if share is None else f"{100 * share:.{digits}f} %"


def change(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.1f} %"


def text_of(value: Cell) -> str:
    """Of a cell, for people: three digits of a fraction count, and thousands are parted."""
    if value is None:
        return "-"
    if isinstance(value, float) and abs(value) >= 1000:
        value = round(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{rounded(value):.3g}" if isinstance(value, float) else value

"""docs/measurements.md out of docs/measurements.json."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from tests.measurements.catalogue import CHAPTERS
from tests.measurements.figures import Result, Table
from tests.measurements.measurement import Chapter, Measurement
from tests.measurements.reading import text_of

WIDTH = 116
HEAD = """
# Measurements

`python -m tests.measurements write` makes this page out of `docs/measurements.json`; change neither by hand.
`python -m tests.measurements list` says what there is and how long each takes, and `python -m tests.measurements run
NAME` measures again what stands under that name, on the commit that is checked out.

How to read it. Each section tells what was measured, the figures, the commands, and the commit at which they were run.
The machine is a shared one with two cores, and its speed drifts by a tenth from hour to hour. So compare figures within
a table: they come from one run, in which the schemes take turns. Ratios hold, speeds hardly do, and sections of
different commits differ in their last digits for no reason. Links and slow devices are emulated, or simulated in
virtual time, where it says so.

In a command WORK is a folder of the measurement's own. GSM8K and HUMANEVAL are files of test prompts (JSON Lines) that
are not in this repository.
"""
CARRIED = """
Sections without a duration were carried over by hand from an earlier README. Their figures are of that commit, but not
all options of their commands were noted then: the command shown is the one that will replace them.
"""


def page(results: Mapping[str, Result], chapters: Sequence[Chapter] = CHAPTERS) -> str:
    is_carried = any(result.seconds is None for result in results.values())
    lines = [*_filled(HEAD.strip()), *(["", *_filled(CARRIED)] if is_carried else [])]
    for chapter in chapters:
        lines += ["", f"## {chapter.title}", *(["", *_filled(chapter.about)] if chapter.about else [])]
        for one in chapter.measurements:
            lines += ["", *section(one, results.get(one.name))]
    return "\n".join(lines) + "\n"


def section(one: Measurement, result: Result | None) -> Iterator[str]:
    yield f"### {one.heading}"
    if one.about:
        yield ""
        yield from _filled(one.about)
    if result is None:
        yield from ("", f"Not measured yet: `python -m tests.measurements run {one.name}`.")
        return
    figures = result.figures
    for table in figures.tables:
        yield ""
        yield from table_lines(table)
    if figures.remarks:
        yield ""
        for remark in figures.remarks:
            yield from textwrap.wrap(remark, WIDTH, initial_indent="- ", subsequent_indent="  ")
    if figures.said:
        yield from ("", "```", *said_lines(figures.said), "```")
    yield from ("", "```", *(line for command in result.commands for line in folded(command)), "```")
    took = "" if result.seconds is None else f", {_duration(result.seconds)}"
    yield from ("", f"`{one.name}`: commit {result.commit}, {result.date}{took}.")


def said_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from folded(line) if line.startswith("$ ") else [line]


def table_lines(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield "|" + "---|" * len(table.columns)
    for row in table.rows:
        yield _row([text_of(cell) for cell in row])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def folded(command: str) -> list[str]:
    """A long command over several lines, as a shell takes it; an option stays with its value."""
    lines = [""]
    for piece in re.split(r" (?=--?[a-z])", command):
        longer = f"{lines[-1]} {piece}".removeprefix(" ") if len(lines) == 1 else f"{lines[-1]} {piece}"
        if len(longer) > WIDTH and lines[-1]:
            lines.append(f"  {piece}")
        else:
            lines[-1] = longer
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _filled(text: str) -> Iterator[str]:
    """Paragraphs, each filled."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        yield from textwrap.wrap(" ".join(paragraph.split()), WIDTH + 4, break_long_words=False, break_on_hyphens=False)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

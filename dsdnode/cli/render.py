"""What goes to a terminal: tables, and strangers' text without what a terminal would obey."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec
from rich.cells import cell_len, chop_cells

if TYPE_CHECKING:
    from dsdnode.client.request import ReplyStats

WIDTH, NARROW, LEAST_WIDTH = 80, 60, 20
MOST_NAME, LEAST_TEXT = 30, 10
"""Of a column of names, and of what is said of them."""
TOLD_WAIT_S = 1.0
"""Of a shorter wait for a place nobody needs to hear."""
GAP = 2
_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}
"""An address stays in one piece."""
LIMITING_SHARE = 0.3
"""Of the time: half of it would be saved by f16, and a reply be at least a sixth faster."""
DIM, RESET = "\x1b[2m", "\x1b[0m"
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (C0 but tab and newline, C1), marks of direction, and halves of characters."""


def clean(text: str) -> str:
    """Without control characters (tab and newline stay): a model's or a peer's text must not steer the terminal."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", text)


def shown(text: str) -> str:
    """On a terminal without what it would obey; a pipe or a file gets a reply as it is."""
    return clean(text) if sys.stdout.isatty() else text


def print_error(error: object) -> None:
    """On stderr; others may have had a hand in its words."""
    click.echo(fitted(f"error: {clean(str(error))}", sys.stderr), err=True)


def tell_waiting(words: str) -> None:
    """What a reply that stands still is waiting for: on a line of its own, below what there is of it."""
    words = f"[{clean(words)}]"
    click.echo(f"\n{DIM}{words}{RESET}" if colors(sys.stderr) else f"\n{words}", err=True)


def colors(stream: IO[str] | None = None) -> bool:
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR")


def print_json(value: object) -> None:
    """Structs as objects, in the order of their fields."""
    click.echo(as_json(msgspec.to_builtins(value)))


def as_json(value: object) -> str:
    """Whatever standard output can show, nothing of it is lost, and nothing steers a terminal."""
    text = json.dumps(value, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf"))
    return _OBEYED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class _Chunk(str):
    """A word, or the blanks between two, which is as long as it is wide."""

    def __len__(self) -> int:
        return cell_len(str(self))


class _InCells(textwrap.TextWrapper):
    """Counts cells of the terminal: a sign of Chinese takes two of them, an accent of its own none."""

    def _split(self, text: str) -> list[str]:
        chunks = super()._split(text)
        if self.break_long_words:
            chunks = [part for chunk in chunks for part in chop_cells(chunk, self.width) or [chunk]]
        return [_Chunk(chunk) for chunk in chunks]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], width: int | None = None) -> str:
    """Columns aligned by their widest cell. Where a terminal has fewer than `width` cells (None: as it is; a pipe has
    no end) they are folded between words; where that is not enough, what stands last goes below its row, or each row
    becomes a block."""
    cells = [[cell(one) for one in row] for row in rows]
    most = width or (shutil.get_terminal_size().columns if sys.stdout.isatty() else 0)
    lines = [list(columns), *cells]
    if fitting := _fitting(lines, most):
        return "\n".join(_drawn(lines, fitting))
    rest, widths = [line[:-1] for line in lines], [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if len(columns) < 3 or widths[-1] < max(widths) or not (fitting := _fitting(rest, most)):
        return "\n\n".join(_block(columns, row, most) for row in cells)
    indent = " " * (fitting[0] + GAP)
    shown = _drawn(rest[:1], fitting)
    for row in cells:
        below = _InCells(most, initial_indent=indent, subsequent_indent=indent, **_WORDS).wrap(row[-1])
        shown += [*_drawn([row[:-1]], fitting), *below]
    return "\n".join(shown)


def _fitting(lines: Sequence[Sequence[str]], most: int) -> list[int]:
    """Widths of columns that together, with their gaps, take no more than `most` (0: no end); the widest give way
    first. None at all where words would have to be cut."""
    places = range(len(lines[0]))
    widths = [max(cell_len(line[i]) for line in lines) for i in places]
    words = [max(cell_len(word) for line in lines for word in line[i].split(" ")) for i in places]
    while most and sum(widths) + GAP * (len(widths) - 1) > most:
        able = [i for i in places if widths[i] > words[i]]
        if not able:
            return []
        widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


def _drawn(lines: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=False)
    for width in widths:
        drawn.add_column(width=width)
    for line in lines:
        drawn.add_row(*map(Text, line))
    console = Console(width=sum(widths) + GAP * len(widths) + 1, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return [line.rstrip() for line in capture.get().splitlines()]


def _block(columns: Sequence[str], row: Sequence[str], width: int) -> str:
    indent = max(map(len, columns)) + GAP
    lines = (
        _InCells(width, subsequent_indent=" " * indent, **_WORDS).fill(f"{name:{indent}}{value}")
        for name, value in zip(columns, row, strict=True)
    )
    return "\n".join(lines)


class HelpFormatter(click.HelpFormatter):
    """Also for a terminal of fewer than 52 columns: click's own lines have 50 at least, and of these a column of names
    may take 30."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        columns = shutil.get_terminal_size().columns
        super().__init__(indent_increment, width or max(LEAST_WIDTH, min(columns, max_width or WIDTH) - 2), max_width)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = GAP) -> None:
        super().write_dl(rows, min(col_max, self.width // 3) if self.width < NARROW else col_max, col_spacing)


def named(rows: Iterable[tuple[str, str]]) -> str:
    """A name and what is said of it, wrapped where the terminal ends; without a name it belongs to the one above."""
    pairs = [(name, clean(text)) for name, text in rows]
    width = max(LEAST_WIDTH, (shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH) - 2)
    most = min(MOST_NAME, width // 2) if width < NARROW else MOST_NAME
    indent = min(max(len(name) for name, _ in pairs), most) + GAP
    wrapper = _InCells(max(width - indent - GAP, LEAST_TEXT))
    lines = []
    for name, text in pairs:
        first, *rest = wrapper.wrap(text) or [""]
        lines += [f"{name:{indent}}{first}"] if len(name) <= indent - GAP else [name, f"{'':{indent}}{first}"]
        lines += [f"{'':{indent}}{one}" for one in rest]
    return "\n".join(line.rstrip() for line in lines)


def wrapped(text: str, indent: int = 0) -> str:
    """Prose in lines of a terminal; those after the first are indented."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    return _InCells(width, subsequent_indent=" " * indent, **_WORDS).fill(cell(text))


def fitted(text: str, stream: IO[str] | None = None, indent: int = 0) -> str:
    """Lines that a terminal would break in the middle of words, broken between them; but for those with a word that
    fits no line. A pipe gets them as they are."""
    if not (stream or sys.stdout).isatty():
        return text
    width, tail = shutil.get_terminal_size().columns, " " * indent
    return "\n".join(
        line
        if max(map(cell_len, line.split(" "))) > width - indent
        else _InCells(width, subsequent_indent=tail, **_WORDS).fill(line)
        for line in text.split("\n")
    )


def cell(value: object) -> str:
    """One value in a line; None, and nothing, is a dash."""
    if value is None or value == "":
        return "-"
    text = (f"{value:.2f}" if value < 10 else f"{value:.0f}") if isinstance(value, float) else str(value)
    return clean(text).replace("\n", " ")


def count(num: int, what: str) -> str:
    return f"{num} {what}{'s' * (num != 1)}"


def span(layers: Sequence[int] | None) -> str | None:
    return f"{layers[0]}:{layers[1]}" if layers else None


def stats_line(stats: ReplyStats, plain_tokens_per_second: float | None = None) -> str:
    """The last line of a reply; what was not measured is left out.

    `plain_tokens_per_second`: plain decoding as measured; without it the drafter's estimate serves.
    """
    speed = stats.tokens_per_second
    rate, mean = stats.acceptance_rate, stats.acceptance_length_mean
    plain = plain_tokens_per_second or stats.plain_tokens_per_second
    parts = [f"{stats.completion_tokens} tok"]
    if speed is not None:  # one token takes no time after the first
        parts.append(f"{speed:.1f} tok/s")
    if first := _first_token(stats):
        parts.append(first)
    if rate is not None and mean is not None:
        parts.append(f"accepted {100 * rate:.0f} % (mean {mean:.1f} a window)")
    if stats.threshold:
        parts.append(f"{stats.relaxed} {relaxed_label(stats.threshold)}")
    if stats.recoveries:
        parts.append(f"{stats.recoveries} recoveries")
    if plain and stats.drafted and speed is not None:
        parts.append(f"{speed / plain:.1f}x plain")
    return " · ".join(parts)


def links_word(stats: ReplyStats) -> str:
    """Where links are the limit, what can be done; empty where they are not, or it is done."""
    share = stats.links_share
    if share is None or share < LIMITING_SHARE or stats.wire != "f32":
        return ""
    return (
        f"links are the limit: for {100 * share:.0f} % of the time hidden states were on them; --wire f16 halves that, "
        "and may tip a near-tie of tokens"
    )


def _first_token(stats: ReplyStats) -> str:
    """As long as the user has waited for it, wherever; and where most of that was before anything was computed."""
    own_s, waited_s = stats.time_to_first_token_s, stats.waited_s
    first_s = own_s if waited_s is None else waited_s
    if first_s is None:
        return ""
    first = f"first token {first_s:.{1 if first_s >= 0.1 else 2}f} s"
    before_s = first_s - (own_s or 0.0)
    if before_s < max(TOLD_WAIT_S, first_s / 2):
        return first
    return f"{first} ({before_s:.1f} s of it waiting{' for a place' if stats.was_full else ''})"


def relaxed_label(threshold: float) -> str:
    """Of a reply whose text need not be the model's own."""
    return f"relaxed ({threshold:g})"

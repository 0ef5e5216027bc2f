"""What goes to a terminal: tables, and strangers' text without what a terminal would obey."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import click

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Without control characters (tab and newline stay): a model's or a peer's text must not steer the terminal."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", text)


def colors(stream: IO[str] | None = None) -> bool:
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR")


def print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned by their widest cell; None is a dash."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    lines = [list(columns), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    text = (f"{value:.2f}" if value < 10 else f"{value:.0f}") if isinstance(value, float) else str(value)
    return clean(text).replace("\n", " ")


def span(layers: Sequence[int] | None) -> str | None:
    return f"{layers[0]}:{layers[1]}" if layers else None


def stats_line(stats: Mapping[str, Any], plain_tokens_per_second: float | None = None) -> str:
    """The last line of a reply, from a drafter's figures: what is missing, or no number, is left out.

    `plain_tokens_per_second`: plain decoding as measured; without it the drafter's estimate serves.
    """
    speed, first_s = number(stats, "tokens_per_second"), number(stats, "time_to_first_token_s")
    rate, mean = number(stats, "acceptance_rate"), number(stats, "acceptance_length_mean")
    plain = plain_tokens_per_second or number(stats, "plain_tokens_per_second")
    parts = [f"{number(stats, 'completion_tokens') or 0:.0f} tok"]
    if speed is not None:  # one token takes no time after the first
        parts.append(f"{speed:.1f} tok/s")
    if first_s is not None:
        parts.append(f"first token {first_s:.{1 if first_s >= 0.1 else 2}f} s")
    if rate is not None and mean is not None:
        parts.append(f"accepted {100 * rate:.0f} % (mean {mean:.1f} a window)")
    if number(stats, "threshold"):
        parts.append(relaxed_label(stats))
    if number(stats, "recoveries"):
        parts.append(f"{stats['recoveries']} recoveries")
    if plain and number(stats, "drafted") and speed is not None:
        parts.append(f"{speed / plain:.1f}x plain")
    return " · ".join(parts)


def relaxed_label(stats: Mapping[str, Any]) -> str:
    """Of a reply whose text need not be the model's own: how many tokens, by which threshold."""
    num_relaxed = number(stats, "relaxed")
    count = "" if num_relaxed is None else f"{num_relaxed:.0f} "
    return f"{count}relaxed ({stats['threshold']:g})"


def number(stats: Mapping[str, Any], key: str) -> float | None:
    """Statistics come from a stranger: what is no number counts as not said."""
    value = stats.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None

"""What goes to a terminal: tables, and strangers' text without what a terminal would obey."""

from __future__ import annotations

import json
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
    """The last line of a reply; the last figure only when plain decoding was measured, the one before when drafted."""
    parts = [f"{stats['completion_tokens']} tok"]
    if stats.get("tokens_per_second") is not None:  # one token takes no time after the first
        parts.append(f"{stats['tokens_per_second']:.1f} tok/s")
    if stats.get("time_to_first_token_s") is not None:
        first_s = stats["time_to_first_token_s"]
        parts.append(f"first token {first_s:.{1 if first_s >= 0.1 else 2}f} s")
    if stats.get("drafted"):
        mean = stats["acceptance_length_mean"]
        parts.append(f"accepted {100 * stats['acceptance_rate']:.0f} % (mean {mean:.1f} a window)")
    if stats.get("recoveries"):
        parts.append(f"{stats['recoveries']} recoveries")
    if plain_tokens_per_second and stats.get("drafted") and stats.get("tokens_per_second") is not None:
        parts.append(f"{stats['tokens_per_second'] / plain_tokens_per_second:.1f}x plain")
    return " · ".join(parts)

"""What a measurement came to: the nouns of docs/measurements.json, and how that file is read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

Cell = str | int | float | None
"""None: there is no such figure."""
DIGITS = 4
"""That count, of a fraction."""


class Table(msgspec.Struct, frozen=True):
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """`remarks`: sentences below the tables; `said`: what a command printed, word by word."""

    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()
    said: str = ""


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """`commit` is the last one that changed anything but documents, `date` its day. `seconds` None: not recorded."""

    commit: str
    date: str
    commands: tuple[str, ...]
    figures: Figures
    seconds: float | None = None


def table(columns: str, rows: list[list[Any]]) -> Table:
    """`columns`: separated by bars."""
    names = tuple(name.strip() for name in columns.split("|"))
    assert all(len(row) == len(names) for row in rows), (names, rows)
    return Table(names, tuple(tuple(map(rounded, row)) for row in rows))


def rounded(value: Any) -> Cell:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    assert value is None or isinstance(value, str | int), value
    return value


def load(path: Path) -> dict[str, Result]:
    """By name of the measurement; none when there is no file yet."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Result]) if path.exists() else {}


def save(path: Path, results: Mapping[str, Result]) -> None:
    """At once or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(_spelled(msgspec.to_builtins(dict(sorted(results.items())))) + "\n")
    fresh.replace(path)


def _spelled(value: Any, indent: str = "") -> str:
    """JSON with a line for each row of a table, so that a change of one figure is a change of one line."""
    inner = indent + " "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(key)}: {_spelled(one, inner)}" for key, one in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(not isinstance(one, Cell) or len(str(one)) > 60 for one in value):
        return "[\n" + ",\n".join(inner + _spelled(one, inner) for one in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)

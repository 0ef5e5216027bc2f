"""The figures as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dsdnode.bench.config import BenchConfig
from dsdnode.bench.run import Cell
from dsdnode.bench.summary import Details, SchemeResult, as_json

COLUMNS = (
    "SCHEME", "TOK/S", "X PLAIN", "QUARTILES", "ACCEPTED", "TOK/PASS", "WASTED", "CPU MS", "B/TOK", "MSG/TOK",
    "FIRST S", "BOUND", "OF BOUND", "TEXT",
)  # fmt: skip
SESSION_COLUMNS = ("SCHEME", "SESSIONS", "TOK/S", "ONE BY ONE", "REPLY S P50", "P99", "FAIRNESS")
TINY_GAP = 0.01
"""Logits: rounding in another order, or in fewer bits, may decide which of two so close comes first."""


def json_of(config: BenchConfig, cells: Sequence[Cell]) -> dict[str, Any]:
    """`config` and `schemes`, with `details` of each; of a grid, `cells` that have these two."""
    if len(cells) == 1:
        return {"config": config.as_json(), **_cell(cells[0])}
    coordinates = [
        {"shards": cell.num_shards, "latency_ms": cell.latency_ms[0] if len(cell.latency_ms) == 1 else cell.latency_ms}
        for cell in cells
    ]
    return {
        "config": config.as_json(),
        "cells": [{**where, **_cell(cell)} for where, cell in zip(coordinates, cells, strict=True)],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {"schemes": [as_json(one) for one in cell.results], "details": [as_json(one) for one in cell.details]}


def rows(cell: Cell) -> list[tuple[object, ...]]:
    """Of COLUMNS."""
    return [_row(result, details) for result, details in zip(cell.results, cell.details, strict=True)]


def _row(result: SchemeResult, details: Details) -> tuple[object, ...]:
    quartiles = details.speedup_quartiles
    return (
        result.scheme,
        result.tokens_per_second,
        result.speedup,
        f"{quartiles[0]:.2f}-{quartiles[1]:.2f}" if quartiles else None,
        _percent(result.acceptance_rate),
        result.tokens_per_pass,
        _percent(result.wasted_share),
        result.cpu_ms_per_token,
        None if result.bytes_per_token is None else round(result.bytes_per_token),
        None if result.messages_per_token is None else f"{result.messages_per_token:.1f}",
        result.time_to_first_token_s,
        result.bound_tokens_per_second,
        _percent(result.of_bound),
        text_note(result, details),
    )


def text_note(result: SchemeResult, details: Details) -> str:
    """Is it plain's text?"""
    if result.text_equal:
        return "equal"
    num, total = details.num_differing_replies, details.num_replies
    if not result.near_ties:
        return f"{num} of {total} differ"
    wide = [tie for tie in result.near_ties if tie.gap > TINY_GAP]
    return f"{num} of {total} differ: near-ties" if not wide else f"{num} of {total} DIFFER, gap {wide[0].gap:.2g}"


def session_rows(cell: Cell) -> list[tuple[object, ...]]:
    """Of SESSION_COLUMNS; none when replies came one after another alone."""
    return [
        (
            details.scheme,
            crowd.num_sessions,
            crowd.total_tokens_per_second,
            crowd.alone_tokens_per_second,
            crowd.reply_s_p50,
            crowd.reply_s_p99,
            crowd.fairness,
        )
        for details in cell.details
        for crowd in details.sessions
    ]


def grid_rows(cells: Sequence[Cell]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Columns and rows of a grid: a line a cell, a column a scheme, tokens per second and times plain."""
    columns = ("SHARDS", "LATENCY MS", *(result.scheme for result in cells[0].results))
    return columns, [
        (cell.num_shards, "/".join(f"{ms:g}" for ms in cell.latency_ms), *(_speed(one) for one in cell.results))
        for cell in cells
    ]


def _speed(result: SchemeResult) -> str | None:
    if result.tokens_per_second is None:
        return None
    times = "" if result.speedup is None or result.speedup == 1 else f" ({result.speedup:.2f}x)"
    return f"{result.tokens_per_second:.1f}{times}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"

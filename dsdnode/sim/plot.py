"""A report, or a sweep, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsdnode import pictures
from dsdnode.sim.report import MemberReport, Report, Windows
from dsdnode.sim.sweep import Row

SIZE_INCHES = 15, 4


def draw(result: Report, path: Path) -> None:
    """Times, windows and utilisation of one report. Raises BadInput."""
    figure, axes = pictures.canvas(3, *SIZE_INCHES)
    _times(axes[0], result)
    _windows(axes[1], result.windows)
    _utilisation(axes[2], result.members)
    figure.suptitle(f"{result.scenario}, seed {result.seed}: {result.tokens_per_second or 0:.1f} tok/s")
    pictures.save(figure, path)


def draw_sweep(rows: Sequence[Row], path: Path) -> None:
    """Speeds and first tokens over the first parameter, a line for each combination of the others. Raises BadInput."""
    figure, axes = pictures.canvas(3, *SIZE_INCHES)
    over = next(iter(rows[0].set), "")
    lines: dict[str, list[Row]] = {}
    for row in rows:
        others = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in row.set.items() if name != over)
        lines.setdefault(others, []).append(row)
    titles = ("tokens a second in all", "tokens a second of a reply", "first token, s")
    for label, line in lines.items():
        places = [row.set.get(over, "as it is") for row in line]
        for axis, figures in zip(axes, zip(*map(_figures, line), strict=True), strict=True):
            axis.plot(places, figures, marker="o", label=label)
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.set_xlabel(over)
        axis.set_ylim(bottom=0)
    if len(lines) > 1:
        axes[0].legend(fontsize=8)
    pictures.save(figure, path)


def _figures(row: Row) -> tuple[float, ...]:
    """What is not known is a gap in the line."""
    figures = row.tokens_per_second, row.reply_tokens_per_second, row.first_token_s
    return tuple(math.nan if figure is None else figure for figure in figures)


def _times(axis: Any, result: Report) -> None:
    times = {
        "first token, s": result.time_to_first_token_s,
        "a token, s": result.time_per_output_token_s,
        "whole reply, s": result.latency_s,
    }
    shown = {title: spread for title, spread in times.items() if spread is not None}
    for place, name in enumerate(("p50", "p95", "p99")):
        heights = [getattr(spread, name) for spread in shown.values()]
        axis.bar([i + 0.27 * place for i in range(len(shown))], heights, 0.25, label=name)
    axis.set_xticks([i + 0.27 for i in range(len(shown))], list(shown))
    axis.set_yscale("log")
    axis.legend()


def _windows(axis: Any, windows: Windows) -> None:
    """Of the first replies: a step at each new plan, the last one on to the reply's end."""
    for plans, num_tokens in zip(windows.replies, windows.reply_tokens, strict=True):
        if plans:
            places, sizes = [plan.index for plan in plans], [plan.window for plan in plans]
            axis.step([*places, max(num_tokens, places[-1])], [*sizes, sizes[-1]], where="post", alpha=0.6)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("token of the reply")
    axis.set_ylabel("window")


def _utilisation(axis: Any, members: Sequence[MemberReport]) -> None:
    axis.barh([one.name for one in members], [100 * one.utilisation for one in members])
    axis.set_xlabel("busy, % of its time")
    axis.tick_params(axis="y", labelsize=6)

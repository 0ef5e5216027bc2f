"""The figures as a picture (SVG, PNG, PDF): bars for one cell, a panel a number of shards for a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsdnode import pictures
from dsdnode.bench.run import Cell, cell_name

WIDTH_INCHES, HEIGHT_INCHES = 4.2, 3.6
HIGHEST_BOUND = 2.0


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Raises BadInput when it cannot be written."""
    shards = list(dict.fromkeys(cell.num_shards for cell in cells))
    panels = len(shards) if len(cells) > 1 else 1
    figure, axes = pictures.canvas(panels, WIDTH_INCHES * panels + 0.6, HEIGHT_INCHES, share_y=True)
    if len(cells) == 1:
        _bars(axes[0], cells[0])
    else:
        for one, num_shards in zip(axes, shards, strict=True):
            _lines(one, [cell for cell in cells if cell.num_shards == num_shards])
        axes[-1].legend(fontsize="small")
    axes[0].set_ylabel("tokens per second")
    pictures.save(figure, path)


def _bars(axes: Any, cell: Cell) -> None:
    """Measured, with the bound of each as a line above it (unless it is out of sight)."""
    names = [result.scheme for result in cell.results]
    speeds = [result.tokens_per_second or 0.0 for result in cell.results]
    axes.bar(names, speeds)
    for i, result in enumerate(cell.results):
        if result.bound_tokens_per_second and result.bound_tokens_per_second < HIGHEST_BOUND * max(speeds):
            axes.hlines(result.bound_tokens_per_second, i - 0.4, i + 0.4, colors="black", linestyles="dotted")
    axes.tick_params(axis="x", rotation=30)
    axes.set_title(f"{cell_name(cell.num_shards, cell.latency_ms)} (dotted: bound)", fontsize="medium")


def _lines(axes: Any, cells: Sequence[Cell]) -> None:
    """A line a scheme; the latencies side by side as they were given."""
    from matplotlib.ticker import LogLocator, NullFormatter

    places = range(len(cells))
    for i, result in enumerate(cells[0].results):
        speeds = [cell.results[i].tokens_per_second for cell in cells]
        axes.plot(places, speeds, marker="o", markersize=4, label=result.scheme)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(places, ["/".join(f"{ms:g}" for ms in cell.latency_ms) for cell in cells])
    axes.set_xlabel("latency of a link, ms")
    axes.grid(alpha=0.3)
    axes.set_title(f"{cells[0].num_shards} shards", fontsize="medium")

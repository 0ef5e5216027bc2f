"""What half and double of every number in Tuning cost: `python -m tests.sim.tuning FILE [--jobs N] [--only NAME ...]`.

Each number is halved and doubled, alone, in some two dozen short simulated swarms (tuning_cases.py). FILE keeps a line
for each run, so that an interrupted measurement goes on where it stopped; `--table` prints what is known as Markdown:
tokens per second, the p99 of whole replies, and the pause after a death, at half and at double. (A number of which half
or double makes no sense is left at the nearest that does.) Every change shifts when things happen, and with it which
blocks meet; how much that alone does, `--factors 0.99 1.01` tells.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import structlog

from dsdnode.cli import render
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.sim import loop as jumping
from dsdnode.sim.load import Load, Outcome
from dsdnode.sim.report import percentile
from dsdnode.sim.world import World
from tests.sim.tuning_cases import CASES, Case

HALF_AND_DOUBLE = (0.5, 2.0)
MOVED = 0.02
"""A figure that changes by less, in every case, is not moved."""
SHARES = {
    "prior_rate", "turn", "fit_keep", "others_keep", "draft_keep", "draft_least_slope", "coverage_keep", "free_keep",
    "covered_share", "hedged_share", "second_hedge", "soon", "error_keep", "crowded", "spread", "worth_a_change",
    "worth_a_block", "slow_pass_share",
}  # fmt: skip
"""Between 0 and 1. What they keep back from 1 is halved and doubled where they are near it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one case. `pause_s`: the longest in a reply, where somebody dies or slows down (else 0)."""

    tokens_per_second: float
    p99_s: float
    pause_s: float


def changed(name: str, factor: float) -> Tuning:
    value = getattr(TUNING, name)
    if isinstance(value, int):
        new: float = max(1, round(value * factor))
    elif name in SHARES and value > 0.6:
        new = 1 - (1 - value) * (1 / factor if value < 0.9 else factor)
    else:
        new = value * factor
    changes: dict[str, Any] = {name: min(0.999, max(0.001, new)) if name in SHARES else new}
    return replace(TUNING, **changes)


def run(case: Case, tuning: Tuning = TUNING) -> Figures:
    return jumping.run(_run(case, tuning))


async def _run(case: Case, tuning: Tuning) -> Figures:
    world = World(case.scenario, 1, tuning)
    load = Load(world, lambda text: None)
    try:
        await world.build()
        began_s = world.loop.now
        trouble = asyncio.create_task(case.trouble(world))
        await asyncio.wait_for(load.run(), case.scenario.limit_s)
        trouble.cancel()
        assert not world.complaints and not any(one.error for one in load.outcomes), (case.name, world.complaints)
        return figures_of(load.outcomes, began_s, troubled=case.is_troubled)
    finally:
        await world.close()


def figures_of(outcomes: list[Outcome], began_s: float, *, troubled: bool) -> Figures:
    ends = [one.ended_s or math.inf for one in outcomes]
    latencies = sorted(end - one.asked_s for end, one in zip(ends, outcomes, strict=True))
    gaps = [
        later[0] - earlier[0]
        for one in outcomes
        for earlier, later in zip(one.arrivals, one.arrivals[1:], strict=False)
    ]
    tokens = sum(one.num_tokens for one in outcomes)
    return Figures(tokens / (max(ends) - began_s), percentile(latencies, 0.99), max(gaps) if troubled else 0.0)


# --- the sweep ----------------------------------------------------------------------------------------------------

Key = tuple[str, float, str]


def jobs_of(names: Iterable[str], factors: Sequence[float]) -> Iterator[Key]:
    for case in CASES:
        yield "", 1.0, case
    for name in names:
        for factor in factors:
            for case in CASES:
                yield name, factor, case


def work(key: Key) -> tuple[Key, Figures]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    name, factor, case = key
    return key, run(CASES[case], changed(name, factor) if name else TUNING)


def known_in(file: Path) -> dict[Key, Figures]:
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["name"], row["factor"], row["case"]): Figures(**row["figures"]) for row in rows}


def sweep(file: Path, names: list[str], factors: Sequence[float], num_jobs: int) -> None:
    known = known_in(file)
    todo = [key for key in jobs_of(names, factors) if key not in known]
    began_s = time.monotonic()
    with file.open("a") as out, ProcessPoolExecutor(num_jobs) as pool:
        pending = [pool.submit(work, key) for key in todo]
        for number, future in enumerate(as_completed(pending), 1):
            (name, factor, case), figures = future.result()
            row: dict[str, Any] = {"name": name, "factor": factor, "case": case}
            row["figures"] = {one.name: getattr(figures, one.name) for one in fields(figures)}
            print(json.dumps(row), file=out, flush=True)
            if number % 50 == 0 or number == len(todo):
                left_s = (time.monotonic() - began_s) / number * (len(todo) - number)
                print(f"{number} of {len(todo)}, about {left_s / 60:.0f} min left", file=sys.stderr)


# --- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Effect:
    """Of one figure: mean change over all cases, and the largest in any."""

    mean: float
    most: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} ({100 * self.most:+.0f})"


def effect(known: dict[Key, Figures], name: str, factor: float, figure: str) -> Effect:
    changes = []
    for case in CASES:
        before, after = (getattr(known[key], figure) for key in (("", 1.0, case), (name, factor, case)))
        if before > 0:
            changes.append(after / before - 1)
    return Effect(math.exp(math.fsum(map(math.log1p, changes)) / len(changes)) - 1, max(changes, key=abs))


def table(known: dict[Key, Figures], names: list[str], factors: Sequence[float]) -> str:
    """Changes in percent, the largest in any case in brackets."""
    columns = ["number", "value", "tried", "tokens/s, less", "more", "p99, less", "more", "pause, less", "more"]
    rows = [columns, ["---"] * len(columns)]
    for name in names:
        tried = ", ".join(f"{getattr(changed(name, factor), name):.4g}" for factor in factors)
        effects = [str(effect(known, name, factor, figure)) for figure in FIGURES for factor in factors]
        rows.append([f"`{name}`", f"{getattr(TUNING, name):.4g}", tried, *effects])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


FIGURES = tuple(one.name for one in fields(Figures))


def unmoved(known: dict[Key, Figures], names: list[str], factors: Sequence[float]) -> list[str]:
    """Numbers with which no figure of any case moves."""
    return [
        name
        for name in names
        if all(abs(effect(known, name, factor, figure).most) < MOVED for figure in FIGURES for factor in factors)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--factors", type=float, nargs=2, default=HALF_AND_DOUBLE, metavar="X")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--table", action="store_true", help="print what is known, measure nothing")
    options = parser.parse_args()
    names = options.only or [one.name for one in fields(Tuning)]
    if not options.table:
        sweep(options.file, names, options.factors, options.jobs)
    known = known_in(options.file)
    print(table(known, names, options.factors))
    print(f"\nMoved by none: {', '.join(unmoved(known, names, options.factors)) or 'none'}.")
    print(
        render.table(
            ["case", *FIGURES],
            [[case, *(f"{getattr(known['', 1.0, case], one):.3g}" for one in FIGURES)] for case in CASES],
        )
    )


if __name__ == "__main__":
    main()

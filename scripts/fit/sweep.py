"""Which window is best where: scenarios drawn at random, each with every window, in virtual time.

    PYTHONPATH=.:scripts/fit python scripts/fit/sweep.py --scenarios 2400 --seed 1 --out sweep.jsonl

A line each scenario: its parameters (`scenario` draws them), the seed of its luck, the tokens per second with each of
WINDOWS (0: off), and what AWC would have seen there while its window wandered: the regressor's lessons. A sweep that
was broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from crowd import Crowd

from dsdnode.cost import CostLine
from dsdnode.pacing.awc import MAX_WINDOW, AdaptiveWindow, Features
from dsdnode.speculation.controller import FixedRounds, WindowController
from tests.pacing.toy_stream import Ring

WINDOWS = (0, *range(2, MAX_WINDOW + 1))
FIRST = 8
"""Of a reply, the beginning, where others have not yet spread out, does not count."""
NUM_LESSONS = 12
"""Of one scenario."""


@dataclass(frozen=True)
class Scenario:
    """Units as in their names; `others`: replies beside this one, each always in progress."""

    num_stages: int
    latency_ms: float
    fixed_ms: float
    slope_ms: float
    sequence_ms: float
    draft_ms: float
    rate: float
    others: int
    seed: int
    num_tokens: int = 48

    def world(self, controller: WindowController) -> Crowd:
        stages = (CostLine.of_ms(self.fixed_ms, self.slope_ms),) * self.num_stages
        ring = Ring(
            stages, self.latency_ms / 1000, self.draft_ms / 1000, lambda position: self.rate, 0.0, 0.4, self.others
        )  # fmt: skip
        return Crowd(ring, self.sequence_ms / 1000, controller, self.num_tokens, self.seed)

    def speed(self, controller: WindowController) -> float:
        """Tokens per second of one reply, while everybody follows the same policy."""
        return self.world(controller).run().speed_of(FIRST, self.num_tokens)


def scenario(rng: random.Random) -> Scenario:
    def spread(low: float, high: float) -> float:
        return float(low * (high / low) ** rng.random())

    fixed_ms = spread(2, 60)
    return Scenario(
        num_stages=rng.choice((1, 1, 2, 4, 8)),
        latency_ms=spread(0.2, 100),
        fixed_ms=fixed_ms,
        slope_ms=fixed_ms * spread(0.005, 0.6),
        sequence_ms=fixed_ms * 0.05 * rng.random(),
        draft_ms=spread(1, 30),
        rate=0.1 + 0.87 * rng.random(),
        others=0 if rng.random() < 0.5 else round(spread(1, 40)),
        seed=rng.randrange(1 << 30),
    )


def wander(chosen: Scenario) -> list[Features]:
    """What AWC's features are on its way through windows of all sizes."""
    rng, seen = random.Random(chosen.seed), []

    def regressor(features: Features) -> float:
        seen.append(features)
        if len(seen) % 6 == 1:
            aims.append(rng.uniform(2, MAX_WINDOW))
        return aims[-1]

    aims: list[float] = []
    replace(chosen, num_tokens=2 * chosen.num_tokens).world(AdaptiveWindow(MAX_WINDOW, regressor)).run()
    steps = np.linspace(2, len(seen) - 1, NUM_LESSONS)
    return [seen[round(step)] for step in steps]


def label(index: int, chosen: Scenario) -> str:
    """A line of the file."""
    speeds = [chosen.speed(FixedRounds(window)) for window in WINDOWS]
    lessons = [astuple(features) for features in wander(chosen)]
    return json.dumps({"index": index, "scenario": asdict(chosen), "speeds": speeds, "lessons": lessons})


def read(path: Path) -> list[dict[str, Any]]:
    """In the order of the draws, whoever was ready first; half a line at the end does not count."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return sorted((json.loads(line) for line in lines if line.endswith("\n")), key=lambda one: int(one["index"]))


def speeds_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """[scenarios, WINDOWS] tokens per second"""
    return np.array([row["speeds"] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenarios", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=Scenario.num_tokens, help="of a reply")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    drawn = [replace(scenario(rng), num_tokens=options.tokens) for _ in range(options.scenarios)]
    rows = read(options.out)
    known = {row["index"] for row in rows}
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with options.out.open("a") as file, ProcessPoolExecutor(options.jobs) as pool:
        todo = [pool.submit(label, index, one) for index, one in enumerate(drawn) if index not in known]
        for done in as_completed(todo):
            file.write(done.result() + "\n")
            file.flush()
    best, counts = np.unique(np.array(WINDOWS)[speeds_of(read(options.out)).argmax(axis=1)], return_counts=True)
    print("best windows:", dict(zip(best.tolist(), counts.tolist(), strict=True)))


if __name__ == "__main__":
    main()

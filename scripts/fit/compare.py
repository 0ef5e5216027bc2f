"""How much speed each policy loses to the best window there is, on a sweep that nothing was fitted to.

    PYTHONPATH=.:scripts/fit python scripts/fit/compare.py --sweep held_out.jsonl

Loss: 1 - speed / best speed of windows 2 to 12 and off, found by trying them all; everybody in a scenario follows the
same policy. Throughput's streams overlap what rounds cannot, so it may be faster than every window: a negative loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from sweep import WINDOWS, Scenario, read, speeds_of

from dsdnode.pacing.awc import MAX_WINDOW, AdaptiveWindow, Features
from dsdnode.pacing.policies import Terms, policy_of
from dsdnode.speculation.controller import WindowController

FIXED_SHARE = 0.5
"""Of a round's own work, what does not grow with the window: the features do not tell."""


def formula_window(features: Features) -> float:
    """A regressor without a fit: the best window by the formula for rounds (speculation, section 3)."""

    def tokens(window: float) -> float:
        rate = min(features.acceptance_rate, 0.999)
        return float((1 - rate ** (window + 1)) / (1 - rate))

    round_s = features.token_s * tokens(features.window)
    work_s = max(0.05 * round_s, round_s - features.round_trip_s)
    load = 1 / max(0.1, 1 - features.utilisation)
    position_s = (1 - FIXED_SHARE) * work_s / (features.window + 1)

    def token_s(window: int) -> float:
        positions_s = position_s * (1 + window * load)
        return (features.round_trip_s + FIXED_SHARE * work_s + positions_s) / tokens(window)

    return float(min(range(MAX_WINDOW + 1), key=token_s))


POLICIES: dict[str, Callable[[], WindowController]] = {
    "static 4": lambda: policy_of("fixed", Terms(4)),
    "threshold": lambda: policy_of("threshold", Terms(MAX_WINDOW)),
    "AWC, formula": lambda: AdaptiveWindow(MAX_WINDOW, formula_window),
    "AWC, fitted": lambda: policy_of("awc", Terms(MAX_WINDOW)),
    "throughput:rounds": lambda: policy_of("throughput:rounds", Terms(MAX_WINDOW)),
    "throughput": lambda: policy_of("throughput", Terms(MAX_WINDOW)),
}


def reached(chosen: Scenario) -> list[float]:
    return [chosen.speed(make()) for make in POLICIES.values()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", type=Path, required=True)
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    rows = read(options.sweep)
    with ProcessPoolExecutor(options.jobs) as pool:
        found = np.array(list(pool.map(reached, [Scenario(**row["scenario"]) for row in rows])))
    speeds = speeds_of(rows)
    best, one = speeds.max(axis=1), int(np.log(speeds).mean(axis=0).argmax())
    losses = {name: 1 - column / best for name, column in zip(POLICIES, found.T, strict=True)}
    losses[f"best single window: {WINDOWS[one] or 'off'}"] = 1 - speeds[:, one] / best
    busy = np.array([row["scenario"]["others"] > 0 for row in rows])
    print(f"{len(best)} scenarios\n{'loss, %':26}  mean  median     p95   worst   alone   busy")
    for name, loss in losses.items():
        figures = (
            loss.mean(),
            np.median(loss),
            np.quantile(loss, 0.95),
            loss.max(),
            loss[~busy].mean(),
            loss[busy].mean(),
        )
        print(f"{name:26}" + "".join(f"{100 * figure:8.1f}" for figure in figures))


if __name__ == "__main__":
    main()

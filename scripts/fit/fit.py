"""Fits AWC's network to a sweep: the window that loses least speed where AWC has seen what it sees.

    PYTHONPATH=.:scripts/fit python scripts/fit/fit.py --sweep sweep.jsonl --out dsdnode/pacing/awc.json

The loss is what the predicted window costs (log of the best speed over its own, straight lines between windows), and a
little the distance to the best window, which also leads where the cost is flat. The same sweep and seed give the same
file, on the same numpy and machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sweep import WINDOWS, read, speeds_of

from dsdnode.pacing.awc import Array, ResidualNetwork, affine, inputs

WIDTH, NUM_BLOCKS = 12, 2
DISTANCE = 0.002
"""Of the loss: a window squared."""
EPOCHS, BATCH, RATE = 80, 256, 3e-3
KNOTS = np.array([1, *WINDOWS[1:]], dtype=float)
"""A prediction of 1 or less is off."""


def first_network(rows: Array, rng: np.random.Generator) -> ResidualNetwork:
    def layer(num_out: int, num_in: int, gain: float) -> Array:
        return np.hstack([rng.normal(0, gain / num_in**0.5, (num_out, num_in)), np.zeros((num_out, 1))])

    blocks = [layer(WIDTH, WIDTH, 1.4 if index % 2 == 0 else 0.3) for index in range(2 * NUM_BLOCKS)]
    out = layer(1, WIDTH, 1.0)
    out[0, -1] = 5.0
    return ResidualNetwork(rows.mean(axis=0), rows.std(axis=0), (layer(WIDTH, rows.shape[1], 1.0), *blocks, out))


def loss(windows: Array, costs: Array, best: Array) -> tuple[Array, Array]:
    """(loss, its slope) of each prediction; `costs` [n, knots]: of the scenario that it was made in."""
    inside = np.clip(windows, 1.0, KNOTS[-1])
    left = np.clip(inside.astype(int) - 1, 0, len(KNOTS) - 2)
    each = np.arange(len(windows))
    rise = costs[each, left + 1] - costs[each, left]
    cost = costs[each, left] + rise * (inside - KNOTS[left])
    slope = np.where(windows == inside, rise, 0.0)
    return cost + DISTANCE * (windows - best) ** 2, slope + 2 * DISTANCE * (windows - best)


def gradients(network: ResidualNetwork, rows: Array, costs: Array, best: Array) -> list[Array]:
    """Of the mean loss, for each layer; by hand."""
    enter, *blocks, out = network.layers
    scaled = (rows - network.mean) / network.scale
    hidden = [affine(enter, scaled)]
    inner = []
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        inner.append(np.maximum(affine(first, hidden[-1]), 0.0))
        hidden.append(hidden[-1] + affine(second, inner[-1]))
    slope = loss(affine(out, hidden[-1])[:, 0], costs, best)[1][:, None] / len(rows)
    found = [_outer(slope, hidden[-1])]
    back = slope @ out[:, :-1]
    for index in reversed(range(NUM_BLOCKS)):
        first, second = blocks[2 * index], blocks[2 * index + 1]
        through = (back @ second[:, :-1]) * (inner[index] > 0)
        found += [_outer(back, inner[index]), _outer(through, hidden[index])]
        back = back + through @ first[:, :-1]
    return [*found, _outer(back, scaled)][::-1]


def _outer(slopes: Array, rows: Array) -> Array:
    return np.hstack([slopes.T @ rows, slopes.sum(axis=0)[:, None]])


def train(rows: Array, costs: Array, best: Array, seed: int) -> ResidualNetwork:
    """Adam, with a rate that falls to nothing."""
    rng = np.random.default_rng(seed)
    network = first_network(rows, rng)
    means = [np.zeros_like(layer) for layer in network.layers]
    squares = [np.zeros_like(layer) for layer in network.layers]
    num_steps, step = EPOCHS * (len(rows) // BATCH), 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            chosen, step = order[start : start + BATCH], step + 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / num_steps))
            for index, slope in enumerate(gradients(network, rows[chosen], costs[chosen], best[chosen])):
                means[index] += 0.1 * (slope - means[index])
                squares[index] += 0.001 * (slope**2 - squares[index])
                scaled = means[index] / (1 - 0.9**step) / (np.sqrt(squares[index] / (1 - 0.999**step)) + 1e-8)
                network.layers[index][...] -= rate * scaled
    return network


def lessons(sweep: list[dict[str, Any]]) -> tuple[Array, Array, Array]:
    """(inputs, costs, best windows), a row each lesson."""
    speeds = speeds_of(sweep)
    costs = np.log(speeds.max(axis=1, keepdims=True) / speeds)
    features = np.array([row["lessons"] for row in sweep])
    repeat = features.shape[1]
    best = KNOTS[costs.argmin(axis=1)]
    rows = inputs(*np.moveaxis(features.reshape(-1, features.shape[-1]), -1, 0))
    return rows, np.repeat(costs, repeat, axis=0), np.repeat(best, repeat)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sweep = read(options.sweep)
    rows, costs, best = lessons(sweep)
    network = train(rows, costs, best, options.seed)
    mean_loss = float(loss(network.window(rows), costs, best)[0].mean())
    made = {
        "made_by": "scripts/fit/sweep.py, scripts/fit/fit.py",
        "scenarios": len(sweep),
        "lessons": len(rows),
        "seed": options.seed,
        "mean_loss": round(mean_loss, 5),
    }
    rounded = [[[float(f"{value:.4g}") for value in row] for row in layer] for layer in network.layers]
    ends = {name: [float(f"{value:.6g}") for value in getattr(network, name)] for name in ("mean", "scale")}
    options.out.write_text(json.dumps(made | ends | {"layers": rounded}, separators=(",", ":")) + "\n")
    print(made, options.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

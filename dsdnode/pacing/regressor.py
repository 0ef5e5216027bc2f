"""AWC's regressor: five features -> the window of synchronous rounds that is best where they were seen.

A small residual network (arXiv 2511.21669 names the kind, not the sizes), fitted by scripts/fit/ to a sweep over
windows 2 to 12 and off; its weights, and how they were made, are in awc.json beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_WINDOW, MAX_WINDOW = 1, 12
WEIGHTS = "awc.json"
_LEAST_S = 1e-4
"""Shorter times are all the same."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Features:
    """`utilisation`: of the target's queues, 0 to 1 (w / (1 + w) with w others waiting). `round_trip_s`: the network
    alone. `token_s`: recent time per token. `window`: the one before, not rounded; 0: speculation was off.
    """

    utilisation: float
    acceptance_rate: float
    round_trip_s: float
    token_s: float
    window: float


Regressor = Callable[[Features], float]


def inputs(utilisation: Any, acceptance_rate: Any, round_trip_s: Any, token_s: Any, window: Any) -> Array:
    """What the network is fed, [..., 6] of features [...]: others at work, tokens of a round as it is and of an endless
    one, the network's share of a round, the round's own work, the window."""
    rate = np.clip(np.asarray(acceptance_rate, dtype=float), 0.0, 0.98)
    tokens = (1 - rate ** (np.asarray(window) + 1)) / (1 - rate)
    round_s = np.maximum(token_s * tokens, _LEAST_S)
    share = np.clip(round_trip_s / round_s, 0.0, 1.0)
    work_s = np.maximum(round_s * (1 - share), _LEAST_S)
    others = -np.log(np.clip(1 - np.asarray(utilisation, dtype=float), 1e-3, 1.0))
    columns = (others, rate, -np.log(1 - rate), share, np.log(work_s), window)
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(float)


@dataclass(frozen=True, slots=True)
class Network:
    """y = out (h_n), h_i+1 = h_i + second_i relu(first_i h_i), h_0 = enter ((inputs - mean) / scale)

    Each layer is a matrix [outputs, inputs + 1], the last column its bias.
    """

    mean: Array
    scale: Array
    layers: tuple[Array, ...]
    """enter, then first and second of each block, then out."""

    def window(self, rows: Array) -> Array:
        """[...] of inputs [..., num_inputs]"""
        enter, *blocks, out = self.layers
        hidden = affine(enter, (rows - self.mean) / self.scale)
        for first, second in zip(blocks[::2], blocks[1::2], strict=True):
            hidden = hidden + affine(second, np.maximum(affine(first, hidden), 0.0))
        result: Array = affine(out, hidden)[..., 0]
        return result

    def __call__(self, features: Features) -> float:
        f = features
        rows = inputs(f.utilisation, f.acceptance_rate, f.round_trip_s, f.token_s, f.window)
        return float(np.clip(self.window(rows), 0.0, MAX_WINDOW))


def affine(layer: Array, rows: Array) -> Array:
    result: Array = rows @ layer[:, :-1].T + layer[:, -1]
    return result


@cache
def fitted_window() -> Network:
    """As shipped; read once."""
    raw = json.loads(resources.files("dsdnode.pacing").joinpath(WEIGHTS).read_text())
    return network_of(raw)


def network_of(raw: dict[str, Any]) -> Network:
    layers = tuple(np.array(layer, dtype=float) for layer in raw["layers"])
    return Network(np.array(raw["mean"], dtype=float), np.array(raw["scale"], dtype=float), layers)

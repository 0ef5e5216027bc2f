"""AWC: adaptive window control, as far as published (Distributed Speculative Decoding, arXiv 2511.21669).

Five features -> a regressor -> the next window of synchronous rounds, clamped to [1, 12], smoothed by an average of 0.4
that is kept as a number with a fraction (a rounded one could never leave 4); two predictions in a row of at most 1
switch speculation off. How it is switched on again is not published: here a round of two every RETRY_TOKENS tokens of
plain decoding, doubled each time the regressor still says off.

The regressor is a small residual network (the paper names the kind, not the sizes), fitted by scripts/fit/ to a sweep
over windows 2 to 12 and off; its weights, and how they were made, are in awc.json beside this file. Any function of
`Features` can take its place. `ThresholdWindow` is the rule that AWC was published against.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsdnode.cost import PipelineCost
from dsdnode.pacing.fits import Mean, Ratio
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan

MIN_WINDOW, MAX_WINDOW, FIRST_WINDOW = 1, 12, 4
SMOOTHING = 0.4
STRIKES = 2
RETRY_TOKENS, RETRY_WINDOW = 32, 2
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
class ResidualNetwork:
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
def fitted_window() -> ResidualNetwork:
    """As shipped; read once."""
    raw = json.loads(resources.files("dsdnode.pacing").joinpath(WEIGHTS).read_text())
    return network_of(raw)


def network_of(raw: dict[str, Any]) -> ResidualNetwork:
    layers = tuple(np.array(layer, dtype=float) for layer in raw["layers"])
    return ResidualNetwork(np.array(raw["mean"], dtype=float), np.array(raw["scale"], dtype=float), layers)


class AdaptiveWindow:
    """Rounds alone; `draft_max` caps the window further; `regressor`: the fitted one, if None."""

    may_copy = False

    def __init__(self, draft_max: int, regressor: Regressor | None = None) -> None:
        self._max = min(MAX_WINDOW, draft_max)
        self._regressor = regressor or fitted_window()
        self._window = float(min(FIRST_WINDOW, self._max))
        self._is_off = False
        self._num_strikes = 0
        self._rate = Ratio(0.75 * 4, 4.0, 0.95)
        self._token_s = Ratio(0.0, 0.0, 0.8)
        self._network_s, self._others = Mean(0.8), Mean(0.8)
        self._retry_in = self._retry_gap = RETRY_TOKENS
        self._last_s: float | None = None
        self._plan = self._planned("")

    def plan(self) -> Plan:
        return self._plan

    def copying(self, survival: Sequence[float]) -> Plan | None:
        return None

    def guesses(self) -> int:
        return 0

    def on_guesses(self, num_guesses: int, seconds: float) -> None:
        pass

    def on_route(self, costs: PipelineCost) -> None:
        self._last_s = None

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        pass

    def on_failure(self) -> None:
        self._last_s = None

    def on_verdict(self, event: PassEvent) -> None:
        if event.num_committed == 0:
            return
        self._measure(event)
        if event.mode != self._plan.mode or self._token_s.whole == 0:
            return  # sent under the plan before
        if self._is_off:
            self._wait(event.num_committed)
        else:
            self._adapt()

    def _measure(self, event: PassEvent) -> None:
        for index in range(event.num_judged):
            self._rate.add(index < event.num_accepted)
        self._network_s.add(max(0.0, event.judged_s - event.sent_s - sum(event.stage_s) - sum(event.waited_s)))
        self._others.add(max(event.queue, default=0))
        if self._last_s is not None:
            self._token_s.add(event.judged_s - self._last_s, event.num_committed)
        self._last_s = event.judged_s

    def _adapt(self) -> None:
        others, window = self._others.value, float(self._plan.window)
        utilisation = others / (1 + others)
        features = Features(utilisation, self._rate.value, self._network_s.value, self._token_s.value, window)
        predicted = self._regressor(features)
        self._num_strikes = self._num_strikes + 1 if predicted <= 1 else 0
        if self._num_strikes >= STRIKES:
            self._is_off, self._retry_in = True, self._retry_gap
            self._plan = self._planned(
                f"drafts are accepted {100 * self._rate.value:.0f} % of the time: no window is worth it"
            )
            return
        if predicted > 1:
            self._retry_gap = RETRY_TOKENS
        clamped = min(max(predicted, MIN_WINDOW), self._max)
        self._window += SMOOTHING * (clamped - self._window)
        self._plan = self._planned("")

    def _wait(self, num_tokens: int) -> None:
        self._retry_in -= num_tokens
        if self._retry_in <= 0:
            self._retry_gap *= 2
            self._is_off, self._num_strikes, self._window = False, 0, float(min(RETRY_WINDOW, self._max))
            self._plan = self._planned("trying drafts again")

    def _planned(self, reason: str) -> Plan:
        window = 0 if self._is_off else max(1, round(self._window))
        return Plan("rounds" if window else "plain", window, window, reason=reason)


class ThresholdWindow:
    """Rounds alone, of 1 to 12 tokens, `draft_max` at most: one more after a round in which every draft token was
    right, one less after any other. The steps of one are ours, since theirs are not published. For comparisons."""

    may_copy = False

    def __init__(self, draft_max: int) -> None:
        self._max = min(MAX_WINDOW, draft_max)
        self._window = min(FIRST_WINDOW, self._max)

    def plan(self) -> Plan:
        return Plan("rounds", self._window, self._window)

    def copying(self, survival: Sequence[float]) -> Plan | None:
        return None

    def guesses(self) -> int:
        return 0

    def on_guesses(self, num_guesses: int, seconds: float) -> None:
        pass

    def on_route(self, costs: PipelineCost) -> None:
        pass

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        pass

    def on_verdict(self, event: PassEvent) -> None:
        if event.num_judged:
            step = 1 if event.num_accepted == event.num_judged else -1
            self._window = min(max(self._window + step, MIN_WINDOW), self._max)

    def on_failure(self) -> None:
        pass

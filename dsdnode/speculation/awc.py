"""AWC: adaptive window control, as far as published (Distributed Speculative Decoding, arXiv 2511.21669).

Five features -> a regressor -> the next window of synchronous rounds, clamped to [1, 12], smoothed by an average of 0.4
that is kept as a number with a fraction (a rounded one could never leave 4); two predictions in a row of at most 1
switch speculation off. How it is switched on again is not published: here a round of two every RETRY_TOKENS tokens of
plain decoding, doubled each time the regressor still says off.

The paper's regressor is a small residual network fitted to the best windows of a sweep. `analytic_window` stands in for
it: any function of `Features` can take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dsdnode.speculation.estimates import Mean, Ratio
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.window import Plan, RouteCosts

MIN_WINDOW, MAX_WINDOW = 1, 12
SMOOTHING = 0.4
FIRST_WINDOW = 4.0
STRIKES = 2
RETRY_TOKENS, RETRY_WINDOW = 32, 2
FIXED_SHARE = 0.5
"""Of a round's own work, what does not grow with the window: the features do not tell."""


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


def analytic_window(features: Features) -> float:
    """The best window by the formula for rounds; 1 or less where plain decoding is as fast.

    What a round costs beyond the network is taken from the present one: half of it whatever the window, half of it by
    its positions, and so much more of the latter as others wait.
    """
    rate = features.acceptance_rate
    round_s = features.token_s * _tokens(rate, features.window)
    work_s = max(0.05 * round_s, round_s - features.round_trip_s)
    load = 1 / max(0.1, 1 - features.utilisation)
    position_s = (1 - FIXED_SHARE) * work_s / (features.window + 1)

    def token_s(window: int) -> float:
        positions_s = position_s * (1 + window * load)
        return (features.round_trip_s + FIXED_SHARE * work_s + positions_s) / _tokens(rate, window)

    best = min(range(MIN_WINDOW, MAX_WINDOW + 1), key=token_s)
    return float(best) if token_s(best) < token_s(0) else 0.0


def _tokens(rate: float, window: float) -> float:
    """Of a round: (1 - alpha^(k+1)) / (1 - alpha)."""
    return window + 1 if rate >= 1 else (1 - rate ** (window + 1)) / (1 - rate)


class AdaptiveWindow:
    """Rounds alone; `draft_max` caps the window further."""

    def __init__(self, draft_max: int, regressor: Regressor = analytic_window) -> None:
        self._max = min(MAX_WINDOW, draft_max)
        self._regressor = regressor
        self._window = min(FIRST_WINDOW, float(self._max))
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

    def on_route(self, costs: RouteCosts) -> None:
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

"""AWC: adaptive window control, as far as published (Distributed Speculative Decoding, arXiv 2511.21669).

Five features -> a regressor -> the next window of synchronous rounds, clamped to [1, 12], smoothed by an average of 0.4
that is kept as a number with a fraction (a rounded one could never leave 4); two predictions in a row of at most 1
switch speculation off. How it is switched on again is not published: here a round of two every RETRY_TOKENS tokens of
plain decoding, doubled each time the regressor still says off.

The regressor is fitted to a sweep (regressor.py); any function of `Features` can take its place.
"""

from __future__ import annotations

from dsdnode.pacing.fits import Mean, Ratio
from dsdnode.pacing.regressor import MAX_WINDOW, MIN_WINDOW, Features, Regressor, fitted_window
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan, RouteCosts

SMOOTHING = 0.4
FIRST_WINDOW = 4.0
STRIKES = 2
RETRY_TOKENS, RETRY_WINDOW = 32, 2


class AdaptiveWindow:
    """Rounds alone; `draft_max` caps the window further; `regressor`: the fitted one, if None."""

    def __init__(self, draft_max: int, regressor: Regressor | None = None) -> None:
        self._max = min(MAX_WINDOW, draft_max)
        self._regressor = regressor or fitted_window()
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

"""The threshold rule that AWC was published against (arXiv 2511.21669): the window grows by one after a round in which
every guess was right, and shrinks by one after any other. The steps of one are ours, since theirs are not published.
"""

from __future__ import annotations

from dsdnode.pacing.regressor import MAX_WINDOW, MIN_WINDOW
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan, RouteCosts

FIRST_WINDOW = 4


class ThresholdWindow:
    """Rounds alone, of 1 to 12 tokens; `draft_max` caps them further. For comparisons."""

    def __init__(self, draft_max: int) -> None:
        self._max = min(MAX_WINDOW, draft_max)
        self._window = min(FIRST_WINDOW, self._max)

    def plan(self) -> Plan:
        return Plan("rounds", self._window, self._window)

    def on_route(self, costs: RouteCosts) -> None:
        pass

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        pass

    def on_verdict(self, event: PassEvent) -> None:
        if event.num_judged:
            step = 1 if event.num_accepted == event.num_judged else -1
            self._window = min(max(self._window + step, MIN_WINDOW), self._max)

    def on_failure(self) -> None:
        pass

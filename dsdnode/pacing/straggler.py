"""A stage that is far slower than its record says, noticed from the times in the verdicts. Pure.

Whether another pipeline is better, the router knows (node/drafter/routes.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.cost import PipelineCost
from dsdnode.pacing.fits import MAX_FITTED_POSITIONS, SHARED_POSITIONS
from dsdnode.speculation.events import PassEvent

FACTOR = 3.0
NUM_VERDICTS = 4
PASS_SHARE = 0.3
MIN_EXCESS_S = 0.03
"""On a quick pair, a few dozen milliseconds are the noise of a busy machine."""
QUIET_S = 30.0


@dataclass(frozen=True, slots=True)
class Straggler:
    """Stage `index` of the route takes `factor` times what was expected of it."""

    index: int
    factor: float


class StragglerWatch:
    """Tells of a stage that took over FACTOR times what its record says, in NUM_VERDICTS judged passes in a row.

    It must also be what the passes wait for: over PASS_SHARE of the time that stages and links take. After a word,
    none for QUIET_S, whatever the route.
    """

    def __init__(self) -> None:
        self._costs = PipelineCost((), 0.0)
        self._factors: list[list[float]] = []
        self._quiet_until_s = float("-inf")
        self._last: PassEvent | None = None

    def on_route(self, costs: PipelineCost) -> None:
        """The reply goes by another pipeline."""
        self._costs = costs
        self._factors = [[] for _ in costs.stages]

    def on_verdict(self, event: PassEvent) -> Straggler | None:
        """The newest pass; not every verdict brings one, and each counts once."""
        if event is self._last:
            return None
        self._last = event
        if len(event.stage_s) != len(self._factors) or event.num_positions > MAX_FITTED_POSITIONS:
            return None
        pass_s = sum(event.stage_s) + self._costs.network_s
        for index, stage_s in enumerate(event.stage_s):
            self._look(index, stage_s, self._expected_s(index, event), pass_s)
        found = [Straggler(i, min(seen)) for i, seen in enumerate(self._factors) if len(seen) >= NUM_VERDICTS]
        if not found or event.judged_s < self._quiet_until_s:
            return None
        self._quiet_until_s = event.judged_s + QUIET_S
        return max(found, key=lambda straggler: event.stage_s[straggler.index])

    def _expected_s(self, index: int, event: PassEvent) -> float:
        """The others that it shares its decodes with are no fault of the stage: one may be a prompt."""
        shared = index < len(event.queue) and event.queue[index] > 0
        num_positions = max(event.num_positions, SHARED_POSITIONS) if shared else event.num_positions
        return self._costs.stages[index].at(num_positions)

    def _look(self, index: int, stage_s: float, expected_s: float, pass_s: float) -> None:
        slow = expected_s > 0 and stage_s > FACTOR * expected_s and stage_s - expected_s > MIN_EXCESS_S
        if slow and stage_s > PASS_SHARE * pass_s:
            self._factors[index] = [*self._factors[index], stage_s / expected_s][-NUM_VERDICTS:]
        else:
            self._factors[index] = []

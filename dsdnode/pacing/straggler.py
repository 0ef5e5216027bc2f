"""Peers that are far slower than their records say: noticed from the times in the verdicts, remembered for a while, so
that others are asked. Pure. Whether another pipeline is better, the routes know (node/drafter/routes.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cachetools import LRUCache

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.fits import BLOCK_POSITIONS, MAX_FITTED_POSITIONS, SHARED_POSITIONS
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.speculation.events import PassEvent
from dsdnode.wire.records import ProviderRecord

SLOW_FACTOR, SLOW_EXCESS_S = 3.0, 0.03
"""So many times what it says, and so much more: a few dozen milliseconds are the noise of a busy machine."""
SLOW_QUIET_S = 30.0
"""After a word, none for so long: a pipeline that is changed must fill its caches again."""
SLOW_HALF_LIFE_S = 60.0
"""How soon what was seen of a peer is forgotten."""
MAX_PEERS = 256
MIN_FACTOR = 1.05
"""Less is not worth a word."""


@dataclass(frozen=True, slots=True)
class Straggler:
    """Stage `index` of the route takes `factor` times what was expected of it."""

    index: int
    factor: float


class StragglerWatch:
    """Tells of a stage that took over SLOW_FACTOR times what its record says, in `slow_verdicts` judged passes in a
    row. It must also be what the passes wait for: over `slow_pass_share` of the time that stages and links take. After
    a word, none for SLOW_QUIET_S, whatever the route.
    """

    def __init__(self, tuning: Tuning = TUNING) -> None:
        self._tuning = tuning
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
        found = [
            Straggler(i, min(seen)) for i, seen in enumerate(self._factors) if len(seen) >= self._tuning.slow_verdicts
        ]
        if not found or event.judged_s < self._quiet_until_s:
            return None
        self._quiet_until_s = event.judged_s + SLOW_QUIET_S
        return max(found, key=lambda straggler: event.stage_s[straggler.index])

    def _expected_s(self, index: int, event: PassEvent) -> float:
        """The others that it shares its decodes with are no fault of the stage: one may be a prompt."""
        shared = index < len(event.queue) and event.queue[index] > 0
        num_positions = max(event.num_positions, SHARED_POSITIONS) if shared else event.num_positions
        return self._costs.stages[index].at(num_positions)

    def _look(self, index: int, stage_s: float, expected_s: float, pass_s: float) -> None:
        slow = expected_s > 0 and stage_s > SLOW_FACTOR * expected_s and stage_s - expected_s > SLOW_EXCESS_S
        if slow and stage_s > self._tuning.slow_pass_share * pass_s:
            self._factors[index] = [*self._factors[index], stage_s / expected_s][-self._tuning.slow_verdicts :]
        else:
            self._factors[index] = []


class Slowness:
    """By peer id: what a block was seen to take, and when."""

    def __init__(self) -> None:
        self._seen: LRUCache[bytes, tuple[float, float]] = LRUCache(MAX_PEERS)

    def note(self, peer: bytes, cost: CostLine, now: float) -> None:
        """Its cost line seems to be this one."""
        self._seen[peer] = cost.at(BLOCK_POSITIONS), now

    def factors(self, records: Iterable[ProviderRecord], now: float) -> dict[bytes, float]:
        """How many times slower than its record each is likely to be still; a record that owns up adds nothing."""
        factors = {}
        for record in records:
            seen_s, noted_s = self._seen.get(record.peer_id, (0.0, now))
            recorded_s = record.cost.at(BLOCK_POSITIONS)
            if recorded_s > 0 and seen_s > recorded_s:
                factor = 1 + (seen_s / recorded_s - 1) * 0.5 ** ((now - noted_s) / SLOW_HALF_LIFE_S)
                if factor > MIN_FACTOR:
                    factors[record.peer_id] = factor
        return factors

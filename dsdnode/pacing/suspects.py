"""Who swallows blocks, and who is far slower than his record says: noticed, remembered for a while, so that others are
asked. Pure. Whether another pipeline is better, the routes know (node/drafter/routes.py).

A stage may answer pings and pass nothing on, or two that answer everybody may not reach each other. Asked how far a
block has come (Trace), the stages name the place where it was lost: between two of them, and either may lie. So the
pair is avoided, not its peers; who is in such pairs with two others is avoided himself.

Where the stages do not know, or one says each time that it has forgotten the reply, all of the route are suspected:
those that do their work elsewhere are cleared there, and where nobody else is left those that failed the fewest times
are asked.

New names cost nothing, so who has passed nothing of ours yet is tried where those who have would do, too, but not again
and again in vain (Trials).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cachetools import LRUCache

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.fits import BLOCK_POSITIONS, MAX_FITTED_POSITIONS, SHARED_POSITIONS
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.speculation.events import PassEvent
from dsdnode.wire.records import ProviderRecord

SUSPECT_S = 600.0
"""A router that lets nobody in will not in ten minutes; who was wronged is back then, and sooner where blocks pass."""
MAX_SUSPECTS = 256
MAX_PROVEN = 1024
TRIAL_PAUSE_S, MAX_TRIAL_PAUSE_S = 30.0, 600.0
"""After a trial that came to nothing, twice as long after each in a row: of a hundred replies in that time one, or
fewer, are held up."""
TRIAL_S = 1.0
"""So much longer than it should take a newcomer has: its links are new, too."""
TRIAL_PASSES = 4
"""And so many times what it should take: a machine that others are at work on is no blackhole."""
SLOW_FACTOR, SLOW_EXCESS_S = 3.0, 0.03
"""So many times what it says, and so much more: a few dozen milliseconds are the noise of a busy machine."""
SLOW_QUIET_S = 30.0
"""After a word, none for so long: a pipeline that is changed must fill its caches again."""
SLOW_HALF_LIFE_S = 60.0
"""How soon what was seen of a peer is forgotten."""
MAX_PEERS = 256
MIN_FACTOR = 1.05
"""Less is not worth a word."""
NOT_COME, HERE, PASSED_ON = 0, 1, 2
"""As in Traced."""

Link = tuple[bytes, bytes]
"""Two peers; one peer twice: himself."""


def lost_at(reached: Sequence[int | None]) -> tuple[int, int]:
    """Between which stages a block is that nobody answers, by what each said of it (None: nothing).

    Twice the same index: it is this one's alone, or it lies between the stage and the owner.
    """
    for index, far in enumerate(reached):
        if far == NOT_COME and index > 0:
            return index - 1, index
        if far != PASSED_ON:
            return index, index
    return len(reached) - 1, len(reached) - 1


class Suspects:
    """Links and peers that lost blocks, of all replies of an owner."""

    def __init__(self) -> None:
        self._seen: LRUCache[Link, tuple[float, int]] = LRUCache(MAX_SUSPECTS)
        """When last, and how often."""
        self._proven: LRUCache[bytes, None] = LRUCache(MAX_PROVEN)
        """Peers that passed a block on, and were not suspected since."""

    def note(self, one: bytes, other: bytes, now: float) -> None:
        self._seen[one, other] = now, 1 + self.links(now).get((one, other), 0)
        if one == other:
            self._proven.pop(one, None)

    def failed(self, route: Sequence[bytes], now: float) -> None:
        """Nothing came of it, and nobody knows why."""
        for peer in route:
            self.note(peer, peer, now)

    def passed(self, route: Sequence[bytes]) -> None:
        """A block went round these stages. (Each verdict says so, and nearly always that is known.)"""
        if not self._seen and all(peer in self._proven for peer in route):
            return
        for link in [*pairwise(route), *((peer, peer) for peer in route)]:
            self._seen.pop(link, None)
        self._proven.update(dict.fromkeys(route))

    def is_proven(self, peer: bytes) -> bool:
        """Has a block gone through it, and none been lost there since?"""
        return peer in self._proven

    def links(self, now: float) -> dict[Link, int]:
        """Pairs to avoid, and how often each lost something."""
        return {link: num for link, (seen_s, num) in self._seen.items() if now < seen_s + SUSPECT_S}

    def peers(self, now: float) -> list[bytes]:
        """To avoid: alone suspected, or in pairs with two others."""
        others: dict[bytes, dict[bytes, None]] = {}
        for one, other in sorted(self.links(now)):
            others.setdefault(one, {})[other] = None
            others.setdefault(other, {})[one] = None
        return [peer for peer, known in others.items() if peer in known or len(known) > 1]


class Trials:
    """When peers that have shown nothing yet are given a reply that others could have."""

    def __init__(self) -> None:
        self._next_s = float("-inf")
        self._pause_s = TRIAL_PAUSE_S

    def is_due(self, now: float) -> bool:
        return now >= self._next_s

    def begun(self, now: float) -> None:
        """One at a time: it counts as failed until it has `passed`."""
        self._next_s = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_TRIAL_PAUSE_S)

    def passed(self) -> None:
        self._next_s, self._pause_s = float("-inf"), TRIAL_PAUSE_S


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

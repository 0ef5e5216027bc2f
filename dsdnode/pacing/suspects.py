"""Who swallows blocks: found by elimination, remembered for a while, so that others are asked. Pure.

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

from collections.abc import Sequence
from itertools import pairwise

from cachetools import LRUCache

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
        """A block went round these stages."""
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

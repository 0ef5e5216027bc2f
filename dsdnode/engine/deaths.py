"""What the deaths of a worker mean for its engine: how long it rests before the next life, and when it is quarantined.

Pure. A request may end a worker, and the next worker, too: that is no fault of the engine's. So deaths that one owner's
work explains count once, however many they are. Where nothing ran, the engine or its machine is to blame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

MAX_DEATHS = 3
"""In DEATH_WINDOW_S, with no owner in common: what everybody's work dies of is no work's fault."""
DEATH_WINDOW_S = 60.0
FIRST_PAUSE_S = 0.05
"""After one death. It grows fourfold with each recent one, whosever fault: a model may take minutes to load."""
MAX_PAUSE_S = 15.0
QUARANTINE_S = 30.0
"""The first one; the next is twice as long, and so on. (Peers look for another pipeline for as long.)"""
MAX_QUARANTINE_S = 600.0
"""Memory that ran out, or a disk that was away, is seen to be back within ten minutes."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Before the next life. `quarantine`: why it is a quarantine, in words; empty: it is none."""

    pause_s: float
    quarantine: str = ""


class Deaths:
    """Those of one engine."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, frozenset[bytes]]] = deque()
        self._num_quarantines = 0
        self._over_s = float("-inf")
        """When the last quarantine ended, or will."""

    def add(self, now: float, owners: frozenset[bytes]) -> Rest:
        """It died while work of these `owners` ran (none: nobody's)."""
        while self._recent and now - self._recent[0][0] >= DEATH_WINDOW_S:
            self._recent.popleft()
        self._recent.append((now, owners))
        causes = _causes([who for _, who in self._recent])
        if len(causes) < MAX_DEATHS:
            return Rest(min(MAX_PAUSE_S, FIRST_PAUSE_S * 4.0 ** (len(self._recent) - 1)))
        return self._quarantine(now, causes)

    def _quarantine(self, now: float, causes: Sequence[frozenset[bytes]]) -> Rest:
        if now - self._over_s >= MAX_QUARANTINE_S:  # it was well for so long
            self._num_quarantines = 0
        pause_s = min(MAX_QUARANTINE_S, QUARANTINE_S * 2.0**self._num_quarantines)
        self._num_quarantines += 1
        self._over_s = now + pause_s
        num = len(self._recent)
        self._recent.clear()
        return Rest(pause_s, f"it died {num} times within {DEATH_WINDOW_S:.0f} s, {_words(causes)}")


def _causes(deaths: Sequence[frozenset[bytes]]) -> list[frozenset[bytes]]:
    """Those that no owner of an earlier one explains."""
    causes: list[frozenset[bytes]] = []
    for owners in deaths:
        if all(owners.isdisjoint(known) for known in causes):
            causes.append(owners)
    return causes


def _words(causes: Sequence[frozenset[bytes]]) -> str:
    idle = sum(not owners for owners in causes)
    if idle == len(causes):
        return "while nothing ran"
    return "of the work of owners that have nothing in common" + (f", and while nothing ran ({idle})" if idle else "")

"""Whose work an engine's worker died of, or could not do: it runs alone then, and a third time not at all. Pure.

A worker that dies takes every session with it, and one of them may be why. All whose work ran are marked; what is
marked runs alone, so the next death has one name. A mark goes when the work has got beyond where it was, or with time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cachetools import LRUCache

from dsdnode.node.batching.scheduler import Owner
from dsdnode.wire.messages import MAX_KILLED

REMEMBER_S = 600.0
"""Nobody is refused for ever; an owner's reply is over by then."""
MAX_MARKS = 4096
REFUSED = "the engine here died twice of this work, or could not do it: it is not tried again, so do not carry it on"


@dataclass(frozen=True, slots=True)
class _Mark:
    """`end`: where the run would have ended that was the last one."""

    num: int
    end: int
    marked_s: float


class Culprits:
    """Of one engine."""

    def __init__(self) -> None:
        self._marks: LRUCache[Owner, _Mark] = LRUCache(MAX_MARKS)

    @property
    def has_marks(self) -> bool:
        """Of anybody. (Nearly always there are none, and each decode asks.)"""
        return bool(self._marks)

    def mark(self, ran: Mapping[Owner, int], now: float) -> Owner | None:
        """The engine died of the work of one of these, or could not do it; each with the position where its run would
        have ended. Returns whose it was; None: nobody's, or nobody can tell."""
        alone = next(iter(ran)) if len(ran) == 1 else None
        for owner, end in ran.items():
            known = self._mark(owner, now)
            num = 1 if known is None or alone is None else known.num + 1
            self._marks[owner] = _Mark(num, end, now)
        return alone

    def passed(self, owner: Owner, end: int) -> None:
        """A run of it was done, up to `end`."""
        mark = self._marks.get(owner) if self._marks else None
        if mark is not None and mark.num < MAX_KILLED and end >= mark.end:
            del self._marks[owner]

    def is_marked(self, owner: Owner, now: float) -> bool:
        return self._mark(owner, now) is not None

    def is_refused(self, owner: Owner, now: float) -> bool:
        mark = self._mark(owner, now)
        return mark is not None and mark.num >= MAX_KILLED

    def _mark(self, owner: Owner, now: float) -> _Mark | None:
        mark = self._marks.get(owner)
        return None if mark is None or now >= mark.marked_s + REMEMBER_S else mark

"""How often something may be done, by whom it is done for: so many times at once, and so many more a minute."""

from __future__ import annotations

from collections.abc import Hashable

from cachetools import LRUCache

MAX_REMEMBERED = 4096


class Credits:
    """Pure. Of whom nothing is known has all of it; of more than 4,096, those that were idle longest are forgotten."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left: LRUCache[Hashable, tuple[float, float]] = LRUCache(MAX_REMEMBERED)

    def __len__(self) -> int:
        return len(self._left)

    def left(self, key: Hashable, now: float) -> float:
        credit, then = self._left.get(key, (self._burst, now))
        return min(self._burst, credit + (now - then) * self._per_s)

    def spend(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """Take `cost` away if one is left, which may lead into debt; False: nothing was left."""
        credit = self.left(key, now)
        allowed = credit >= 1
        self._left[key] = (credit - cost * allowed, now)
        return allowed

    def charge(self, key: Hashable, now: float, cost: float) -> None:
        """For what has happened anyway: later attempts pay for it. A negative `cost` is given back."""
        self._left[key] = (min(self._burst, self.left(key, now) - cost), now)

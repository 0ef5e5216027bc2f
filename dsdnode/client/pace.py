"""How fast drafters give their tokens, by what a client has seen of them itself, and who is slow. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import LRUCache

SLOW = 2.0
"""Tokens a second, where nothing is known of other drafters: half of what somebody reads aloud."""
SLOWER = 3.0
"""Times slower than another one is: links and load make less of a difference between two that do their work."""
MIN_TOKENS, MIN_S = 16, 2.0
"""One of these, behind the first tokens, or it says nothing of a pace."""
MAX_PACES = 256


@dataclass(slots=True)
class Pace:
    """Of one drafter in one reply, by when its tokens arrive: who reads them may pause."""

    num_tokens: int = 0
    first_s: float | None = None
    _num_first: int = 0
    _last_s: float = 0.0

    def heard(self, now: float, num_tokens: int) -> None:
        if not self.num_tokens:
            self.first_s, self._num_first = now, num_tokens
        self.num_tokens += num_tokens
        self._last_s = now

    def tokens_per_s(self, now: float | None = None) -> float | None:
        """Behind the first ones; None: too little to tell. `now`: more are still to come."""
        if self.first_s is None:
            return None
        num = self.num_tokens - self._num_first
        took_s = (self._last_s if now is None else now) - self.first_s
        told = took_s > 0 and (num >= MIN_TOKENS or took_s >= MIN_S)
        return num / took_s if told else None


class Paces:
    """Of the drafters that gave this client replies of a model, as each was last."""

    def __init__(self) -> None:
        self._known: LRUCache[tuple[str, bytes], float] = LRUCache(MAX_PACES)

    def note(self, model_id: str, drafter: bytes, tokens_per_s: float) -> None:
        self._known[model_id, drafter] = tokens_per_s

    def forget(self, model_id: str, drafter: bytes) -> None:
        self._known.pop((model_id, drafter), None)

    def least(self, model_id: str, drafter: bytes) -> float:
        """Tokens a second; who gives less is slow: far less than the fastest of the others."""
        others = [pace for (model, one), pace in list(self._known.items()) if model == model_id and one != drafter]
        return max(others) / SLOWER if others else SLOW

    def rank(self, model_id: str, drafter: bytes) -> int:
        """Those that were not slow first, and those that were last."""
        known = self._known.get((model_id, drafter))
        return 1 if known is None else 0 if known >= self.least(model_id, drafter) else 2

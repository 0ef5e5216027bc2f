"""Who stands in the door: connections by the network that they come from, before and after they have greeted.

A connection costs a stranger nothing and us a descriptor. Those that have not greeted are few, and make room for
newcomers, the heaviest network's first; only those that have proved to be peers count against the limit.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

MAX_WAITING = 128
"""Connections that have not greeted. A greeting takes 5.6 round trips; one more than these ends another."""
GREETING_S = 10.0
"""After so long without a greeting a connection is ended."""
FAREWELL_S = 0.5
"""For a refusal in words to get through."""
MAX_MESSAGES = 16
"""That are no greeting, of one connection."""
MAX_CONNECTIONS = 400
"""Of peers. With dealers and files, below the usual 1,024 descriptors of a process."""
MAX_PER_PEER = 8
"""Two lanes, and those that it has lost without our knowing."""


@dataclass(slots=True)
class _Waiting:
    source: str
    until_s: float
    num_messages: int = 0
    refused: bool = False


class Lobby:
    """Pure. Connections are named by their descriptors; a source is an address or a network."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._peers: OrderedDict[int, tuple[str, bytes]] = OrderedDict()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_peers(self) -> int:
        return len(self._peers)

    def arrived(self, now: float, descriptor: int, source: str) -> int | None:
        """A connection was accepted; which other one is to be ended for it."""
        self.left(descriptor)
        self._waiting[descriptor] = _Waiting(source, now + GREETING_S)
        if len(self._waiting) <= MAX_WAITING:
            return None
        heaviest = _heaviest(Counter(one.source for one in self._waiting.values()))
        return self._end(next(one for one, waiting in self._waiting.items() if waiting.source == heaviest))

    def left(self, descriptor: int) -> None:
        """A connection has ended."""
        self._waiting.pop(descriptor, None)
        self._peers.pop(descriptor, None)

    def hears(self, descriptor: int) -> bool:
        """Is one more message that may be a greeting to be read? One that was refused said all it had to."""
        waiting = self._waiting.get(descriptor)
        if waiting is None:
            return True  # the news of its arrival are late
        waiting.num_messages += 1
        if waiting.num_messages > MAX_MESSAGES:
            waiting.until_s = 0.0
        return not waiting.refused and waiting.num_messages <= MAX_MESSAGES

    def refused(self, now: float, descriptor: int) -> None:
        """It has been told no."""
        waiting = self._waiting.get(descriptor)
        if waiting is not None:
            waiting.refused, waiting.until_s = True, now + FAREWELL_S

    def admits(self, source: str) -> bool:
        """Is there a place for one more peer from there, if need be that of another?"""
        counts = Counter(source for source, _ in self._peers.values())
        return len(self._peers) < MAX_CONNECTIONS or max(counts.values()) > counts[source] + 1

    def greeted(self, descriptor: int, source: str, peer: bytes) -> int | None:
        """It is a peer's, and admitted; which other one is to be ended for it."""
        self.left(descriptor)
        self._peers[descriptor] = (source, peer)
        own = [one for one, (_, other) in self._peers.items() if other == peer]
        if len(own) > MAX_PER_PEER:
            return self._end(own[0])
        if len(self._peers) <= MAX_CONNECTIONS:
            return None
        heaviest = _heaviest(Counter(source for source, _ in self._peers.values()))
        # Its newest: who came before a flood of neighbours stays.
        return self._end(next(one for one, (where, _) in reversed(self._peers.items()) if where == heaviest))

    def overdue(self, now: float) -> list[int]:
        """Connections to be ended, for they have not greeted, or were refused."""
        return [self._end(one) for one, waiting in list(self._waiting.items()) if waiting.until_s <= now]

    def _end(self, descriptor: int) -> int:
        self.left(descriptor)
        return descriptor


def _heaviest(counts: Counter[str]) -> str:
    return max(counts, key=lambda source: counts[source])

"""How fast bytes pass a relay: each circuit has a rate, all together have one, and where that is short they take turns.

Pure. A circuit is read from as long as it may, and then not until its turn comes again: TCP tells the sender. Whoever
sends little between two turns of its own never waits for those who send much. Turns go round the callers' networks, and
in each round its addresses: more circuits get nobody more than its neighbours have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from cachetools import LRUCache

from dsdnode.accounts import MAX_REMEMBERED, Account

CHUNK_BYTES = 64 * 1024
"""Read at once. Twice as much may wait in a circuit's direction for a receiver that is slower."""
TURN_BYTES = 16 * 1024
"""Of one circuit, when others wait: at 20 Mbit/s and with 16 busy circuits a turn comes every 0.1 s."""
BURST_S = 0.25
"""So much of a rate may pass at once after a pause: a block of hidden states does not trickle."""


class Bucket:
    """Bytes that may pass now; less than none: it is in debt, and nothing passes until time has paid."""

    def __init__(self, now: float, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._most = max(bytes_per_s * BURST_S, CHUNK_BYTES)
        self._left, self._then = self._most, now

    def left(self, now: float) -> float:
        return min(self._most, self._left + (now - self._then) * self._bytes_per_s)

    def take(self, now: float, num_bytes: int) -> None:
        self._left, self._then = self.left(now) - num_bytes, now


@dataclass(slots=True, eq=False)
class Flow:
    """Both directions of one circuit. At most `chunk_bytes` are to be read at once."""

    account: Account
    """Of its caller."""
    bucket: Bucket
    turn_bytes: int = TURN_BYTES
    chunk_bytes: int = CHUNK_BYTES


class Rates:
    def __init__(self, now: float, bytes_per_s: float, flow_bytes_per_s: float) -> None:
        self._all = Bucket(now, bytes_per_s)
        self._flow_bytes_per_s = flow_bytes_per_s
        self._waiting: OrderedDict[Flow, None] = OrderedDict()
        self._num_turns = 0
        self._last_turn: LRUCache[Hashable, int] = LRUCache(2 * MAX_REMEMBERED)
        """Of networks, and of addresses in them."""

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def open(self, now: float, account: Account) -> Flow:
        return Flow(account, Bucket(now, self._flow_bytes_per_s))

    def close(self, flow: Flow) -> None:
        self._waiting.pop(flow, None)

    def took(self, now: float, flow: Flow, num_bytes: int) -> bool:
        """So much was read of it. False: nothing more until `resumed` names it."""
        self._all.take(now, num_bytes)
        flow.bucket.take(now, num_bytes)
        flow.turn_bytes -= num_bytes
        self._set_chunk(now, flow)
        if flow.bucket.left(now) > 0 and flow.turn_bytes > 0:
            return True
        self._waiting.setdefault(flow)
        return False

    def _set_chunk(self, now: float, flow: Flow) -> None:
        if self._all.left(now) > 0:  # nobody waits for another
            flow.turn_bytes, flow.chunk_bytes = TURN_BYTES, CHUNK_BYTES
        else:
            flow.chunk_bytes = min(max(1, flow.turn_bytes), CHUNK_BYTES)

    def resumed(self, now: float) -> list[Flow]:
        """Whose turn it is now."""
        room, ready = self._all.left(now), list[Flow]()
        able = {flow: None for flow in self._waiting if room > 0 and flow.bucket.left(now) > 0}
        while room > 0 and able:
            flow = min(able, key=self._turn_before)  # of equals the one that has waited longest
            del able[flow], self._waiting[flow]
            self._num_turns += 1
            self._last_turn[flow.account.network] = self._last_turn[flow.account.place] = self._num_turns
            flow.turn_bytes = flow.chunk_bytes = TURN_BYTES
            room -= TURN_BYTES
            ready.append(flow)
        return ready

    def _turn_before(self, flow: Flow) -> tuple[int, int]:
        return self._last_turn.get(flow.account.network, 0), self._last_turn.get(flow.account.place, 0)

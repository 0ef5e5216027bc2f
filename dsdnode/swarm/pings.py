"""Who answers, and how fast: those that are gone hold nobody up.

A machine that vanished stays in everybody's records until these expire, which takes minutes: a reply that began by
waiting for its answer would pay for it each time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Sequence

from cachetools import LRUCache

from dsdnode.errors import DsdError
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.queries import Tasks, wait_until

PING_TIMEOUT_S = 2.0
GRACE_S = 1.0
"""So long everybody is waited for, and twice as long as it took those that are enough."""
MOMENT_S = 0.25
"""A race goes on for so long behind the first: a peer across the world is as good as one next door."""
AT_ONCE = 64
"""Of many that are asked. Each that is not linked yet is a call, and of too many calls the first are given up."""
SURVEY_S = 6.0
"""Who has not been asked by then is not: records of peers that are not there can be made in any number, and who looks
at the swarm waits for them. (Who lives comes before them the next time.)"""
MAX_SILENT = 1024
MAX_ANSWERED = 4096


class Pings:
    """One of a node, so that whoever was silent to one of its roles is so to all. `close` it at the end."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._tasks = Tasks()
        self._asking: set[bytes] = set()
        self._silent: LRUCache[bytes, float] = LRUCache(MAX_SILENT)
        """Peers that did not answer when they were asked last; since when."""
        self._answered: LRUCache[bytes, tuple[float, float]] = LRUCache(MAX_ANSWERED)
        """When each answered last, and its round trip then, s."""

    async def close(self) -> None:
        await self._tasks.close()

    def lot(self, name: bytes) -> bytes:
        """What to sort strangers by: an order of our own, in which nobody can put himself first."""
        return hashlib.sha256(self._rpc.transport.contact.public_key + name).digest()

    def is_silent(self, peer: bytes) -> bool:
        return peer in self._silent

    def lost(self, peer: bytes) -> None:
        """It did not answer."""
        self._silent[peer] = asyncio.get_running_loop().time()

    async def ping(self, peer: bytes, timeout_s: float = PING_TIMEOUT_S) -> float:
        """Round trip in seconds. Raises PeerUnavailable or Overloaded."""
        try:
            rtt_s = await self._rpc.ping(peer, timeout_s=timeout_s)
        except DsdError:
            self.lost(peer)
            raise
        self._silent.pop(peer, None)
        self._answered[peer] = asyncio.get_running_loop().time(), rtt_s
        return rtt_s

    def ask(self, peer: bytes) -> None:
        """Without waiting for the answer."""
        if peer not in self._asking:
            self._asking.add(peer)
            self._tasks.spawn(self._ask_alone(peer))

    async def _ask_alone(self, peer: bytes) -> None:
        try:
            await self.rtt_s(peer)
        finally:
            self._asking.discard(peer)

    def has_answered(self, peer: bytes) -> bool:
        """When it was asked last."""
        return peer in self._answered and peer not in self._silent

    def answered_at(self, peer: bytes) -> float | None:
        """When it answered last, on the loop's clock; None: not that we know."""
        answered = self._answered.get(peer)
        return None if answered is None else answered[0]

    def last_rtt_s(self, peer: bytes) -> float | None:
        """Of its last answer; it may have had to dial for it."""
        answered = self._answered.get(peer)
        return None if answered is None else answered[1]

    def link(self, peer: bytes) -> str:
        """How it is linked ("": not now, or nobody can tell)."""
        paths = self._rpc.transport.paths
        return (paths.kind(peer) if paths is not None else None) or ""

    async def rtt_s(self, peer: bytes, num_pings: int = 1) -> float | None:
        """The best round trip of several (the first may have to dial); None: no answer."""
        try:
            return min([await self.ping(peer) for _ in range(num_pings)])
        except DsdError:
            return None

    async def round_trips(
        self, peers: Collection[bytes], enough: Callable[[Collection[bytes]], bool]
    ) -> dict[bytes, float]:
        """In seconds, of the peers that answer.

        Once those that did are `enough`, nobody waits for peers that were silent last time, nor much longer than these
        took for others. They are asked all the same: next time their answer counts, and their link is warm.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        ends_s = began_s + 2 * PING_TIMEOUT_S
        answers: dict[bytes, float | None] = {}
        changed = asyncio.Event()
        awaited = [peer for peer in peers if not self.is_silent(peer)]
        for peer in peers:
            self._tasks.spawn(self._ask(peer, answers, changed))
        is_enough = False
        while len(answers) < len(peers) and loop.time() < ends_s:
            if not is_enough and enough([peer for peer in peers if answers.get(peer) is not None]):
                is_enough = True
                ends_s = max(began_s + GRACE_S, 2 * loop.time() - began_s)
            if is_enough and all(peer in answers for peer in awaited):
                break
            changed.clear()
            await wait_until(changed, ends_s)
        found = {peer: answers.get(peer) for peer in peers}
        return {peer: rtt_s for peer, rtt_s in found.items() if rtt_s is not None}

    async def survey(
        self, peers: Collection[bytes], num_pings: int = 1, within_s: float = SURVEY_S, spare_s: float = 0.0
    ) -> dict[bytes, float]:
        """Round trips in seconds of those that answer, some asked at once: first those that answered when they were
        asked last, in the order given, then those that are not known, then the others. Whose turn has not come
        `within_s` is not asked; nor is who was silent in the last `spare_s`, and never anything else."""
        loop = asyncio.get_running_loop()
        begun_s, found = loop.time(), dict[bytes, float]()

        def is_meant(peer: bytes) -> bool:
            return peer in self._answered or self._silent.get(peer, float("-inf")) <= begun_s - spare_s

        def rank(peer: bytes) -> int:
            return 2 if peer in self._silent else peer not in self._answered

        left = iter(sorted(filter(is_meant, dict.fromkeys(peers)), key=rank))

        async def ask_in_turn() -> None:
            for peer in left:
                if loop.time() > begun_s + within_s:
                    return
                rtt_s = await self.rtt_s(peer, num_pings)
                if rtt_s is not None:
                    found[peer] = rtt_s

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(ask_in_turn(), name="ask who is there")
        return {peer: found[peer] for peer in peers if peer in found}

    async def race(self, peers: Sequence[bytes], moment_s: float = MOMENT_S) -> list[bytes]:
        """Those that answer, in the order given: as soon as the first of them does, or a moment after another one did,
        during which the first would have had as long again."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        ends_s, is_first = began_s + 2 * PING_TIMEOUT_S, True
        answers: dict[bytes, float | None] = {}
        changed = asyncio.Event()
        for peer in peers:
            self._tasks.spawn(self._ask(peer, answers, changed))
        while loop.time() < ends_s:
            waited = [peer for peer in peers if answers.get(peer, 0.0) is not None]
            if not waited or waited[0] in answers:
                break
            if is_first and any(peer in answers for peer in waited):
                is_first, ends_s = False, loop.time() + max(moment_s, loop.time() - began_s)
            changed.clear()
            await wait_until(changed, ends_s)
        return [peer for peer in peers if answers.get(peer) is not None]

    async def _ask(self, peer: bytes, answers: dict[bytes, float | None], changed: asyncio.Event) -> None:
        answers[peer] = await self.rtt_s(peer)
        changed.set()

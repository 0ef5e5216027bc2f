"""Straight links in the place of those that go by way of a relay: whoever is reached without one is called.

Whom a peer has called by way of a relay asks it where it is reached itself, and calls it there. The links take over
from the relayed ones when they stand (net/moves.py), so nobody waits for this, and nothing is lost where it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from cachetools import LRUCache

from dsdnode.accounts import Credits
from dsdnode.errors import DsdError
from dsdnode.identity import short_id
from dsdnode.net.paths import Paths
from dsdnode.net.port import PATH
from dsdnode.net.rpc import Response, Rpc
from dsdnode.swarm.punching import Punching
from dsdnode.swarm.queries import Tasks
from dsdnode.wire.messages import Refused
from dsdnode.wire.paths import FindPath, Path

MAX_AT_ONCE = 4
MAX_WAITING = 64
ASK_PATH_S = 5.0
ASKED_BURST, ASKED_PER_S = 4, 1.0
"""Questions of one peer that are answered."""
FIRST_PAUSE_S, MOST_PAUSE_S = 600.0, 6 * 3600.0
"""Before it is tried again with a peer where it has failed; each time twice as long. What keeps two from each other are
their routers, and these stay as they are."""
STRAIGHT_PAUSE_S = 1.0
"""After a success: the link may be lost at once."""
TRY_AGAIN_S = 30.0
"""Where nobody was there yet to look at our ports, say."""
TICK_S = 5.0
MAX_RESTING = 1024

log = structlog.get_logger(__name__)


class Shortcuts:
    """`reached`: where others reach us without a relay, as they say."""

    def __init__(self, rpc: Rpc, tasks: Tasks, reached: Callable[[], tuple[str, ...]]) -> None:
        self._rpc = rpc
        self._tasks = tasks
        self._reached = reached
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._busy: dict[bytes, None] = {}
        self._resting: LRUCache[bytes, tuple[float, float]] = LRUCache(MAX_RESTING)
        """Until when it is not tried with a peer, and how long that pause is."""
        self._punching = Punching(rpc, tasks)
        self._tick_s = float("-inf")
        self._asked = Credits(ASKED_BURST, ASKED_PER_S)
        rpc.on_request(FindPath, self._on_find_path)
        if rpc.transport.paths is not None:
            rpc.transport.paths.on_detour(self._look_for)

    def moved(self) -> None:
        """We are in another network: what failed may go now."""
        for peer in list(self._resting):
            self._resting[peer] = _now(), 0.0

    def tick(self, now: float) -> None:
        """Try again with those whose pause is over."""
        paths = self._rpc.transport.paths
        if paths is None or now < self._tick_s:
            return
        self._tick_s = now + TICK_S
        for peer in [peer for peer, (until_s, _) in self._resting.items() if until_s <= now]:
            if paths.is_on_detour(peer):
                self._look_for(peer)

    def _look_for(self, peer: bytes) -> None:
        paths = self._rpc.transport.paths
        until_s, _ = self._resting.get(peer, (float("-inf"), 0.0))
        if paths is None or _now() < until_s or peer in self._busy or len(self._busy) >= MAX_WAITING:
            return
        if self._rpc.transport.can(peer, PATH):
            self._busy[peer] = None
            self._tasks.spawn(self._shorten(paths, peer))

    async def _shorten(self, paths: Paths, peer: bytes) -> None:
        try:
            async with self._slots:
                if paths.is_on_detour(peer):
                    found = await self._reverse(paths, peer)
                    self._rest(peer, found if found is not None else await self._punching.punch(paths, peer))
        finally:
            del self._busy[peer]

    async def _reverse(self, paths: Paths, peer: bytes) -> bool | None:
        """Is either of us called by the other one now? None: neither can be."""
        own = self._reached()
        try:
            answer, _ = await self._rpc.request(peer, FindPath(own), timeout_s=ASK_PATH_S)
        except DsdError as error:
            log.debug("not told of another path", peer=short_id(peer), reason=str(error))
            return False
        if not isinstance(answer, Path):
            return False
        if not answer.reached:
            return await paths.is_called(peer) if own else None
        return await self._call(paths, peer, answer.reached)

    async def _call(self, paths: Paths, peer: bytes, addresses: Sequence[str]) -> bool:
        found = bool(addresses) and await paths.call(peer, addresses)
        if found:
            log.info("linked without a relay from now on", peer=short_id(peer))
        return found

    def _rest(self, peer: bytes, found: bool | None) -> None:
        """`found` None: it could not be tried."""
        _, pause_s = self._resting.get(peer, (0.0, 0.0))
        if found is None:
            self._resting[peer] = _now() + TRY_AGAIN_S, pause_s
            return
        pause_s = STRAIGHT_PAUSE_S if found else min(max(2 * pause_s, FIRST_PAUSE_S), MOST_PAUSE_S)
        self._resting[peer] = _now() + pause_s, pause_s

    async def _on_find_path(self, peer: bytes, message: FindPath, buffers: Sequence[bytes]) -> Response:
        paths, own = self._rpc.transport.paths, self._reached()
        if paths is None or not self._asked.spend(peer, _now()):
            return Refused("not now", retry=True), ()
        if message.reached and not own and peer not in self._busy and len(self._busy) < MAX_AT_ONCE:
            self._busy[peer] = None
            self._tasks.spawn(self._answer(paths, peer, message.reached))
        return Path(own), ()

    async def _answer(self, paths: Paths, peer: bytes, addresses: Sequence[str]) -> None:
        try:
            await self._call(paths, peer, addresses)
        finally:
            del self._busy[peer]


def _now() -> float:
    return asyncio.get_running_loop().time()

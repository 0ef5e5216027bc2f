"""Straight links in the place of those that go by way of a relay: whoever is reached without one is called.

Whom a peer has called by way of a relay asks it where it is reached itself, and calls it there. The links take over
from the relayed ones when they stand (net/moves.py), so nobody waits for this, and nothing is lost where it fails.
A caller who could not say yet how his ports look asks back when he can: then it is tried again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from cachetools import LRUCache

from dsdnode.accounts import Credits
from dsdnode.errors import DsdError
from dsdnode.identity import short_id
from dsdnode.net.nat import Kind
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
ASKED_BACK_S = 1.0
"""And if the other one asks, who has found somebody since."""
TICK_S = 5.0
MAX_RESTING = 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Rest:
    """`pause_s`: how long it is; `is_untried`: because nothing could be tried."""

    until_s: float
    pause_s: float
    is_untried: bool = False


class Shortcuts:
    """`reached`: where others reach us without a relay, as they say."""

    def __init__(self, rpc: Rpc, tasks: Tasks, reached: Callable[[], tuple[str, ...]]) -> None:
        self._rpc = rpc
        self._tasks = tasks
        self._reached = reached
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._busy: dict[bytes, None] = {}
        self._resting: LRUCache[bytes, _Rest] = LRUCache(MAX_RESTING)
        """Peers with whom it is not tried for a while."""
        self._insight = Kind.UNKNOWN, False
        self._punching = Punching(rpc, tasks)
        self._tick_s = float("-inf")
        self._asked = Credits(ASKED_BURST, ASKED_PER_S)
        rpc.on_request(FindPath, self._on_find_path)
        if rpc.transport.paths is not None:
            rpc.transport.paths.on_detour(self._look_for)

    def moved(self) -> None:
        """We are in another network: what failed may go now."""
        for peer in list(self._resting):
            self._resting[peer] = _Rest(_now(), 0.0)

    def tick(self, now: float) -> None:
        """Try again with those whose pause is over; once we learn how our ports look, with whom that was missing."""
        paths = self._rpc.transport.paths
        if paths is None:
            return
        is_news, self._insight = self._insight != paths.insight, paths.insight
        for peer in paths.called_by_detour() if is_news else ():
            self._tasks.spawn(self._ask_back(peer))
        if now < self._tick_s and not is_news:
            return
        self._tick_s = now + TICK_S
        for peer, rest in list(self._resting.items()):
            if (rest.until_s <= now or (is_news and rest.is_untried)) and paths.is_on_detour(peer):
                self._look_for(peer, anew=True)

    def _look_for(self, peer: bytes, anew: bool = False) -> None:
        """`anew`: whatever pause was to be made."""
        paths, rest = self._rpc.transport.paths, self._resting.get(peer)
        is_resting = rest is not None and not anew and _now() < rest.until_s
        if paths is None or is_resting or peer in self._busy or len(self._busy) >= MAX_WAITING:
            return
        if self._rpc.transport.can(peer, PATH):
            self._busy[peer] = None
            self._tasks.spawn(self._shorten(paths, peer))

    async def _ask_back(self, peer: bytes) -> None:
        """Whom we have called by way of a relay could not make anything of us, perhaps. It can now."""
        if self._rpc.transport.can(peer, PATH):
            with contextlib.suppress(DsdError):
                await self._rpc.request(peer, FindPath(self._reached()), timeout_s=ASK_PATH_S)

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
        rest = self._resting.get(peer)
        pause_s = 0.0 if rest is None else rest.pause_s
        if found is None:
            self._resting[peer] = _Rest(_now() + TRY_AGAIN_S, pause_s, is_untried=True)
            return
        pause_s = STRAIGHT_PAUSE_S if found else min(max(2 * pause_s, FIRST_PAUSE_S), MOST_PAUSE_S)
        self._resting[peer] = _Rest(_now() + pause_s, pause_s)

    async def _on_find_path(self, peer: bytes, message: FindPath, buffers: Sequence[bytes]) -> Response:
        paths, own = self._rpc.transport.paths, self._reached()
        if paths is None or not self._asked.spend(peer, _now()):
            return Refused("not now", retry=True), ()
        if message.reached and not own and peer not in self._busy and len(self._busy) < MAX_AT_ONCE:
            self._busy[peer] = None
            self._tasks.spawn(self._answer(paths, peer, message.reached))
        elif paths.is_on_detour(peer) and self._may_go_now(peer):
            self._look_for(peer, anew=True)
        return Path(own), ()

    def _may_go_now(self, peer: bytes) -> bool:
        """It could not be tried with it before, but now it asks itself. (Each time costs a call of ours.)"""
        rest = self._resting.get(peer)
        return rest is not None and rest.is_untried and _now() >= rest.until_s - TRY_AGAIN_S + ASKED_BACK_S

    async def _answer(self, paths: Paths, peer: bytes, addresses: Sequence[str]) -> None:
        try:
            await self._call(paths, peer, addresses)
        finally:
            del self._busy[peer]


def _now() -> float:
    return asyncio.get_running_loop().time()

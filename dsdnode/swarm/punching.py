"""Two peers that nobody reaches call each other at once, having said over a relay from where and when.

Whom the other one has called by way of the relay asks (Punch), says when (PunchNow), and lets libzmq's router call;
the caller's side makes the new links, as it made the old ones. One lane after the other; in IPv6 first, where nobody
translates, and firewalls alone are to be got through.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from dsdnode.accounts import Credits
from dsdnode.errors import DsdError, PeerUnavailable
from dsdnode.identity import peer_id, short_id
from dsdnode.net.holes import Hole
from dsdnode.net.paths import Beside, Paths
from dsdnode.net.port import PUNCH, LinkKind
from dsdnode.net.rpc import Response, Rpc
from dsdnode.swarm.queries import Tasks, wait_until
from dsdnode.wire.messages import Refused
from dsdnode.wire.paths import Punch, PunchAt, PunchNow

MAX_MET = 4
"""Peers with whom it is tried on their word, at once."""
MEET_S = 40.0
"""For both lanes and all attempts; what has come about then without the rest is given up."""
ATTEMPTS = 3
ASK_S = 6.0
PUNCHES_BURST, PUNCHES_PER_S = 2 * ATTEMPTS, 1.0
"""Of one peer that are heard."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Met:
    """Somebody who has asked us. `asked`: last, and our answer to it."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    asked: Punch | None = None
    hole: Hole | None = None
    beside: dict[bool, Beside] = field(default_factory=dict)


class Punching:
    def __init__(self, rpc: Rpc, tasks: Tasks) -> None:
        self._rpc = rpc
        self._tasks = tasks
        self._asking: dict[bytes, None] = {}
        self._met: dict[bytes, _Met] = {}
        self._punches = Credits(PUNCHES_BURST, PUNCHES_PER_S)
        rpc.on_request(Punch, self._on_punch)
        rpc.on_notice(PunchNow, self._on_now)

    # --- asking

    async def punch(self, paths: Paths, peer: bytes) -> bool | None:
        """Is there a straight link to the peer now? None: that could not be tried."""
        if not self._rpc.transport.can(peer, PUNCH):
            return False
        if peer in self._met:  # it has asked us just now
            return None
        num_lanes = 0
        self._asking[peer] = None
        try:
            if paths.can_meet_in_v6:
                with contextlib.suppress(DsdError):  # it has none, or cannot
                    num_lanes = await self._lanes(paths, peer, num_lanes, v6=True)
            num_lanes = await self._lanes(paths, peer, num_lanes, v6=False)
        except DsdError as error:
            log.debug("no straight link", peer=short_id(peer), reason=str(error))
            return None
        finally:
            del self._asking[peer]
        return num_lanes >= 2

    async def _lanes(self, paths: Paths, peer: bytes, num: int, v6: bool) -> int:
        """How many have links in the end, of which `num` have them already."""
        num_left = ATTEMPTS
        while num < 2 and num_left:
            more = await self._attempt(paths, peer, num > 0, v6)
            if more == 0:
                break
            num_left = num_left - 1 if more is None else ATTEMPTS
            num += more or 0
        return num

    async def _attempt(self, paths: Paths, peer: bytes, bulk: bool, v6: bool) -> int | None:
        """How many more lanes have a link? None: one may have the next time."""
        hole = await paths.dig(v6)
        if hole is None:
            raise PeerUnavailable("nobody says how our ports look")
        try:
            asked_s = _now()
            asked = Punch(hole.host, hole.ports, paths.at, bulk)
            answer, _ = await self._rpc.request(peer, asked, timeout_s=ASK_S)
            if not isinstance(answer, PunchAt):
                raise PeerUnavailable(answer.reason if isinstance(answer, Refused) else "no answer to the question")
            there_s = max(0.0, _now() - asked_s - answer.took_ms / 1e3) / 2
            if hole.ports and answer.ports:
                self._rpc.notify(peer, PunchNow())
                await asyncio.sleep(there_s)
                return 1 if await paths.open(peer, bulk, hole, answer.host, answer.ports) else None
            if answer.ports and answer.at:  # nobody knows where we come from: its router may ask for our address alone
                self._rpc.notify(peer, PunchNow())
                await asyncio.sleep(there_s)
                return 2 * await paths.call_punched(peer, answer.at)
            if hole.ports and paths.at:
                paths.poke(peer, answer.host)
                self._rpc.notify(peer, PunchNow())
                return 2 * await paths.is_called(peer)
            return 0
        finally:
            hole.close()

    # --- being asked

    async def _on_punch(self, peer: bytes, message: Punch, buffers: Sequence[bytes]) -> Response:
        paths, asked_s = self._rpc.transport.paths, _now()
        own_id = peer_id(self._rpc.transport.contact.public_key)
        if paths is None or not self._punches.spend(peer, asked_s) or (peer in self._asking and own_id < peer):
            return Refused("not now", retry=True), ()
        if paths.kind(peer) is not LinkKind.RELAYED:
            return Refused("there is no relay between us"), ()
        if not paths.may_call(peer, message.host, message.ports):
            return Refused("nobody is called there on a peer's word"), ()
        met = self._met.get(peer)
        if met is None:
            if len(self._met) >= MAX_MET:
                return Refused("not now", retry=True), ()
            met = self._met[peer] = _Met()
            self._tasks.spawn(self._keep(peer, met))
        if met.hole is not None:
            met.hole.close()
            met.hole = None
        met.asked = message  # before the next one may ask: of two that are dug at once the later one's hole is kept
        hole = await paths.dig(":" in message.host)
        if hole is None:
            return Refused("nobody says how our ports look"), ()
        if self._met.get(peer) is not met or met.asked is not message:
            hole.close()
            return Refused("another one has come meanwhile", retry=True), ()
        met.hole = hole
        if not message.ports:
            await paths.listen()
        return PunchAt(hole.host, hole.ports, paths.at, 1e3 * (_now() - asked_s)), ()

    def _on_now(self, peer: bytes, message: PunchNow, buffers: Sequence[bytes]) -> None:
        paths, met = self._rpc.transport.paths, self._met.get(peer)
        if paths is None or met is None or met.hole is None or met.asked is None:
            return
        asked, hole, met.asked, met.hole = met.asked, met.hole, None, None
        self._tasks.spawn(self._meet(paths, peer, met, asked, hole))

    async def _meet(self, paths: Paths, peer: bytes, met: _Met, asked: Punch, hole: Hole) -> None:
        try:
            if asked.ports and hole.ports:
                beside = await paths.call_from(peer, asked.bulk, hole, asked.host, asked.ports)
                if beside is None:
                    return
                if self._met.get(peer) is not met or asked.bulk in met.beside:
                    return beside.close()
                met.beside[asked.bulk] = beside
                if len(met.beside) == 2 and paths.adopt(peer, list(met.beside.values())):
                    log.info("linked without a relay from now on", peer=short_id(peer))
                    self._part(peer)
            elif hole.ports:
                paths.poke(peer, asked.host)
            elif asked.at:
                await paths.call_punched(peer, asked.at)
        finally:
            hole.close()

    async def _keep(self, peer: bytes, met: _Met) -> None:
        try:
            await wait_until(met.over, _now() + MEET_S)
        finally:
            if self._met.get(peer) is met:
                self._part(peer)

    def _part(self, peer: bytes) -> None:
        met = self._met.pop(peer, None)
        if met is not None:
            met.over.set()
            if met.hole is not None:
                met.hole.close()
            for beside in met.beside.values():
                beside.close()


def _now() -> float:
    return asyncio.get_running_loop().time()

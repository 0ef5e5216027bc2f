"""A member of the swarm that is in nobody's route, and lies: who it is and when it speaks (lies.py: what it says).

It has an identity of its own, joins, answers what it is asked, and its messages pass through the same network as all
others; CURVE makes that it can speak in nobody's name but its own. Whoever bans it meets it again under a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from random import Random

from dsdnode.errors import DsdError
from dsdnode.identity import Identity
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Contact

from .lies import SORTS, Heard, Scene, Tale
from .village import RoughTransport, Village

SHARE = 0.4
"""Of all worlds."""
ALONE = 0.5
"""Of these: nothing else goes wrong there."""
JOIN_S = 5.0
MAX_LIVES = 4


class _Life:
    """The liar under one of its names: a peer that others may ask, too."""

    def __init__(self, village: Village, identity: Identity, contact: Contact, rng: Random) -> None:
        self.transport = RoughTransport(village.network, contact)
        self.contact = contact
        self._rpc = Rpc(self.transport, rng)
        self._discovery = Discovery(self._rpc, identity, rng)

    async def begin(self, village: Village) -> None:
        self._rpc.start()
        self._discovery.start()
        self.introduce(village)
        with contextlib.suppress(DsdError):  # whom it cannot join it may lie to all the same
            await self._discovery.join(village._contacts(), JOIN_S)

    def introduce(self, village: Village) -> None:
        """It knows where everybody is; and a client, which nobody can dial, has asked it for something before."""
        for contact in village._contacts():
            self.transport.introduce(contact)
        for client in village.clients:
            client._rpc.transport.introduce(self.contact)
            client._rpc.warm(self.transport.id)

    async def end(self) -> None:
        await self._discovery.close()
        await self._rpc.close()


class Liar:
    """`await begin()`, then it lies until `await leave()`, or until it has no more to say."""

    def __init__(self, village: Village, rng: Random) -> None:
        self.counts: Counter[str] = Counter()
        self.names: set[bytes] = set()
        """Peer ids that it has had."""
        self._village, self._rng = village, rng
        self._sorts = rng.sample(list(SORTS), rng.choice((1, 3, len(SORTS), len(SORTS))))
        self._rate = rng.choice((5.0, 30.0, 100.0))
        self._num_left = rng.choice((30, 100, 200))
        self._heard = Heard()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.counts["liar"] += 1
        self._village.network.eavesdrop = self._hear
        self._task = asyncio.create_task(self._live(), name="the liar")

    async def leave(self) -> None:
        self._village.network.eavesdrop = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _hear(self, sender: bytes, receiver: bytes, frames: list[bytes], priority: Priority) -> None:
        if sender not in self.names and receiver not in self.names:
            self._heard.add(Tale(receiver, frames, priority))

    async def _live(self) -> None:
        for number in range(MAX_LIVES):
            identity, contact = self._village._identity(f"liar {number}")
            self.names.add(identity.peer_id)
            life = _Life(self._village, identity, contact, self._rng)
            try:
                await life.begin(self._village)
                await self._lie(life)
            finally:
                await life.end()
            self.counts["liar banned"] += 1
            await asyncio.sleep(self._rng.choice((0.0, 2.0)))

    async def _lie(self, life: _Life) -> None:
        """Until somebody bans it."""
        village, rng, own_id = self._village, self._rng, life.transport.id
        scene = Scene(village, rng, life.contact, own_id, self._heard)
        while own_id not in village.network.banned:
            await asyncio.sleep(rng.expovariate(self._rate) if self._num_left > 0 else 1.0)
            if self._num_left > 0:
                sort = rng.choice(self._sorts)
                for tale in SORTS[sort](scene):
                    self._tell(life, sort, tale)

    def _tell(self, life: _Life, sort: str, tale: Tale) -> None:
        loop = self._village.loop

        def send() -> None:
            with contextlib.suppress(DsdError):
                life.transport.send(tale.receiver, tale.frames, tale.priority)

        if tale.after_s:
            loop.at(loop.now + tale.after_s, send)
            return
        send()
        self.counts[f"lie: {sort}"] += 1
        self._num_left -= 1

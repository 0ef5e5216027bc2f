"""A member of the swarm that is in nobody's route, and lies: who it is and when it speaks (lies.py: what it says).

It has an identity of its own, joins, answers what it is asked, and its messages pass through the same network as all
others; CURVE makes that it can speak in nobody's name but its own. Whoever bans it meets it again under a new one. It
may have stages in its pay, which do their work and say what it likes besides.
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

from .lies import PROMPT, SORTS
from .scene import Heard, Scene, Tale, news_of_a_reply
from .village import RoughTransport, Village

SHARE = 0.4
"""Of all worlds."""
ALONE = 0.5
"""Of these."""
JOIN_S = 5.0
MAX_LIVES = 4


def liars_dice(seed: int) -> Random | None:
    """What the liar of this world goes by, if there is one. Worlds without one are what they would be anyway."""
    rng = Random(f"liar {seed}")
    return rng if rng.random() < SHARE else None


def is_alone(seed: int) -> bool:
    """Is there a liar in this world, and nothing else that goes wrong?"""
    dice = liars_dice(seed)
    return dice is not None and dice.random() < ALONE


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

    def say(self, tale: Tale) -> None:
        with contextlib.suppress(DsdError):
            (tale.speaker or self.transport).send(tale.receiver, tale.frames, tale.priority)

    async def end(self) -> None:
        await self._discovery.close()
        await self._rpc.close()


class Liar:
    """`begin()`, then it lies until `await leave()`, or until it has no more to say."""

    def __init__(self, village: Village, rng: Random) -> None:
        self.counts: Counter[str] = Counter()
        self.names: set[bytes] = set()
        """Peer ids that it has had."""
        self.alone = rng.random() < ALONE
        """Nothing else goes wrong in its world."""
        self._village, self._rng = village, rng
        self._sorts = rng.sample(list(SORTS), rng.choice((1, 3, len(SORTS), len(SORTS))))
        self._eager = [sort for sort in self._sorts if sort in PROMPT]
        self._rate = rng.choice((20.0, 100.0, 400.0))
        self._breath = rng.choice((20, 60, 120))
        """For so many lies."""
        self._heard = Heard()
        self._life: _Life | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.counts["liar"] += 1
        self._village.network.eavesdrop = self._hear
        self._task = asyncio.create_task(self._live(), name="the liar")

    async def leave(self) -> None:
        self._village.network.eavesdrop = None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _hear(self, sender: bytes, receiver: bytes, frames: list[bytes], priority: Priority) -> None:
        if sender in self.names or receiver in self.names:
            return
        self._heard.add(Tale(receiver, frames, priority))
        if self._eager and self._rng.random() < news_of_a_reply(frames[0]):
            self._village.loop.at(self._village.loop.now, self._speak, self._eager)

    async def _live(self) -> None:
        for number in range(MAX_LIVES):
            identity, contact = self._village._identity(f"liar {number}")
            self.names.add(identity.peer_id)
            life = _Life(self._village, identity, contact, self._rng)
            try:
                await life.begin(self._village)
                self._life = life
                await self._lie(life)
            finally:
                self._life = None
                await life.end()
            self.counts["liar banned"] += 1
            await asyncio.sleep(self._rng.choice((0.0, 2.0)))

    async def _lie(self, life: _Life) -> None:
        """Until somebody bans it."""
        while life.transport.id not in self._village.network.banned:
            await asyncio.sleep(self._rng.expovariate(self._rate))
            if self._scene(life).deliveries():
                self._speak(self._sorts)
            else:
                await asyncio.sleep(0.05)

    def _scene(self, life: _Life) -> Scene:
        return Scene(self._village, self._rng, life.contact, life.transport.id, self._heard)

    def _speak(self, sorts: list[str]) -> None:
        life, rng = self._life, self._rng
        if life is None or self._breath <= 0:
            return
        sort = rng.choice(sorts)
        tales = list(SORTS[sort](self._scene(life)))
        self._breath -= bool(tales)
        for tale in tales:
            if tale.after_s:
                self._village.loop.at(self._village.loop.now + tale.after_s, life.say, tale)
            else:
                life.say(tale)
                self.counts[f"lie: {sort}"] += 1

"""Peers who find each other in a memory hub with latencies; for the tests of discovery. Run it with `jumping.run`."""

from __future__ import annotations

import asyncio
import contextlib
import random

import msgspec

from dsdnode.dht.ids import MODELS_KEY
from dsdnode.engine.port import ShardInfo
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity, peer_id
from dsdnode.net.memory import MemoryHub, MemoryTransport
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord, model_id_of


def demo_id(weights_hash: str = "ab" * 32) -> str:
    """The id of the model that everybody here offers."""
    return model_id_of(weights_hash, "fake", 8, 8, 8, "cd" * 32)


class Wire(MemoryTransport):
    """An in-memory link with a latency; `silent` peers are powered off: nothing arrives, and nobody says so."""

    silent: set[bytes]
    rng: random.Random

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if peer in self.silent or self._id in self.silent:
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self.rng.uniform(0.005, 0.02), self._deliver, peer, frames, priority)

    def _deliver(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        with contextlib.suppress(PeerUnavailable):
            super().send(peer, frames, priority)


class Refusing(Wire):
    """As on one machine: a port where nobody listens answers so, at once."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if peer not in self._hub.transports:
            raise PeerUnavailable("connection refused")
        super().send(peer, frames, priority)


class Private(Wire):
    """Of another swarm: bob says no for good, whoever asks."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if self.refused_by(peer):
            raise PeerUnavailable("refused: wrong swarm key")
        super().send(peer, frames, priority)

    def refused_by(self, peer: bytes) -> bool:
        return peer == peer_id(Identity((1).to_bytes(32, "big")).public_key)


class Member:
    def __init__(self, town: Town, name: str, dialable: bool = True, life: int = 0) -> None:
        number = town.numbers.setdefault(name, len(town.numbers) + 1)
        self.identity = Identity(number.to_bytes(32, "big"))
        addresses = (f"tcp://127.0.0.1:{2000 + number}",) if dialable else ()
        self.contact = Contact(self.identity.public_key, addresses)
        self.transport = town.kind(town.hub, self.contact)
        self.transport.silent, self.transport.rng = town.silent, town.rng
        town.hub.transports[self.id] = self.transport
        self.rpc = Rpc(self.transport, town.rng)
        self.discovery = Discovery(self.rpc, self.identity, town.rng, life)
        self.rpc.start()
        self.discovery.start()

    @property
    def id(self) -> bytes:
        return self.identity.peer_id

    def offer(self, start: int = 0, end: int = 4, weights_hash: str = "ab" * 32) -> ProviderRecord:
        key, addresses = self.contact.public_key, self.contact.addresses
        names = weights_hash, "fake", "demo"
        return ProviderRecord(key, addresses, "shard", *names, start, end, 8, "cd" * 32, 8, 8, 8, 1)

    def offer_of(self, shard: ShardInfo, start: int, end: int) -> ProviderRecord:
        """Layers of the same model."""
        return msgspec.structs.replace(
            self.offer(start, end, shard.weights_hash),
            architecture=shard.architecture,
            num_layers=shard.num_layers,
            tokenizer_hash=shard.tokenizer_hash,
            vocab_size=shard.vocab_size,
            width=shard.width,
        )

    async def found(self, key: bytes = MODELS_KEY) -> set[bytes]:
        return {record.peer_id for record in await self.discovery.find_providers(key)}

    async def close(self) -> None:
        await self.discovery.close()
        await self.rpc.close()


class Town:
    """Peers by name. `async with town():` closes them."""

    def __init__(self, seed: int = 0, kind: type[Wire] = Refusing) -> None:
        self.hub = MemoryHub()
        self.rng = random.Random(seed)
        self.kind = kind
        self.numbers: dict[str, int] = {}
        self.silent: set[bytes] = set()
        self.members: dict[str, Member] = {}

    def contact(self, name: str) -> Contact:
        number = self.numbers.setdefault(name, len(self.numbers) + 1)
        return Contact(Identity(number.to_bytes(32, "big")).public_key, (f"tcp://127.0.0.1:{2000 + number}",))

    def begin(self, name: str, *joins: str, offers: bool = True, dialable: bool = True) -> Member:
        """Start a peer and have it join in the background, as the daemon does."""
        member = self.members[name] = Member(self, name, dialable)
        if offers:
            member.discovery.provide(lambda: [member.offer()])
        if joins:
            task = asyncio.ensure_future(member.discovery.join([self.contact(join) for join in joins], timeout_s=1e6))
            member.discovery._tasks._tasks[task] = None
        return member

    async def kill(self, name: str) -> None:
        await self.members.pop(name).close()

    async def __aenter__(self) -> Town:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members.values():
            await member.close()

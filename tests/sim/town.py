"""Many nodes of the DHT alone: production Discovery and Rpc on simulated links, warm or joined one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dsdnode.dht.ids import as_int, model_key
from dsdnode.dht.lookup import Lookup
from dsdnode.identity import Identity, peer_id
from dsdnode.net.rpc import Rpc
from dsdnode.sim.links import LinkSpec
from dsdnode.sim.loop import JumpingLoop
from dsdnode.sim.network import Network
from dsdnode.sim.transport import SimTransport
from dsdnode.sim.warm import Acquaintance
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord

NUM_REGIONS = 8


@dataclass(eq=False)
class Townsman:
    """One node; `model_id`: what it provides, nothing if empty."""

    identity: Identity
    transport: SimTransport
    discovery: Discovery
    rpc: Rpc
    model_id: str = ""
    up: bool = True
    num_asked: int = 0
    """By the lookup of its own that ended last."""

    @property
    def contact(self) -> Contact:
        return self.transport.contact

    @property
    def key(self) -> bytes:
        return model_key(self.record().model_id)

    def record(self) -> ProviderRecord:
        return ProviderRecord(
            public_key=self.contact.public_key,
            addresses=self.contact.addresses,
            role="shard",
            weights_hash=self.model_id,
            architecture="fake",
            model_name="model",
            start=0,
            end=1,
            num_layers=1,
            tokenizer_hash=self.model_id,
            vocab_size=100,
            width=16,
            context_tokens=4096,
            free_sessions=8,
        )


class Town:
    """Round trips from 10 to 300 ms, by region; each node in an IP network of its own, unless it is told one."""

    def __init__(self, seed: int, one_way_s: tuple[float, float] = (0.005, 0.15)) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        self.loop = loop
        self.rng = Random(seed)
        self._one_way_s = one_way_s
        self.network: Network[SimTransport] = Network(loop, Random(f"{seed}/network"), self._link)
        self.people: list[Townsman] = []

    def _link(self, one: str, other: str) -> LinkSpec:
        low_s, high_s = self._one_way_s
        share = Random(" ".join(sorted((one, other)))).random()
        latency_s = low_s if one == other else low_s + share * (high_s - low_s)
        return LinkSpec(latency_s, latency_s / 10)

    def new(self, identity: Identity | None = None, address: str = "") -> tuple[Identity, SimTransport]:
        number = len(self.network.hosts) + 1
        identity = identity or Identity(self.rng.randbytes(32))
        address = address or f"{11 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1"
        contact = Contact(identity.public_key, (f"tcp://{address}:29170",))
        return identity, SimTransport(self.network, contact, f"region {self.rng.randrange(NUM_REGIONS)}")

    def add(self, provides: bool) -> Townsman:
        """Not joined yet, but answering."""
        identity, transport = self.new()
        rng = Random(identity.seed)
        rpc = Rpc(transport, rng)
        one = Townsman(identity, transport, Discovery(rpc, identity, rng), rpc)
        one.model_id = one.identity.peer_id.hex() if provides else ""
        _count_asked(one)
        rpc.start()
        one.discovery.start()
        self.people.append(one)
        return one

    async def join_all(self, num_nodes: int, num_providers: int, batch: int = 16) -> None:
        """One batch after the other, each through members that are there."""
        step = num_nodes / num_providers
        providers = {int(i * step) for i in range(num_providers)}
        while len(self.people) < num_nodes:
            contacts = [one.contact for one in self.people]
            newcomers = [
                self.add(len(self.people) in providers) for _ in range(min(batch, num_nodes - len(self.people)))
            ]
            contacts = contacts or [newcomers[0].contact]
            joins = [
                one.discovery.join(self.rng.sample(contacts, min(3, len(contacts))), timeout_s=30)
                for one in newcomers
                if [one.contact] != contacts
            ]
            await asyncio.gather(*joins)
            self.announce(newcomers)

    async def warm_up(self, num_nodes: int, num_providers: int) -> None:
        """As if all had joined long ago: each table holds K random nodes of each bucket, met at random moments."""
        step = num_nodes / num_providers
        providers = {int(i * step) for i in range(num_providers)}
        for number in range(num_nodes):
            self.add(number in providers)
        acquaintance = Acquaintance([one.contact for one in self.people])
        for one in self.people:
            acquaintance.fill(one.discovery.table, one.identity.peer_id, self.loop.now, self.rng)
            one.transport.has_called(one.discovery.table.contacts())
        self.announce(self.people)
        await asyncio.sleep(5)

    def announce(self, people: Sequence[Townsman]) -> None:
        for one in people:
            if one.model_id:
                one.discovery.provide(lambda one=one: [one.record()])  # type: ignore[misc]

    def kill(self, people: Sequence[Townsman], gone: bool) -> None:
        """Their processes end, which breaks connections and refuses new ones; `gone`: nobody is told anything."""
        for one in people:
            one.up = False
            one.transport.end(silent=gone)

    async def close(self) -> None:
        for one in self.people:
            await one.discovery.close()
            await one.rpc.close()


def mined(key: bytes, num: int, closer_than: int, rng: Random) -> list[Identity]:
    """Identities whose ids are nearer to `key` than the distance `closer_than`: what an attacker can afford."""
    found: list[Identity] = []
    while len(found) < num:
        identity = Identity(rng.randbytes(32))
        if as_int(peer_id(identity.public_key)) ^ as_int(key) < closer_than:
            found.append(identity)
    return found


def _count_asked(one: Townsman) -> None:
    queries = one.discovery._queries
    run = queries.lookup

    async def counted(*args: object, **kwargs: object) -> Lookup:
        lookup = await run(*args, **kwargs)  # type: ignore[arg-type]
        one.num_asked = lookup._num_asked
        return lookup

    queries.lookup = counted  # type: ignore[method-assign]

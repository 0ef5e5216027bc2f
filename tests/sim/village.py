"""A small swarm drawn from a seed: production nodes with fake engines, on simulated links, each by a clock of its own.

The engines notice a stale cache (engine/fake.py), so a fault of the protocol shows as wrong text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from dsdnode.client.client import Client
from dsdnode.config import NodeConfig, Timeouts
from dsdnode.engine.fake import FakeEngine, FakeModel, FakeTextEngine
from dsdnode.engine.port import Chunk, Engine, Output, TextEngine
from dsdnode.errors import DsdError, Overloaded
from dsdnode.identity import Identity, peer_id
from dsdnode.net.port import Priority
from dsdnode.node.node import Node
from dsdnode.node.organs import Organs
from dsdnode.sim.links import LinkSpec, SimLink
from dsdnode.sim.loop import JumpingLoop, clock
from dsdnode.sim.network import Network
from dsdnode.sim.transport import SimTransport
from dsdnode.wire import messages as wire
from dsdnode.wire.masks import LackMasks, Masks
from dsdnode.wire.messages import Contact

CLOCKS_S = (0.0, 0.0, -3600.0, 3600.0, 86_400.0 * 365)
"""Offsets. A daemon's clock is monotonic: what it says is anybody's guess, but it never jumps."""
_NOTICE = b"\x94\x00\xc2\x00"
_PROTOCOL = (
    wire.Block,
    wire.Verdict,
    wire.Closed,
    wire.Nack,
    wire.SessionLost,
    wire.Close,
    wire.Park,
    Masks,
    LackMasks,
)
"""They may be lost, doubled and mixed up one by one."""
_PROTOCOL_TAGS = frozenset(msgspec.msgpack.encode(kind.__struct_config__.tag) for kind in _PROTOCOL)


@dataclass(frozen=True, slots=True)
class Roughness:
    """Shares of the protocol's notices that are lost, doubled, and sent up to `delay_s` late, past later ones."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: float = 0.0


class RoughNetwork(Network[SimTransport]):
    """Rough to the protocol's notices alone: a request or a piece of text is lost only with its connection."""

    rough = Roughness()
    eavesdrop: Callable[[bytes, bytes, list[bytes], Priority], None] | None = None
    """Hears what a sender gives the network for a receiver."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counts: Counter[str] = Counter()
        self.banned: list[bytes] = []


def is_of_protocol(header: bytes) -> bool:
    """Is it a notice between owner and stages?"""
    return header[:4] == _NOTICE and header[5:6] in _PROTOCOL_TAGS


class RoughTransport(SimTransport):
    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        network, header = self._network, frames[0]
        assert isinstance(network, RoughNetwork)
        rough, rng, counts = network.rough, network.rng, network.counts
        if network.eavesdrop is not None:
            network.eavesdrop(self.id, peer, frames, priority)
        if not is_of_protocol(header):
            return super().send(peer, frames, priority)
        if rng.random() < rough.drop:
            counts["message lost"] += 1
        elif rng.random() < rough.reorder:
            counts["message late"] += 1
            self._send_late(peer, frames, priority)
        else:
            super().send(peer, frames, priority)
        if rng.random() < rough.duplicate:
            counts["message twice"] += 1
            self._send_late(peer, frames, priority)

    def _tell_broken(self, callback: Callable[[bytes, bool, float], None], peer: bytes, link: SimLink) -> None:
        network = self._network
        assert isinstance(network, RoughNetwork)
        network.counts["lane broken"] += 1
        super()._tell_broken(callback, peer, link)

    def ban(self, peer: bytes, duration_s: float) -> None:
        network = self._network
        assert isinstance(network, RoughNetwork)
        network.banned.append(peer)
        super().ban(peer, duration_s)

    def _send_late(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        def send() -> None:
            with contextlib.suppress(DsdError):
                SimTransport.send(self, peer, frames, priority)

        network = self._network
        assert isinstance(network, RoughNetwork)
        network.loop.at(network.loop.now + network.rng.random() * network.rough.delay_s, send)


CELLS = 1 << 16


class QuickEngine(FakeEngine):
    """Has room enough not to count its cells before each decode."""

    @property
    def num_cells(self) -> int:
        return sum(map(len, self._cache.values()))


class DraftEngine(QuickEngine, FakeTextEngine):
    pass


class RoughEngine(QuickEngine):
    """Refuses a decode now and then, with a part of it cached already, as an engine whose cache is full may; dies of
    chunks that are `poisoned`."""

    overload: Callable[[], bool] = lambda: False
    poisoned: Callable[[Chunk], bool] = lambda chunk: False

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        self._deadly = type(self).poisoned
        if len(chunks) == 1 and not chunks[0].extend and type(self).overload():
            await super().forward([Chunk(chunks[0].sequence, chunks[0].position, chunks[0].inputs[:1])])
            raise Overloaded("no room for the rest of it")
        return await super().forward(chunks)


@dataclass(frozen=True, slots=True)
class Place:
    """What a peer is, whichever life it lives; `layers` None: a drafter."""

    name: str
    layers: tuple[int, int] | None
    max_sessions: int
    cost_s: tuple[float, float]
    clock_s: float

    def cost(self, num_positions: int) -> float:
        """Of a decode, in seconds."""
        fixed_s, slope_s = self.cost_s
        return fixed_s + slope_s * num_positions


@dataclass(slots=True, eq=False)
class Villager:
    place: Place
    node: Node
    transport: SimTransport
    shard: FakeEngine | None = None
    draft: FakeTextEngine | None = None

    @property
    def engine(self) -> FakeEngine:
        engine = self.shard or self.draft
        assert engine is not None
        return engine


@dataclass
class Village:
    """`await build()` in a running JumpingLoop, `await close()` at the end."""

    rng: Random
    num_layers: int = 0
    """0: drawn."""
    replicas: tuple[int, ...] = (1, 1, 2, 2, 3)
    """Of a stage: one of these numbers."""
    strict: bool = False
    model: FakeModel = field(init=False)
    places: list[Place] = field(init=False)
    villagers: dict[str, Villager] = field(default_factory=dict)
    """Alive, by name."""
    clients: list[Client] = field(default_factory=list)
    _lives: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        rng, loop = self.rng, asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        self.loop = loop
        latency_s = rng.choice((0.0005, 0.01, 0.05))
        link = LinkSpec(latency_s, rng.choice((0.0, 0.5)) * latency_s, rng.choice((0.0, 0.0, 0.02)))
        self.network = RoughNetwork(loop, Random(rng.random()), lambda one, other: link)
        self.model = FakeModel(num_layers=self.num_layers or rng.randint(2, 4))
        self.agreement = rng.choice((0.3, 0.7, 0.9, 1.0))
        self.lease_s = rng.choice((6.0, 20.0))
        self.places = self._draw_places()

    def _draw_places(self) -> list[Place]:
        rng, num_layers = self.rng, self.model.num_layers
        edges = sorted(rng.sample(range(1, num_layers), rng.randint(0, min(2, num_layers - 1))))
        ranges = list(zip([0, *edges], [*edges, num_layers], strict=True))
        places = [self._place(f"dora {i}", None) for i in range(rng.randint(1, 2))]
        for number, layers in enumerate(ranges):
            places += [self._place(f"sam {number}.{i}", layers) for i in range(rng.choice(self.replicas))]
        return places

    def _place(self, name: str, layers: tuple[int, int] | None) -> Place:
        rng = self.rng
        cost_s = rng.choice((0.0005, 0.003, 0.015)), rng.choice((0.0, 0.0002, 0.002))
        return Place(name, layers, rng.randint(2, 4), cost_s, rng.choice(CLOCKS_S))

    async def build(self, num_clients: int) -> None:
        for place in self.places:
            await self.add(place)
        for number in range(num_clients):
            identity, _ = self._identity(f"client {number}")
            hidden = Contact(identity.public_key, ())
            client = Client.over(
                RoughTransport(self.network, hidden),
                identity,
                self._contacts(),
                Random(f"{self.rng.random()} {number}"),
            )
            await client.join(self._contacts())
            self.clients.append(client)

    async def add(self, place: Place) -> Villager:
        """A member, new or back from the dead with nothing cached. Raises DsdError when it cannot join."""
        villager = self.villagers[place.name] = await self.start(place)
        return villager

    async def start(self, place: Place, *, offers: bool = True) -> Villager:
        """A node that the village does not count as its own. Not `offers`: it announces nothing."""
        identity, contact = self._identity(place.name)
        transport = RoughTransport(self.network, contact)

        async def shard(_: object) -> Engine:
            villager.shard = self.shard_engine(place)
            return villager.shard

        async def draft() -> TextEngine:
            villager.draft = self.draft_engine(place)
            return villager.draft

        with clock(place.clock_s):
            organs = Organs(shard, draft, disk=False, offers=offers)
            node = Node(self._config(place), identity, transport, organs, self._dice(place))
            villager = Villager(place, node, transport)
            try:
                await asyncio.create_task(node.run(self._contacts(place.name)))
            except BaseException:
                transport.end()
                await node.close()
                raise
        return villager

    def _dice(self, place: Place) -> Random:
        """Of this life: whoever comes back draws other names for its sessions than before."""
        self._lives[place.name] += 1
        return Random(f"{place.name} {self._lives[place.name]}")

    def shard_engine(self, place: Place) -> FakeEngine:
        assert place.layers is not None
        return RoughEngine(self.model, *place.layers, cost=place.cost, context_tokens=CELLS)

    def draft_engine(self, place: Place) -> FakeTextEngine:
        model = FakeModel(self.model.num_layers, agreement=self.agreement)
        return DraftEngine(model, cost=place.cost, context_tokens=CELLS)

    def _config(self, place: Place) -> NodeConfig:
        return NodeConfig(
            roles=("shard",) if place.layers else ("drafter",),
            name=place.name,
            max_sessions=place.max_sessions,
            strict=self.strict,
            timeouts=Timeouts(lease_s=self.lease_s),
        )

    async def kill(self, name: str, *, silent: bool) -> None:
        """Its process is gone: no goodbye. `silent`: its machine too."""
        villager = self.villagers.pop(name)
        villager.transport.end(silent)
        with contextlib.suppress(DsdError):
            await villager.node.close()

    async def dismiss(self) -> None:
        """The clients leave: nothing is kept for them any more."""
        for client in self.clients:
            await client.close()
        self.clients.clear()

    async def close(self) -> None:
        await self.dismiss()
        for name in list(self.villagers):
            await self.kill(name, silent=False)

    def _contacts(self, newcomer: str = "") -> list[Contact]:
        """Everybody's, alive or not, as a daemon remembers them; none for the first of all."""
        others = [place.name for place in self.places if place.name != newcomer]
        contacts = [self._identity(name)[1] for name in others]
        return contacts if any(peer_id(contact.public_key) in self.network.hosts for contact in contacts) else []

    def _identity(self, name: str) -> tuple[Identity, Contact]:
        identity = Identity(Random(name).randbytes(32))
        number = 1 + Random(name).randrange(1 << 14)
        return identity, Contact(identity.public_key, (f"tcp://11.{number >> 8}.{number & 255}.1:29170",))

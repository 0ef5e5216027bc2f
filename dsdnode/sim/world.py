"""A swarm in one process: production nodes on simulated links and engines, built as a scenario says, and its churn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random

from dsdnode.client.client import Client
from dsdnode.config import NodeConfig
from dsdnode.engine.port import Engine, ShardInfo, TextEngine
from dsdnode.errors import DsdError, NoPipeline
from dsdnode.identity import Identity
from dsdnode.node.node import Node, Organs
from dsdnode.node.shard.sessions import SEQUENCES_PER_SESSION
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.sim.engine import VOCAB_SIZE, WIDTH, DecodeCost, ScriptedEngine, Scripts
from dsdnode.sim.links import SimRelay
from dsdnode.sim.loop import JumpingLoop, clock
from dsdnode.sim.network import Network
from dsdnode.sim.policies import chooser, scheduler_of
from dsdnode.sim.scenario import Group, Partition, Scenario, layers_of
from dsdnode.sim.traces import Pair, SyntheticPair, read_traces
from dsdnode.sim.transport import SimTransport
from dsdnode.sim.warm import Acquaintance
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Contact

JOINERS = 3
"""A newcomer is told of so many members."""
JOINING = 16
"""So many join at once."""
WARM_FROM = 64
"""The members of a larger swarm know each other when it begins (warm.py): else joins would be most of the work."""
MAX_CONTEXT = 1 << 20


@dataclass(slots=True, eq=False)
class SimPeer:
    """One node with its organs. `lived_s`: of lives that are over."""

    name: str
    group: Group
    index: int
    transport: SimTransport
    engine: ScriptedEngine | None = None
    node: Node = field(init=False)
    born_s: float = 0.0
    ended_s: float | None = None

    @property
    def up(self) -> bool:
        return self.ended_s is None


@dataclass(frozen=True, slots=True)
class _Member:
    group: Group
    index: int
    name: str


class World:
    """Make it inside a running JumpingLoop; `await build()`, and `await close()` at the end."""

    def __init__(self, scenario: Scenario, seed: int, tuning: Tuning = TUNING) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        self.loop = loop
        self.scenario = scenario
        self.seed = seed
        self._tuning = tuning
        self.network: Network[SimTransport] = Network(loop, self.rng("network"), scenario.links.of)
        self.network.state_bytes = scenario.pair.state_bytes
        self.scripts = Scripts()
        self.pair = _pair(scenario)
        self.peers: list[SimPeer] = []
        """In order of birth, the dead among them."""
        self.clients: list[Client] = []
        self.complaints: list[str] = []
        """Unhandled exceptions: there are to be none."""
        self.clock_offset_s: Callable[[str], float] = lambda name: 0.0
        self._acquaintance: Acquaintance | None = None
        self._hosts: dict[str, tuple[Identity, SimTransport]] = {}
        """Made, their nodes not yet."""
        self._churning: list[asyncio.Task[None]] = []
        self._num_hosts = 0
        loop.set_exception_handler(self._complain)

    def rng(self, purpose: str) -> Random:
        """A stream of random numbers of its own for each purpose, so that one's use does not shift another's."""
        return Random(f"{self.seed}/{purpose}")

    async def build(self) -> None:
        """All members joined; shards before drafters, for these look for a model to draft for, and those that are
        called without a relay first of all."""
        order = {"bootstrap": 0, "shard": 1, "drafter": 2}
        groups = sorted(
            enumerate(self.scenario.peers), key=lambda item: (item[1].relay_mbit > 0, order[item[1].role], item[0])
        )
        members = [_Member(group, index, _name(group, number, index)) for number, group in groups
                   for index in range(group.count)]  # fmt: skip
        if len(members) > WARM_FROM:
            self._hosts = {member.name: self._new_host(member) for member in members}
            known = [host.contact for _, host in self._hosts.values() if host.relay is None]
            self._acquaintance = Acquaintance(known)
        batches = [members[:1], *(members[start : start + JOINING] for start in range(1, len(members), JOINING))]
        for batch in batches if self._acquaintance is None else [members]:
            await asyncio.gather(*(self.add(member.group, member.index, member.name) for member in batch))
        await asyncio.sleep(self.scenario.settle_s)
        for peer in [peer for peer in self.peers if peer.group.churn]:
            self._churning.append(asyncio.create_task(self._churn(peer), name=f"churn of {peer.name}"))
        for partition in self.scenario.partitions:
            self._churning.append(asyncio.create_task(self._part(partition), name="partition"))

    async def add(self, group: Group, index: int, name: str) -> SimPeer:
        """A member of `group`, joined. Raises DsdError when it cannot."""
        identity, transport = (
            self._hosts.pop(name) if name in self._hosts else self._new_host(_Member(group, index, name))
        )
        peer = SimPeer(name, group, index, transport, born_s=self.loop.now)
        with clock(self.clock_offset_s(name)):
            peer.node = Node(
                NodeConfig(
                    roles=(group.role,),
                    name=name,
                    max_sessions=group.max_sessions,
                    draft_max=self.scenario.policies.draft_max,
                ),
                identity,
                transport,
                self.organs(peer),
                self.rng(f"node {name}"),
            )
            contacts = self.contacts(self.rng(f"joins {name}"))
            known = self._acquaint(peer.node.discovery, transport)
            self.peers.append(peer)
            await asyncio.create_task(peer.node.run(known or contacts))
        return peer

    def _new_host(self, member: _Member) -> tuple[Identity, SimTransport]:
        group = member.group
        region = group.regions[member.index % len(group.regions)]
        return self.host(member.name, region, group.bandwidth_mbit, group.relay_mbit)

    def _acquaint(self, discovery: Discovery, transport: SimTransport) -> list[Contact]:
        """A member of a large swarm knows its place. Whom it joins by: some that live in its table (those that find no
        room there it would dial, looking around, again and again)."""
        if self._acquaintance is None:
            return []
        self._acquaintance.fill(discovery.table, transport.id, self.loop.now, self.rng(f"known {transport.id.hex()}"))
        transport.has_called(discovery.table.contacts())
        discovery._joining.come_in()
        return discovery.table.contacts()[:JOINERS]

    def host(
        self, name: str, region: str, bandwidth_mbit: float = 0.0, relay_mbit: float = 0.0
    ) -> tuple[Identity, SimTransport]:
        """An identity and a machine of its own, each in another network (DHT caps count those)."""
        identity = Identity(self.rng(f"identity {name}").randbytes(32))
        self._num_hosts += 1
        number = self._num_hosts
        address = f"tcp://{11 + (number >> 16 & 63)}.{number >> 8 & 255}.{number & 255}.1:29170"
        bytes_s = (bandwidth_mbit or self.scenario.links.bandwidth_mbit) * 125_000
        contact = Contact(identity.public_key, (address,))
        relay = SimRelay(region, relay_mbit * 125_000) if relay_mbit else None
        host = SimTransport(self.network, contact, region, up_bytes_s=bytes_s, down_bytes_s=bytes_s, relay=relay)
        if self.network.state_bytes:  # what is told of it is meant for states of the engines' own size
            host.relay_bytes_per_s *= 2 * WIDTH / self.network.state_bytes
        return identity, host

    def contacts(self, rng: Random) -> list[Contact]:
        """A few members that are up, for a newcomer."""
        up = [peer.transport.contact for peer in self.peers if peer.up and peer.transport.relay is None]
        return rng.sample(up, min(JOINERS, len(up)))

    def organs(self, peer: SimPeer) -> Organs:
        async def shard(_: object) -> Engine:
            start, end = layers_of(peer.group, peer.index, self.scenario.pair.layers)
            peer.engine = ScriptedEngine(self._shard(peer.group, start, end), _cost(peer.group), self.scripts)
            return peer.engine

        async def draft() -> TextEngine:
            shard = self._shard(peer.group, 0, 1)
            peer.engine = ScriptedEngine(shard, _cost(peer.group), self.scripts, drafts=True)
            return peer.engine

        policies = self.scenario.policies
        return Organs(
            shard,
            draft,
            disk=False,
            offers=not peer.group.private,
            choose=chooser(policies.routing, self.rng(f"routing {peer.name}")),
            scheduler=scheduler_of(policies.batching),
            tuning=self._tuning,
        )

    async def client(self, name: str, region: str) -> Client:
        """Somebody who asks."""
        identity, transport = self.host(name, region)
        transport.contact = Contact(identity.public_key, ())
        contacts = self.contacts(self.rng(f"joins {name}"))
        client = Client.over(transport, identity, contacts, self.rng(f"secrets of {name}"))
        await client.join(self._acquaint(client._discovery, transport) or contacts)
        self.clients.append(client)
        return client

    async def end(self, peer: SimPeer, *, crash: bool, silent: bool = False) -> None:
        """A crash leaves its connections to break; `silent`: the whole machine is gone, and nobody is told."""
        if not peer.up:
            return
        peer.ended_s = self.loop.now
        if crash:
            peer.transport.end(silent)
        with contextlib.suppress(DsdError):
            await peer.node.close()

    async def close(self) -> None:
        for task in self._churning:
            task.cancel()
        await asyncio.gather(*self._churning, return_exceptions=True)
        for client in self.clients:
            await client.close()
        await asyncio.gather(*(self.end(peer, crash=True) for peer in self.peers))

    async def _churn(self, peer: SimPeer) -> None:
        """Lives of one place in the swarm, one after another."""
        churn, rng = peer.group.churn, self.rng(f"churn {peer.name}")
        assert churn is not None
        life = 0
        while True:
            if churn.lives == "fixed":
                stay_s = churn.mean_s
            else:  # the mean of a Weibull distribution of shape 0.6 and scale 1 is 1.505
                weibull = churn.lives == "weibull"
                stay_s = rng.weibullvariate(churn.mean_s / 1.505, 0.6) if weibull else rng.expovariate(1 / churn.mean_s)
            await asyncio.sleep(stay_s)
            luck = rng.random()
            await self.end(peer, crash=luck < churn.crashes, silent=luck < churn.crashes * churn.gone)
            if not churn.away_s:
                return
            await asyncio.sleep(rng.expovariate(1 / churn.away_s))
            life += 1
            with contextlib.suppress(DsdError):
                peer = await self.add(peer.group, peer.index, f"{peer.name.partition('+')[0]}+{life}")

    async def _part(self, partition: Partition) -> None:
        await asyncio.sleep(partition.at_s)
        self.network.part(partition.regions)
        await asyncio.sleep(partition.for_s)
        self.network.rejoin(partition.regions)

    def _shard(self, group: Group, start: int, end: int) -> ShardInfo:
        drafts, layers = group.role == "drafter", self.scenario.pair.layers
        load = self.scenario.load
        usual = group.max_sessions * (load.prompt_span[1] + load.reply_span[1] + 64) * (1 if drafts else 2)
        context_tokens = min(group.context_tokens or usual, MAX_CONTEXT)
        model = "draft" if drafts else "target"
        return ShardInfo(
            weights_hash=_hex(model),
            model_name=model,
            architecture="simulated",
            start=start,
            end=end,
            num_layers=1 if drafts else layers,
            width=WIDTH,
            vocab_size=VOCAB_SIZE,
            tokenizer_hash=_hex("tokenizer"),
            context_tokens=context_tokens,
            train_context_tokens=MAX_CONTEXT,
            max_sequences=SEQUENCES_PER_SESSION * group.max_sessions,
            can_truncate=True,
        )

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if not isinstance(error, NoPipeline):
            self.complaints.append(f"{context.get('message')}: {error!r}")


def _pair(scenario: Scenario) -> Pair:
    pair = scenario.pair
    return read_traces(Path(pair.trace)) if pair.trace else SyntheticPair(pair.acceptance, pair.spread, pair.second)


def _cost(group: Group) -> DecodeCost:
    return DecodeCost(group.cost, group.sequence_ms / 1e3)


def _name(group: Group, number: int, index: int) -> str:
    return f"{group.name or group.role}-{number}-{index}"


def _hex(text: str) -> str:
    return blake2b(text.encode(), digest_size=32).hexdigest()

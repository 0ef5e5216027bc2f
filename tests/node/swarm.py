"""Swarms in one process: production nodes over an in-memory network, with fake engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.config import DEFAULT_PATIENCE_S, NodeConfig
from dsdnode.engine.fake import FakeEngine, FakeModel, FakeTextEngine
from dsdnode.engine.nodraft import NoDraft
from dsdnode.engine.port import TextEngine
from dsdnode.identity import Identity
from dsdnode.net.memory import MemoryHub
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.texts import Draft
from dsdnode.node.node import Node
from dsdnode.node.organs import Organs
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord

TARGET = FakeModel()
DRAFT = FakeModel(agreement=0.7)


@dataclass
class Member:
    """One node and its organs, for tests that hurt it."""

    node: Node
    contact: Contact
    shard: FakeEngine | None = None
    draft: FakeTextEngine | None = None

    @property
    def join(self) -> str:
        return self.node.join


@dataclass
class FakeSwarm:
    """`await swarm.add("alice", layers=(0, 2))`; addresses are made up, one host each."""

    folder: Path
    hub: MemoryHub = field(default_factory=MemoryHub)
    members: dict[str, Member] = field(default_factory=dict)
    clients: list[Client] = field(default_factory=list)
    dead: list[Member] = field(default_factory=list)
    strangers: list[Rpc] = field(default_factory=list)
    cost: Callable[[int], float] | None = None
    """Of the engines, as FakeEngine takes it."""

    async def add(
        self,
        name: str,
        *,
        layers: tuple[int, int] | None = None,
        drafts: bool = False,
        target: FakeModel = TARGET,
        draft: FakeModel = DRAFT,
        before: Callable[[Discovery], Awaitable[None]] | None = None,
        context_tokens: int = 4096,
        drafts_after_s: float = 0.0,
        texts: Draft | None = None,
        shard: Callable[[Discovery], Awaitable[FakeEngine]] | None = None,
        moves: Callable[[Discovery, Pings, ProviderRecord], Awaitable[bool]] | None = None,
        **options: object,
    ) -> Member:
        """`before`: what happens until its shard's engine is there; `drafts_after_s`: until its draft engine is.
        `shard`, `moves`: as node/organs.py has them."""
        identity, contact = self._identity(name)
        member = Member(None, contact)  # type: ignore[arg-type]

        async def start_shard(discovery: Discovery) -> FakeEngine:
            if before is not None:
                await before(discovery)
            member.shard = FakeEngine(
                target, *(layers or (0, target.num_layers)), cost=self.cost, context_tokens=context_tokens
            )
            return member.shard

        async def start_draft() -> TextEngine:
            if options.get("no_draft_model"):
                return NoDraft(context_tokens, max_sequences=32)
            await asyncio.sleep(drafts_after_s)
            member.draft = FakeTextEngine(draft, cost=self.cost)
            return member.draft

        roles = (("drafter",) if drafts else ()) + (("shard",) if layers else ())
        config = NodeConfig(roles=roles or ("bootstrap",), data_dir=self.folder / name, name=name, **options)  # type: ignore[arg-type]
        transport = self.hub.transport(contact)
        tools = None if texts is None else lambda: texts
        organs = Organs(shard or start_shard, start_draft, texts=tools, moves=moves)
        member.node = Node(config, identity, transport, organs, Random(name))
        others = [other.contact for other in self.members.values()]
        await member.node.run(others)
        self.members[name] = member
        return member

    async def client(self, patience_s: float = DEFAULT_PATIENCE_S, guest_of: Member | None = None) -> Client:
        """`guest_of`: its own user's."""
        identity, _ = self._identity(f"client {len(self.clients)}")
        identity = identity if guest_of is None else guest_of.node.volunteering.guest()
        hidden = Contact(identity.public_key, ())
        contacts = [member.contact for member in self.members.values()]
        client = Client.over(self.hub.transport(hidden), identity, contacts, patience_s=patience_s)
        await client.join(contacts)
        self.clients.append(client)
        return client

    def stranger(self, name: str) -> Rpc:
        """A peer that plays no part in anything, and can say what it likes to everybody."""
        _, contact = self._identity(name)
        rpc = Rpc(self.hub.transport(contact), Random(name))
        rpc.start()
        self.strangers.append(rpc)
        return rpc

    async def kill(self, name: str) -> None:
        """Its process is gone: no goodbye."""
        member = self.members.pop(name)
        self.dead.append(member)
        await self.hub.transports[member.node.peer_id].close()

    def _identity(self, name: str) -> tuple[Identity, Contact]:
        identity = Identity(Random(name).randbytes(32))
        number = len(self.hub.transports) + 1
        return identity, Contact(identity.public_key, (f"tcp://127.0.0.1:{20000 + number}",))


@contextlib.asynccontextmanager
async def fake_swarm(folder: Path, **options: Any) -> AsyncIterator[FakeSwarm]:
    swarm = FakeSwarm(folder, **options)
    try:
        yield swarm
    finally:
        for rpc in swarm.strangers:
            await rpc.close()
        for client in swarm.clients:
            await client.close()
        for member in [*swarm.members.values(), *swarm.dead]:
            await member.node.close()


async def tokens_of(client: Client, request: GenerateRequest) -> tuple[list[int], Finished]:
    """A whole reply."""
    tokens: list[int] = []
    async for event in client.generate(request):
        if isinstance(event, Piece):
            tokens.extend(event.tokens)
        else:
            return tokens, event
    raise AssertionError("a reply ends with Finished")

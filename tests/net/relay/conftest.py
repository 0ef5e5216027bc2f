from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import pytest

from dsdnode.identity import Identity
from dsdnode.net.relay.agent import Agent, Patience
from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.server import Relay
from tests.net.relay.ends import ROSE, Callee, contact_of

OpenRelay = Callable[..., Awaitable[Relay]]
Reserve = Callable[..., Awaitable[Callee]]


@pytest.fixture
async def open_relay() -> AsyncIterator[OpenRelay]:
    """`await open_relay(answer_s=0.1)`: rose's relay on loopback, with other limits than usual."""
    opened: list[Relay] = []

    async def open_one(swarm_keys: tuple[str, ...] = (), port: int = 0, **limits: Any) -> Relay:
        relay = await Relay.open(ROSE, "127.0.0.1", port, swarm_keys=swarm_keys, limits=Limits(**limits), rng=Random(7))
        opened.append(relay)
        return relay

    yield open_one
    for relay in opened:
        await relay.close()


@pytest.fixture
async def reserve() -> AsyncIterator[Reserve]:
    """`await reserve(BOB, relay, port)`: bob's agent has a reservation, and takes circuits to this port of his."""
    agents: list[Agent] = []

    async def reserve_one(
        identity: Identity, relay: Relay, port: int, swarm_keys: tuple[bytes, ...] = (), **patience: float
    ) -> Callee:
        callee = Callee()
        callee.agent = Agent(
            callee,
            identity,
            contact_of(relay),
            ("127.0.0.1", port),
            Random(3),
            swarm_keys=swarm_keys,
            patience=Patience(**patience),
        )
        agents.append(callee.agent)
        callee.agent.start()
        await callee.next_news()
        return callee

    yield reserve_one
    for agent in agents:
        await agent.close()

"""Bob gives pieces of his model in turn; mallory asks for more than she waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dsdnode.models import demo_target
from dsdnode.weights.holdings import hashed
from dsdnode.wire.messages import Message, Refused
from dsdnode.wire.pieces import GetWeights, Weights
from tests.weights.test_members import Peer, Town

RATE = 10_000
"""Of which 15 s are 150 kB."""


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town(await hashed(demo_target()))
    yield town
    await town.close(town.alice)


async def ask(asker: Peer, giver: Peer, model: str, num_bytes: int, timeout_s: float) -> Message | None:
    wanted = GetWeights(model, "token_embd.weight", 0, num_bytes)
    try:
        return (await asker.rpc.request(giver.identity.peer_id, wanted, timeout_s=timeout_s))[0]
    except Exception:
        return None


async def test_a_slow_line_gives_a_large_piece_too(town: Town) -> None:
    """It takes longer than anybody waits, but nothing of alice waits before it."""
    bob = town.giver("bob", rate=1_000)
    assert isinstance(await ask(town.alice, bob, town.model.weights_hash, 100_000, 20), Weights)
    await town.close(bob)


async def test_of_questions_that_nobody_waits_for_nothing_is_kept(town: Town) -> None:
    """Mallory has a new one each time that her last ones are too old, while bob's line is busy."""
    bob, mallory = town.giver("bob", rate=10 * RATE), town.peer("mallory")
    mallory.rpc.transport.introduce(bob.rpc.transport.contact)
    assert isinstance(await ask(town.alice, bob, town.model.weights_hash, 250_000, 20), Weights)
    for _ in range(10):
        questions = (ask(mallory, bob, town.model.weights_hash, 1, 0.02) for _ in range(5))
        await asyncio.gather(*questions)
    assert bob.sharing is not None and len(bob.sharing._waiting) <= 10  # the last ones may still go
    await town.close(bob, mallory)


async def test_single_bytes_count_as_what_they_cost(town: Town) -> None:
    bob, mallory = town.giver("bob", rate=RATE), town.peer("mallory")
    mallory.rpc.transport.introduce(bob.rpc.transport.contact)
    await ask(town.alice, bob, town.model.weights_hash, 100_000, 20)
    questions = (ask(mallory, bob, town.model.weights_hash, 1, 0.5) for _ in range(20))
    refused = [one for one in await asyncio.gather(*questions) if isinstance(one, Refused)]
    assert len(refused) == 11 and all(one.retry for one in refused)
    await town.close(bob, mallory)

"""The context of a reply is that of its own pipeline, whatever others say of theirs; speed is what passes took."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsdnode.client.client import Client, Finished
from dsdnode.cost import CostLine
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.dht.store import record_keys
from dsdnode.engine.fake import FakeTextEngine
from dsdnode.errors import BadInput, DsdError, NoPipeline
from dsdnode.node.drafter import reply as reply_module
from dsdnode.node.drafter.conversations import Conversations
from dsdnode.wire.messages import Announce
from dsdnode.wire.records import ProviderRecord, sign_record
from tests.node.mallory import EXPECTED, REQUEST, Mallory, rest, ring
from tests.node.swarm import FakeSwarm, tokens_of
from tests.node.test_drafter_host import PROMPT, some, story


async def lies(swarm: FakeSwarm, mallory: Mallory, **more: Any) -> None:
    """To everybody, under all keys: a record like sam's, with something else in it."""
    dora = swarm.members["dora"].node
    records = await dora.discovery.find_providers(MODELS_KEY)
    sams = next(one for one in records if one.role == "shard")
    record = msgspec.structs.replace(
        sams, public_key=mallory.contact.public_key, addresses=mallory.contact.addresses, **({"sequence": 1} | more)
    )
    await spread(swarm, mallory, record)


async def spread(swarm: FakeSwarm, mallory: Mallory, record: ProviderRecord) -> None:
    signed = sign_record(mallory.identity, record)
    for member in swarm.members.values():
        for key in record_keys(record):
            await mallory.asks(member, Announce(key), signed)


LIES: list[dict[str, Any]] = [
    {"context_tokens": 1},
    {"context_tokens": 1, "start": 0, "end": 4},
    {"context_tokens": 1, "free_sessions": 0, "start": 1, "end": 2},
    {"context_tokens": 1 << 20, "start": 0, "end": 4, "free_sessions": 1000},
    {"num_layers": 1, "start": 0, "end": 1, "free_sessions": 1000},
    {"vocab_size": 5, "start": 0, "end": 1},
    {"width": 1, "fixed_ms": 1e-9},
    {"model_name": "mallory's"},
    {"weights_hash": "0" * 64, "start": 0, "end": 4},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_one_record_of_a_stranger_stops_nobody(lie: dict[str, Any], tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        mallory = Mallory(swarm)
        await lies(swarm, mallory, **lie)
        for model in (None, "fake"):
            tokens, finished = await tokens_of(await swarm.client(), replace(REQUEST, model=model))
            assert (tokens, finished.reason) == (EXPECTED, "length")

    story(tmp_path, tell)


def test_a_prompt_too_long_for_anybody_s_pipeline_is_refused_although_mallory_has_room_for_all(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        long = replace(REQUEST, prompt_tokens=tuple([7] * 4096))
        with pytest.raises(BadInput, match="the context of fake here is 4096"):
            await tokens_of(await swarm.client(), long)
        await lies(swarm, Mallory(swarm), context_tokens=1 << 20, start=0, end=4)
        with pytest.raises(NoPipeline, match="room for more than 4096 positions of fake, and 4096 are taken"):
            await tokens_of(await swarm.client(), long)

    story(tmp_path, tell)


def test_a_reply_goes_to_the_pipeline_with_room_for_it_and_else_to_the_end_of_its_own(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await swarm.add("tim", layers=(0, 4), context_tokens=20)
        alice = await swarm.client()
        tokens, finished = await tokens_of(alice, REQUEST)
        assert (tokens, finished.reason, len(finished.stats.pipeline)) == (EXPECTED, "length", 2)
        for name in ("sam", "sue"):
            await swarm.kill(name)
        tokens, finished = await tokens_of(alice, REQUEST)
        assert (len(PROMPT) + len(tokens), finished.reason) == (20, "context")
        assert tokens == EXPECTED[: len(tokens)]
        tokens, finished = await tokens_of(alice, replace(REQUEST, max_tokens=5))
        assert (tokens, finished.reason) == (EXPECTED[:5], "length")

    story(tmp_path, tell)


def test_a_stage_that_holds_alice_s_reply_is_opened_with_whoever_has_room_next(tmp_path: Path) -> None:
    """Sam has opened for the way with tam, who refuses; with sue there is less room, and sam holds what he has."""

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 2))
        await swarm.add("tim", layers=(2, 4))
        for name, context_tokens in (("tam", 50), ("sue", 40)):
            await swarm.add(name, layers=(2, 4), context_tokens=context_tokens)
        events = (await swarm.client()).generate(REQUEST)
        tokens = await some(events, 10)
        stage = swarm.members["tam"].node._stage
        assert stage is not None
        stage.draining = True
        await swarm.kill("tim")
        async with asyncio.timeout(20):
            finished = await rest(events, tokens)
        assert (len(PROMPT) + len(tokens), finished.reason) == (40, "context")
        assert tokens == EXPECTED[: len(tokens)]

    story(tmp_path, tell)


# --- speed


@pytest.mark.parametrize("claimed_ms", [0.0, 1e-6, 0.5])
def test_who_is_slower_than_he_says_or_says_nothing_is_left_alone(claimed_ms: float, tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 4))
        await swarm.add("sid", layers=(0, 4))
        sid = swarm.members["sid"]
        assert sid.shard is not None
        sid.shard._cost = lambda num_positions: 0.15 + 0.002 * num_positions
        offer = sid.node._offers["shard"]
        offer.batcher, offer.measured = None, CostLine.of_ms(claimed_ms, 0.0)
        sid.node.discovery.changed()
        await asyncio.sleep(20)
        alice, used = await swarm.client(), []
        for _ in range(4):
            tokens, finished = await tokens_of(alice, REQUEST)
            assert tokens == EXPECTED
            used.append([stage.peer_id for stage in finished.stats.pipeline])
        assert all(sid.node.peer_id.hex() not in peers for peers in used[1:]), "once was enough"

    story(tmp_path, tell)


# --- the end of a reply


async def ends(client: Client) -> Finished | DsdError:
    async with asyncio.timeout(60):
        try:
            return (await tokens_of(client, REQUEST))[1]
        except DsdError as error:
            return error


@pytest.mark.parametrize("where", ["statistics", "leave", "release"])
def test_alice_hears_of_the_end_whatever_fails_at_it(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        if where == "statistics":
            monkeypatch.setattr(reply_module, "with_estimates", bug)
        elif where == "leave":
            monkeypatch.setattr(Conversations, "leave", bug)
        else:
            monkeypatch.setattr(reply_module.Reply, "_end", bug)
        ended = await ends(await swarm.client())
        assert isinstance(ended, DsdError) and "its log says how" in str(ended)
        monkeypatch.undo()
        tokens, _ = await tokens_of(await swarm.client(), REQUEST)
        assert tokens == EXPECTED
        assert isinstance(swarm.members["dora"].draft, FakeTextEngine)

    story(tmp_path, tell)

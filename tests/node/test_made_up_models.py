"""Models that mallory makes up: they are said to be read with sam's file, which anybody may name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsdnode.engine.nodraft import NoDraft
from dsdnode.errors import NoPipeline, PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.node.drafter import pairing
from dsdnode.node.drafter.routes import MAX_MODELS
from dsdnode.node.drafter.texts import FILE_S, PIECE_TIMEOUT_S, _in_turn
from dsdnode.swarm.pings import Pings
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import MAX_TEXT_PIECES, TEXT_PIECE_BYTES, FindText, TextPiece, WireSampling
from dsdnode.wire.records import NO_HASH
from dsdnode.wire.replies import Generate, GenerateBody
from tests.node import jumping
from tests.node.mallory import REQUEST, Mallory, rest, ring
from tests.node.swarm import FakeSwarm, fake_swarm
from tests.node.test_drafter_host import some
from tests.node.test_drafter_host import story as in_virtual_time
from tests.node.test_texts import LIES, LONG, OWN, Hosts, honest, model_of, said, story
from tests.node.test_waits import cut
from tests.placement.offers import shard

pytestmark = pytest.mark.usefixtures("quiet")


def test_a_made_up_model_with_the_same_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Mallory's shards say that theirs is read with sam's file, and never give it, or say that they have none. Then
    they give it at last: there is one process for both."""

    async def tell(swarm: FakeSwarm) -> None:
        asked, go = asyncio.Event(), asyncio.Event()
        hosts = Hosts(swarm, tmp_path, honest(LONG), LIES["a refusal"][0], honest(LONG))
        sam, zoe, mallory = hosts.rpcs

        async def slow(peer: bytes, message: FindText, buffers: list[bytes]) -> tuple[Any, list[bytes]]:
            asked.set()
            await go.wait()
            return honest(LONG)(message)

        mallory.on_request(FindText, slow)
        waiting = asyncio.ensure_future(hosts.texts.of(model_of(LONG, mallory, name="mallory's")))
        with pytest.raises(PeerUnavailable):
            await hosts.texts.of(model_of(LONG, zoe, name="zoe's"))
        await asked.wait()
        sams = await hosts.texts.of(model_of(LONG, sam))
        go.set()
        assert await waiting is sams
        await hosts.texts.close()
        assert sams.text.closed  # type: ignore[attr-defined]

    story(tmp_path, tell)


def told_in_no_time(folder: Path, tell: Callable[[FakeSwarm], Awaitable[None]]) -> None:
    """On a clock that jumps."""

    async def told() -> None:
        async with fake_swarm(folder) as swarm:
            await tell(swarm)

    jumping.run(told())


async def drips(peer: bytes, message: FindText, buffers: list[bytes]) -> tuple[Any, list[bytes]]:
    """Mallory gives each piece of the longest file that there may be at the last moment."""
    await asyncio.sleep(PIECE_TIMEOUT_S - 1)
    num_bytes = MAX_TEXT_PIECES * TEXT_PIECE_BYTES
    return TextPiece(num_bytes), honest(bytes(num_bytes))(message)[1]


def test_a_shard_that_gives_its_file_in_drops_makes_way_for_the_next(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        hosts = Hosts(swarm, tmp_path, honest(LONG), honest(LONG))
        model = model_of(LONG, *hosts.rpcs)
        first = _in_turn(model, peer_id(hosts.dora.transport.contact.public_key))[0]
        mallory = next(one for one in hosts.rpcs if peer_id(one.transport.contact.public_key) == first)
        mallory.on_request(FindText, drips)
        assert await hosts.texts._got(model) == LONG

    told_in_no_time(tmp_path, tell)


def test_a_model_all_of_whose_shards_give_in_drops_is_left(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        hosts = Hosts(swarm, tmp_path, *[honest(LONG)] * 8)
        for mallory in hosts.rpcs:
            mallory.on_request(FindText, drips)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(PeerUnavailable, match="did not give its tokenizer"):
            await hosts.texts._got(model_of(LONG, *hosts.rpcs))
        assert asyncio.get_running_loop().time() - began_s == FILE_S

    told_in_no_time(tmp_path, tell)


def test_without_a_draft_model_dora_reads_with_what_most_who_answer_host(tmp_path: Path) -> None:
    """Mallory hosts a model of hers, and says that six others in as many networks do."""

    async def tell(swarm: FakeSwarm) -> None:
        others = said("ff" * 32)
        hosts = Hosts(swarm, tmp_path, honest(others), honest(said()), honest(said()))
        mallory, sam, sue = hosts.rpcs
        invented = tuple(
            msgspec.structs.replace(shard(number, 0, 4), addresses=(f"tcp://203.0.{number}.1:1",))
            for number in range(2, 8)
        )
        made_up = model_of(others, mallory, name="a")
        made_up = replace(made_up, shards=(*invented, *made_up.shards), tokenizer_hash="ff" * 32)
        models = [made_up, model_of(said(), sam, sue)]
        hosts.texts.tokenizer_hash = NO_HASH
        pings = Pings(hosts.dora)
        assert await pairing.tokenizer_for(hosts.texts, NoDraft(4096, 32).shard, models, pings) == OWN

    story(tmp_path, tell)


def test_models_that_nobody_offers_push_none_out_of_dora_s_memory(tmp_path: Path) -> None:
    """Alice's judge has gone silent, and she waits for it. Mallory asks for one invented model after the other."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        dora, alice, mallory = swarm.members["dora"], await swarm.client(), Mallory(swarm)
        alice._patience_s = 3.0
        events = alice.generate(REQUEST)
        await some(events, 3)
        reply = asyncio.create_task(rest(events, []))
        cut(swarm, dora, swarm.members["sue"])
        numbers = count()
        while not reply.done():
            name, number = f"{next(numbers):064x}", next(numbers)
            body = GenerateBody((), "", (1,), (), name, WireSampling(), 5, (), -1)
            with suppress(PeerUnavailable):
                await mallory.asks(dora, Generate(number.to_bytes(16, "big")), encode_body(body))
        with pytest.raises(NoPipeline, match="does not answer"):
            await reply
        assert next(numbers) > 2 * MAX_MODELS
        assert dora.node._drafter is not None
        assert len(dora.node._drafter._routes.hosts._remembered) == 1

    in_virtual_time(tmp_path, tell)

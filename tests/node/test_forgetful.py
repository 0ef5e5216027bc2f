"""Mallory answers and does nothing: she forgets each reply, or says of a drafter's prompt what it was not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from dsdnode.client.client import Client
from dsdnode.client.patience import MARGIN_S, Patience
from dsdnode.config import DEFAULT_PATIENCE_S, POSITION_PATIENCE_S
from dsdnode.engine.fake import fake_text
from dsdnode.wire import replies
from dsdnode.wire.messages import Block, Message, Nack, Refused, SessionLost, Trace, Verdict
from dsdnode.wire.numbers import pack_tokens
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, ring, sessions_at
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_drafter_host import all_free, story
from tests.node.test_waits import SHORT_S, Listener, lying, now, took_s

Says = Callable[[Block, int], Message | None]


def lost(block: Block, index: int) -> Message:
    return SessionLost(block.session, index, "its worker died", block.route)


NACKS = count()


def nack(block: Block, index: int) -> Message:
    """Never the same twice."""
    return Nack(block.session, block.route, block.epoch, index, next(NACKS) % 2)


def nothing(block: Block, index: int) -> None:
    """But asked where a block is she knows nothing of the reply."""


def answers_blocks(stage: Member, says: Says) -> dict[bytes, None]:
    """The sessions that she was asked for."""
    asked: dict[bytes, None] = {}
    host, rpc = stage.node._stage, stage.node.rpc
    assert host is not None

    def heard(peer: bytes, message: Block, buffers: list[bytes]) -> None:
        asked[message.session] = None
        session = host._sessions.get(message.session)
        if session is not None and (answer := says(message, session.opened.index)) is not None:
            rpc.notify(session.owner, answer)

    async def trace(peer: bytes, message: Trace, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        return Refused("no such session of yours is here"), []

    rpc._on_notice[Block] = [heard]
    rpc.on_request(Trace, trace)
    return asked


@pytest.mark.parametrize("says", [lost, nack, nothing])
@pytest.mark.parametrize("place", [0, 1])
def test_a_stage_that_never_knows_the_reply_is_left_and_remembered(tmp_path: Path, place: int, says: Says) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        mallory = await swarm.add("mallory", layers=[(0, 2), (2, 4)][place])
        asked = answers_blocks(mallory, says)
        slow_s = [seen_s for seen_s in await took_s(await swarm.client(), 8) if seen_s > 2]
        assert len(slow_s) <= 1 and all(seen_s < 2 * SHORT_S for seen_s in slow_s)
        assert len(asked) == 1
        await all_free(swarm, within_s=70)

    story(tmp_path, tell)


def test_who_refuses_to_say_where_a_block_is_is_suspected_alone(tmp_path: Path) -> None:
    """Sue, behind her, has said that it has not come: she is not to be avoided with her."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        mallory = await swarm.add("mallory", layers=(0, 2))
        answers_blocks(mallory, nothing)
        await took_s(await swarm.client(), 8)
        drafter = swarm.members["dora"].node._drafter
        assert drafter is not None
        links = drafter._routes.suspects.links(asyncio.get_running_loop().time())
        assert list(links) == [(mallory.node.peer_id, mallory.node.peer_id)]

    story(tmp_path, tell)


def test_two_that_never_know_the_reply_and_one_that_does(tmp_path: Path) -> None:
    """Whoever is asked is suspected; who did his work before is asked again."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        for name in ("mallory", "mortimer"):
            answers_blocks(await swarm.add(name, layers=(0, 4)), lost)
        alice = await swarm.client()
        for _ in range(3):
            listener = Listener()
            await listener.read(alice)
            assert (listener.tokens, listener.reason) == (EXPECTED, "length")

    story(tmp_path, tell)


BRIEF = replace(REQUEST, max_tokens=8)


async def asks_until(alice: Client, met: Collection[object]) -> Listener:
    """Alike stages are chosen by lot: the reply of the first time that alice meets mallory."""
    while True:
        listener = Listener()
        await listener.read(alice, BRIEF)
        assert (listener.tokens, listener.reason) == (EXPECTED[:8], "length")
        if met:
            return listener


def test_a_judge_who_only_repeats_what_is_known_is_no_judge_at_work(tmp_path: Path) -> None:
    """Mallory says every moment that nothing is decided yet."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        mallory = await swarm.add("mallory", layers=(2, 4))
        says: list[asyncio.Task[None]] = []

        async def repeat(owner: bytes, block: Block) -> None:
            while True:
                mallory.node.rpc.notify(owner, Verdict(block.session, block.route, block.epoch, 0, 1))
                await asyncio.sleep(0.3)

        def heard(peer: bytes, block: Block, buffers: list[bytes]) -> None:
            [session] = sessions_at(mallory)
            says.append(asyncio.create_task(repeat(session.owner, block)))

        mallory.node.rpc._on_notice[Block] = [heard]
        began_s = now()
        assert (await asks_until(await swarm.client(), says)).words
        assert now() - began_s < SHORT_S
        for task in says:
            task.cancel()

    story(tmp_path, tell)


@pytest.mark.parametrize(("place", "listener"), [(0, "dora"), (1, "dora"), (1, "sam")])
def test_one_stage_does_not_end_a_reply_with_its_deaths(tmp_path: Path, place: int, listener: str) -> None:
    """Mallory says that her engine has died of it, on this route and on those to come; or has her neighbour say so."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        mallory = await swarm.add("mallory", layers=[(0, 2), (2, 4)][place])
        told: list[SessionLost] = []

        def heard(peer: bytes, block: Block, buffers: list[bytes]) -> None:
            for route in range(block.route, block.route + 3):
                told.append(SessionLost(block.session, place, "it died", route, culprit=True))
                mallory.node.rpc.notify(swarm.members[listener].node.peer_id, told[-1])

        mallory.node.rpc._on_notice[Block] = [heard]
        alice = await swarm.client()
        assert not (await asks_until(alice, told)).words
        assert not (await asks_until(alice, told)).words

    story(tmp_path, tell)


def first_tokens(of: list[int]) -> Callable[[Member, bytes, bytes, int], None]:
    def speaks(mallory: Member, client: bytes, request: bytes, second: int) -> None:
        if second == 0:
            piece = replies.Piece(request, 0, 0)
            mallory.node.rpc.notify(client, piece, [pack_tokens(of[:3]), b"x"])

    return speaks


@pytest.mark.parametrize("prompt", [(9, 9, 9, 9), PROMPT[:-1], (*PROMPT, 3)])
def test_a_drafter_that_names_another_prompt_is_not_believed(tmp_path: Path, prompt: tuple[int, ...]) -> None:
    """It answers that one: alice hears nothing of it."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, asked = await lying(swarm, first_tokens(fake_text(TARGET, prompt, 3)), prompt)
        listener = Listener()
        await listener.read(alice, replace(REQUEST, max_tokens=40))
        assert (listener.tokens, listener.reason) == (EXPECTED[:40], "length")
        assert asked

    story(tmp_path, tell)


def test_many_drafters_that_only_accept_make_no_reply_wait_longer() -> None:
    num_positions = 300
    patience = Patience(0.0, DEFAULT_PATIENCE_S)
    for _ in range(10):
        patience.accepted(num_positions)
    most_s = DEFAULT_PATIENCE_S + MARGIN_S + POSITION_PATIENCE_S * num_positions
    assert not patience.is_over(most_s - 1) and patience.is_over(most_s)


def test_whoever_goes_on_reads_the_prompt_anew() -> None:
    patience = Patience(0.0, DEFAULT_PATIENCE_S)
    patience.accepted(300)
    patience.stepped(100.0)
    patience.accepted(300)
    assert not patience.is_over(100.0 + DEFAULT_PATIENCE_S + MARGIN_S + POSITION_PATIENCE_S * 300 - 1)

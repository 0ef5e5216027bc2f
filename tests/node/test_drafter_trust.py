"""Whom a drafter believes of a reply: the stages of its route, and the client whose reply it is. Mallory is neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dsdnode.client.client import Client
from dsdnode.wire import replies
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import Nack, Pong, Refused, SessionLost, Verdict, WireSampling
from dsdnode.wire.replies import Accepted, Cancel, Finished, Generate, GenerateBody
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, Mallory, id_of, reply_of, request_of, rest, ring, session_at
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_drafter_host import all_free, some, story

EPOCHS = range(1, 40)
Deed = Callable[[Mallory, Member, bytes, int], None]


def disturbed(folder: Path, deed: Deed) -> None:
    """Alice's reply, with what mallory says of its session to dora in the middle of it: the same, on the same route."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, mallory = await swarm.client(), Mallory(swarm)
        events = alice.generate(REQUEST)
        tokens = await some(events, 10)
        opened = session_at(swarm.members["sam"]).opened
        deed(mallory, swarm.members["dora"], opened.session, opened.route)
        async with asyncio.timeout(60):
            finished = await rest(events, tokens)
        assert tokens == EXPECTED
        assert finished.stats.recoveries == 0

    story(folder, tell)


def test_nobody_else_decides_a_token(tmp_path: Path) -> None:
    def deed(mallory: Mallory, dora: Member, session: bytes, route: int) -> None:
        for epoch in EPOCHS:
            for decided in range(12, 24):
                mallory.says(dora, Verdict(session, route, epoch, decided, 1))

    disturbed(tmp_path, deed)


def test_nobody_else_has_a_block_sent_again(tmp_path: Path) -> None:
    def deed(mallory: Mallory, dora: Member, session: bytes, route: int) -> None:
        for epoch in EPOCHS:
            for length in range(12):
                mallory.says(dora, Nack(session, route, epoch, 0, length))

    disturbed(tmp_path, deed)


def test_nobody_else_says_that_a_stage_has_lost_the_session(tmp_path: Path) -> None:
    def deed(mallory: Mallory, dora: Member, session: bytes, route: int) -> None:
        for index in (0, 1):
            mallory.says(dora, SessionLost(session, index, "so it is", route))

    disturbed(tmp_path, deed)


def test_old_news_of_a_lost_session_changes_nothing(tmp_path: Path) -> None:
    """Sam's own word, of a route that dora has left."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        events = alice.generate(REQUEST)
        tokens = await some(events, 5)
        sam, dora = swarm.members["sam"], swarm.members["dora"]
        sam.shard.die()
        tokens += await some(events, 10)
        opened = session_at(sam).opened
        assert opened.route == 1
        sam.node.rpc.notify(dora.node.peer_id, SessionLost(opened.session, 0, "so it was", 0))
        finished = await rest(events, tokens)
        assert (tokens, finished.stats.recoveries) == (EXPECTED, 1)

    story(tmp_path, tell)


# --- clients


def body(
    *, prompt: tuple[int, ...] = PROMPT, tokens: tuple[int, ...] = (), max_tokens: int = 60, keep: bool = False
) -> bytes:
    """What a client asks for."""
    model = TARGET.shard(0, TARGET.num_layers).model_id
    return encode_body(GenerateBody((), "", prompt, tokens, model, WireSampling(), max_tokens, (), 4, keep=keep))


async def in_the_middle(swarm: FakeSwarm) -> tuple[Client, Mallory]:
    """Alice's reply is on its way."""
    await ring(swarm)
    return await swarm.client(), Mallory(swarm)


def test_nobody_else_cancels_a_reply(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, mallory = await in_the_middle(swarm)
        events = alice.generate(REQUEST)
        tokens = await some(events, 10)
        mallory.says(swarm.members["dora"], Cancel(request_of(alice)))
        finished = await rest(events, tokens)
        assert (tokens, finished.reason) == (EXPECTED, "length")

    story(tmp_path, tell)


def test_nobody_else_is_told_that_a_reply_goes_on(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, mallory = await in_the_middle(swarm)
        events = alice.generate(REQUEST)
        await some(events, 10)
        answer, _ = await mallory.asks(swarm.members["dora"], Generate(request_of(alice)))
        assert answer == Refused("no such reply is in progress for you")
        await events.aclose()

    story(tmp_path, tell)


def test_a_reply_s_name_is_its_client_s_own(tmp_path: Path) -> None:
    """Or mallory, if she came first, could keep alice from every drafter; and alice's cancel would end her reply."""

    async def tell(swarm: FakeSwarm) -> None:
        alice, mallory = await in_the_middle(swarm)
        events = alice.generate(replace(REQUEST, max_tokens=2000))
        await some(events, 10)
        name, dora = request_of(alice), swarm.members["dora"]
        answer, _ = await mallory.asks(dora, Generate(name), body(max_tokens=2000))
        assert isinstance(answer, Accepted)
        await events.aclose()
        await asyncio.sleep(0.1)
        answer, _ = await mallory.asks(dora, Generate(name))
        assert (answer, dora.node.status().sessions.drafter) == (Pong(), 1)
        mallory.says(dora, Cancel(name))
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


def test_a_conversation_goes_on_for_its_own_client_alone(tmp_path: Path) -> None:
    """What mallory asks begins like alice's conversation: how fast it comes would tell her what alice has said."""

    async def tell(swarm: FakeSwarm) -> None:
        alice, mallory = await in_the_middle(swarm)
        prompt = tuple(range(3, 43))
        tokens: list[int] = []
        await rest(alice.generate(replace(REQUEST, prompt_tokens=prompt, keep=True)), tokens)
        told: list[bytes] = []
        mallory.rpc.on_notice(Finished, lambda peer, message, buffers: told.extend(buffers))
        answer, _ = await mallory.asks(swarm.members["dora"], Generate(bytes(16)), body(prompt=prompt, keep=True))
        assert isinstance(answer, Accepted)
        await asyncio.sleep(10)
        [stats] = told
        assert b"prompt_tokens_reused\x00" in stats

    story(tmp_path, tell)


def test_a_token_that_no_vocabulary_has_is_no_prompt(tmp_path: Path) -> None:
    """Alice's program looks before it asks; mallory's does not."""

    async def tell(swarm: FakeSwarm) -> None:
        _, mallory = await in_the_middle(swarm)
        for asked in (body(prompt=(5, 97)), body(tokens=(97,))):
            answer, _ = await mallory.asks(swarm.members["dora"], Generate(bytes(16)), asked)
            assert isinstance(answer, replies.Finished)
            assert answer.error == "BadInput"
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


def test_a_client_that_is_gone_leaves_nothing_behind(tmp_path: Path) -> None:
    """At once: not only when there is a piece that cannot be sent, which may take long."""

    async def tell(swarm: FakeSwarm) -> None:
        alice, _ = await in_the_middle(swarm)
        events = alice.generate(replace(REQUEST, max_tokens=2000, keep=True))
        await some(events, 1)
        assert reply_of(swarm.members["dora"]).keep
        await swarm.hub.transports[id_of(alice)].close()  # her process ended: no goodbye
        await asyncio.sleep(1)
        assert swarm.members["dora"].node.status().sessions.drafter == 0
        await all_free(swarm, within_s=10)
        await events.aclose()

    story(tmp_path, tell, cost=lambda num: 4.0)

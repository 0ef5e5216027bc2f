"""Who writes alice's text: the judge of her reply. Tom, another stage of it, may say what he likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from dsdnode.node.shard.host import StageHost
from dsdnode.speculation.actions import BroadcastClosed, SendToOwner
from dsdnode.wire.messages import Block, Closed, Message, Verdict
from tests.node.mallory import EXPECTED, REQUEST, rest, session_at
from tests.node.swarm import FakeSwarm, Member
from tests.node.test_drafter_host import some, story

Forgery = Callable[[Block], Iterator[Message]]
FORGED = (44, 37, 43, 44, 37)
STAGES = ("sam", "tom", "sue")


async def ring(swarm: FakeSwarm) -> Member:
    """Dora drafts; sam, tom and sue are her stages, sue judges."""
    dora = await swarm.add("dora", drafts=True)
    for name, layers in zip(STAGES, ((0, 1), (1, 3), (3, 4)), strict=True):
        await swarm.add(name, layers=layers)
    return dora


def told(folder: Path, liar: str, listener: str, forgery: Forgery) -> None:
    """Alice's reply, with what `liar` tells `listener` of each block that he is given: the same text, and nobody has to
    begin anything anew."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        one, other = swarm.members[liar].node, swarm.members[listener].node
        num_told = 0

        def forge(peer: bytes, block: Block, buffers: list[bytes]) -> None:
            nonlocal num_told
            for message in forgery(block):
                one.rpc.notify(other.peer_id, message)
                num_told += 1

        one.rpc.on_notice(Block, forge)
        tokens: list[int] = []
        async with asyncio.timeout(60):
            finished = await rest((await swarm.client()).generate(REQUEST), tokens)
        assert tokens == EXPECTED
        assert finished.stats.recoveries == 0
        assert num_told > 20

    story(folder, tell)


def place(block: Block) -> tuple[bytes, int, int]:
    return block.session, block.route, block.epoch


def next_token(block: Block) -> Iterator[Message]:
    """All that was given stands, and then comes a word of his."""
    decided = block.position + block.num_given
    yield Verdict(*place(block), decided, FORGED[decided % 5], (0.1, 0.1), (0.0, 0.0), (0, 0))


def whole_draft(block: Block) -> Iterator[Message]:
    """Whatever the drafter thought is right."""
    yield Verdict(*place(block), block.position + block.num_given + block.num_draft, FORGED[0])


def guessed_seals(block: Block) -> Iterator[Message]:
    rng = Random(block.position)
    for token in FORGED:
        decided = block.position + block.num_given
        for seal in (bytes(8), rng.randbytes(8), rng.randbytes(4), block.session[:8]):
            yield Verdict(*place(block), decided, token, relaxed=(decided - 1,), seal=seal)


def progress(block: Block) -> Iterator[Message]:
    """Nothing new: only that somebody is at work, for ever."""
    yield Verdict(*place(block), block.position, FORGED[0])
    yield Verdict(*place(block), 0, FORGED[0])


@pytest.mark.parametrize("liar", ["sam", "tom"])
@pytest.mark.parametrize("forgery", [next_token, whole_draft, guessed_seals, progress])
def test_a_stage_that_does_not_judge_decides_no_token(tmp_path: Path, liar: str, forgery: Forgery) -> None:
    told(tmp_path, liar, "dora", forgery)


def closings(block: Block) -> Iterator[Message]:
    for position in range(block.position, block.position + block.num_given + block.num_draft + 1):
        yield Closed(*place(block), position, FORGED[position % 5])
        yield Closed(*place(block), position, FORGED[0], seal=bytes(8))


@pytest.mark.parametrize(("liar", "listener"), [("sam", "tom"), ("sam", "sue"), ("tom", "sam"), ("tom", "sue")])
def test_a_stage_that_does_not_judge_closes_nothing(tmp_path: Path, liar: str, listener: str) -> None:
    told(tmp_path, liar, listener, closings)


def test_what_the_judge_has_sealed_serves_for_nothing_else(tmp_path: Path) -> None:
    """Tom says of every block what sue once said of others, as it was and in the block's own name."""

    async def tell(swarm: FakeSwarm) -> None:
        dora, tom = await ring(swarm), swarm.members["tom"].node
        heard: list[Closed] = []

        def forge(peer: bytes, block: Block, buffers: list[bytes]) -> None:
            for closed in heard:
                for epoch in (closed.epoch, block.epoch):
                    said = Verdict(block.session, block.route, epoch, closed.position, closed.token, seal=closed.seal)
                    for decided in (closed.position, block.position + block.num_given):
                        tom.rpc.notify(dora.node.peer_id, msgspec.structs.replace(said, decided=decided))

        tom.rpc.on_notice(Block, forge)
        tom.rpc.on_notice(Closed, lambda peer, closed, buffers: heard.append(closed))
        tokens: list[int] = []
        finished = await rest((await swarm.client()).generate(REQUEST), tokens)
        assert (tokens, finished.stats.recoveries) == (EXPECTED, 0)
        assert len(heard) > 3
        assert {len(closed.seal) for closed in heard} == {8}

    story(tmp_path, tell)


def test_a_stage_repeats_what_the_judge_has_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sue's word is lost on its way to dora three times, and reaches sam and tom. They tell dora, who need not begin
    anew."""
    true, num_lost = StageHost._carry_out, 0

    def without_word(self: StageHost, session: Any, actions: list[Any]) -> None:
        nonlocal num_lost
        if num_lost < 3 and any(isinstance(action, BroadcastClosed) for action in actions):
            num_lost += 1
            actions = [action for action in actions if not isinstance(action, SendToOwner)]
        true(self, session, actions)

    monkeypatch.setattr(StageHost, "_carry_out", without_word)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        tokens: list[int] = []
        finished = await rest((await swarm.client()).generate(REQUEST), tokens)
        assert (tokens, num_lost, finished.stats.recoveries) == (EXPECTED, 3, 0)

    story(tmp_path, tell)


def test_the_judge_alone_has_the_key_and_another_judge_another_one(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        events = (await swarm.client()).generate(REQUEST)
        tokens = await some(events, 5)
        keys = {name: session_at(swarm.members[name]).opened.seal_key for name in STAGES}
        assert (keys["sam"], keys["tom"], len(keys["sue"])) == (b"", b"", 16)
        await swarm.add("ruth", layers=(3, 4))
        await swarm.kill("sue")
        tokens += await some(events, 20)
        opened = session_at(swarm.members["ruth"]).opened
        assert (opened.route, len(opened.seal_key)) == (1, 16)
        assert opened.seal_key != keys["sue"]
        await rest(events, tokens)
        assert tokens == EXPECTED

    story(tmp_path, tell)

"""Whom a stage obeys: the owner of the session, and its neighbours on the route. Mallory gets nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsdnode.net.rpc import STRIKES
from dsdnode.wire.messages import Block, Close, Closed, Message, Open, Park, SessionLost
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.tensors import pack_states
from tests.node.mallory import EXPECTED, REQUEST, Mallory, rest, ring, session_at
from tests.node.swarm import FakeSwarm, Member
from tests.node.test_drafter_host import some, story

EPOCHS = range(1, 40)
NEVER = 1 << 30
"""An epoch that no reply gets to: whoever could set a floor there would end all others."""
Deed = Callable[[Mallory, FakeSwarm, bytes, int], None]


def disturbed(folder: Path, deed: Deed) -> None:
    """Alice's reply, with mallory's deed in the middle of it: the same text, on the same route."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, mallory = await swarm.client(), Mallory(swarm)
        events = alice.generate(REQUEST)
        tokens = await some(events, 10)
        opened = session_at(swarm.members["sam"]).opened
        deed(mallory, swarm, opened.session, opened.route)
        async with asyncio.timeout(60):
            finished = await rest(events, tokens)
        assert tokens == EXPECTED
        assert finished.stats.recoveries == 0
        assert session_is_over(swarm.members["sam"])

    story(folder, tell)


def session_is_over(stage: Member) -> bool:
    return stage.node.status().sessions.shard == 0


def block(session: bytes, route: int) -> Block:
    """Four tokens of her own, in an epoch above all others."""
    return Block(session, route, NEVER, 0, 0, 0, 4, 0, NEVER)


def test_a_block_of_anybody_but_the_owner_is_not_run_by_the_first_stage(tmp_path: Path) -> None:
    def deed(mallory: Mallory, swarm: FakeSwarm, session: bytes, route: int) -> None:
        mallory.says(swarm.members["sam"], block(session, route), bytes(8 * 5), pack_tokens([1, 2, 3, 4]))

    disturbed(tmp_path, deed)


def test_a_block_of_anybody_but_the_stage_before_is_not_run_by_the_judge(tmp_path: Path) -> None:
    def deed(mallory: Mallory, swarm: FakeSwarm, session: bytes, route: int) -> None:
        states = pack_states(np.ones((4, 16), np.float32), "f32")
        mallory.says(swarm.members["sue"], block(session, route), bytes(8 * 5), b"", states)

    disturbed(tmp_path, deed)


def test_the_owner_cannot_pass_by_the_first_stage_either(tmp_path: Path) -> None:
    def deed(mallory: Mallory, swarm: FakeSwarm, session: bytes, route: int) -> None:
        dora, states = swarm.members["dora"].node.rpc, pack_states(np.ones((4, 16), np.float32), "f32")
        dora.notify(swarm.members["sue"].node.peer_id, block(session, route), [bytes(8 * 5), b"", states])

    disturbed(tmp_path, deed)


@pytest.mark.parametrize("who", ["mallory", "dora"])
def test_only_the_judge_closes_an_epoch(tmp_path: Path, who: str) -> None:
    """Sam would answer for it with mallory's token, and dora would believe him."""

    def deed(mallory: Mallory, swarm: FakeSwarm, session: bytes, route: int) -> None:
        rpc = mallory.rpc if who == "mallory" else swarm.members["dora"].node.rpc
        for epoch in EPOCHS:
            rpc.notify(swarm.members["sam"].node.peer_id, Closed(session, route, epoch, 15, 1))

    disturbed(tmp_path, deed)


def ends(session: bytes, route: int) -> list[Message]:
    return [Close(session), Park(session, route, 60.0), SessionLost(session, 1, "so it is", route)]


@pytest.mark.parametrize("kind", [Close, Park, SessionLost])
@pytest.mark.parametrize("name", ["sam", "sue"])
def test_nobody_else_ends_a_session(tmp_path: Path, kind: type[Message], name: str) -> None:
    def deed(mallory: Mallory, swarm: FakeSwarm, session: bytes, route: int) -> None:
        [message] = [one for one in ends(session, route) if isinstance(one, kind)]
        mallory.says(swarm.members[name], message)

    disturbed(tmp_path, deed)


@pytest.mark.parametrize("mined", [False, True])
def test_nobody_else_opens_a_session_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mined: bool) -> None:
    """Not even if mallory has made keys until one was like dora's in its first eight bytes."""
    if mined:
        monkeypatch.setattr("dsdnode.node.shard.sessions.is_session_of", lambda owner, session: True)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, mallory = await swarm.client(), Mallory(swarm)
        events = alice.generate(REQUEST)
        tokens = await some(events, 10)
        sam = swarm.members["sam"]
        opened: Open = session_at(sam).opened
        await mallory.opens(sam, opened.session, route=opened.route + 1)
        await mallory.opens(sam, opened.session, route=opened.route + 1, owner=swarm.members["dora"].contact)
        assert (await rest(events, tokens)).stats.recoveries == 0
        assert tokens == EXPECTED

    story(tmp_path, tell)


def test_an_owner_whose_blocks_are_none_is_banned(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await swarm.add("sam", layers=(0, 4)), Mallory(swarm)
        session = bytes(8) + mallory.id[:8]
        await mallory.opens(sam, session)
        for _ in range(STRIKES):
            mallory.says(sam, Block(session, 0, 1, 0, 0, 0, 1, 0, 1), bytes(16), pack_tokens([1]), b"more")
        await asyncio.sleep(1)
        assert mallory.id in swarm.hub.transports[sam.node.peer_id].banned

    story(tmp_path, tell)

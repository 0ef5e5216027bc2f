"""Carol's replies have all of sam's cache, or his only place: when alice asks for it she gets it, in her turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dsdnode.accounts import BACK_S, TURN_S
from dsdnode.wire.messages import Close, Opened, Refused
from tests.node.mallory import Mallory
from tests.node.swarm import FakeSwarm
from tests.node.test_accounts import CELLS, ELSEWHERE, HERS, of, sam, sends
from tests.node.test_drafter_host import story


def test_who_has_reserved_as_much_as_alice_asks_for_gives_way_after_her_turn_however_little_she_has_used(
    tmp_path: Path,
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, alice, carol = await sam(swarm), Mallory(swarm, "alice", ELSEWHERE), Mallory(swarm, "carol", HERS)
        assert await carol.opens(stage, of(carol), max_positions=CELLS - 100) == Opened()
        for step in range(round(TURN_S) // 2):
            sends(carol, stage, 1, 75 * step, 75)
            await asyncio.sleep(2)
            if not step:
                assert isinstance(await alice.opens(stage, of(alice), max_positions=CELLS // 2 + 1000), Refused)
        assert await alice.opens(stage, of(alice), max_positions=CELLS // 2 + 1000) == Opened()

    story(tmp_path, tell)


def test_a_place_that_alice_cannot_use_yet_is_hers_when_she_asks_again(tmp_path: Path) -> None:
    """Carol had it for her turn, and at alice's other stage not quite so long: who comes back at once begins no new
    turn."""

    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm, max_sessions=1), Mallory(swarm, "alice", ELSEWHERE)
        carol = Mallory(swarm, "carol", HERS)
        await carol.opens(stage, of(carol))
        for step in range(round(TURN_S) // 2):
            sends(carol, stage, 1, step, 1)
            await asyncio.sleep(2)
        for number, pause_s in enumerate((0.25, BACK_S + 1)):
            assert await alice.opens(stage, of(alice, number)) == Opened()
            alice.rpc.notify(stage.node.peer_id, Close(of(alice, number)))
            await asyncio.sleep(pause_s)
            assert await carol.opens(stage, of(carol, 1 + number)) == Opened()
        assert isinstance(await alice.opens(stage, of(alice, 2)), Refused)

    story(tmp_path, tell)

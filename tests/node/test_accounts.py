"""Mallory has a network full of names and asks for everything. Alice, elsewhere, and carol, next door, are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from dsdnode.accounts import ASKED_S, TURN_S
from dsdnode.node.shard.host import MAX_LEASE_S
from dsdnode.node.shard.room import IDLE_S
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import (
    Block,
    Open,
    Opened,
    OpenStages,
    Park,
    Refused,
    SessionLost,
    StagePlace,
    WireSampling,
)
from dsdnode.wire.numbers import pack_tokens
from tests.node.mallory import EXPECTED, REQUEST, Mallory, rest, ring, session_at, sessions_at
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_drafter_host import story

HERS, ELSEWHERE = "198.51.100.200", "192.0.2.7"
"""Addresses: next door to mallory's, and in another network."""
SHARE = "others have asked for their share of this peer"
CELLS = 4096
"""Of sam's cache."""


def names(swarm: FakeSwarm, number: int) -> list[Mallory]:
    return [Mallory(swarm, f"mallory {index}", f"198.51.100.{index + 1}") for index in range(number)]


def of(asker: Mallory, number: int = 0) -> bytes:
    """A session of hers."""
    return number.to_bytes(8, "big") + asker.id[:8]


def heard(asker: Mallory) -> list[SessionLost]:
    """What becomes of her sessions."""
    told: list[SessionLost] = []
    asker.rpc.on_notice(SessionLost, lambda peer, message, _: told.append(message))
    return told


def sends(asker: Mallory, stage: Member, epoch: int, position: int, count: int, number: int = 0, **more: int) -> None:
    """A block of tokens that go with nothing that she sent before in another epoch."""
    digests = b"".join((epoch << 32 | index).to_bytes(8, "big") for index in range(position, position + count + 1))
    message = Block(of(asker, number), 0, epoch, 0, 0, position, count, 0, more.get("floor", 0))
    asker.says(stage, message, digests, pack_tokens([1 + epoch] * count))


async def sam(swarm: FakeSwarm, max_sessions: int = 8) -> Member:
    return await swarm.add("sam", layers=(0, 4), max_sessions=max_sessions)


# --- sessions


def test_names_of_one_network_hold_its_share_of_the_sessions_when_alice_comes(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm, max_sessions=4), Mallory(swarm, "alice", ELSEWHERE)
        hers = names(swarm, 5)
        told = [heard(one) for one in hers]
        assert [await one.opens(stage, of(one)) for one in hers[:4]] == [Opened()] * 4  # nobody else asks
        assert await alice.opens(stage, of(alice)) == Opened()
        assert await alice.opens(stage, of(alice, 1)) == Opened()
        full = Refused("all 4 sessions are taken", retry=True)
        assert await alice.opens(stage, of(alice, 2)) == full  # she has her half
        assert await hers[4].opens(stage, of(hers[4])) == full
        await asyncio.sleep(0.1)
        lost = [message for one in told for message in one]
        assert [(message.index, message.reason) for message in lost if isinstance(message, SessionLost)] == [
            (0, SHARE)
        ] * 2

    story(tmp_path, tell)


def test_one_name_with_all_the_sessions_gives_way_to_its_neighbour(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, carol = await sam(swarm, max_sessions=4), Mallory(swarm, "carol", HERS)
        mallory = Mallory(swarm, "mallory", HERS)
        for number in range(4):
            await mallory.opens(stage, of(mallory, number))
        assert await carol.opens(stage, of(carol)) == Opened()
        assert isinstance(await mallory.opens(stage, of(mallory, 9)), Refused)

    story(tmp_path, tell)


def test_names_that_do_nothing_give_way_to_their_neighbour(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, carol = await sam(swarm, max_sessions=4), Mallory(swarm, "carol", HERS)
        hers = names(swarm, 4)
        for one in hers:
            await one.opens(stage, of(one))
        assert isinstance(await carol.opens(stage, of(carol)), Refused)
        await asyncio.sleep(IDLE_S + 0.1)
        sends(hers[0], stage, 1, 0, 8)  # who works stays
        await asyncio.sleep(0.1)
        assert await carol.opens(stage, of(carol)) == Opened()
        assert of(hers[0]) in [session.id for session in sessions_at(stage)]

    story(tmp_path, tell)


def test_names_that_work_and_work_give_way_to_their_neighbour_after_their_turn(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, carol = await sam(swarm, max_sessions=2), Mallory(swarm, "carol", HERS)
        alice, hers = Mallory(swarm, "alice", ELSEWHERE), names(swarm, 1)[0]
        for one in (hers, alice):
            await one.opens(stage, of(one))
        for step in range(round(TURN_S) // 2):
            for one in (hers, alice):
                sends(one, stage, 1, 3 * step, 3)
            assert isinstance(await carol.opens(stage, of(carol)), Refused)
            await asyncio.sleep(2)
        assert await carol.opens(stage, of(carol)) == Opened()
        assert {session.owner for session in sessions_at(stage)} == {carol.id, alice.id}  # who has her share keeps it

    story(tmp_path, tell)


def test_more_networks_than_places_take_turns_and_who_had_one_waits(tmp_path: Path) -> None:
    """Mallory has a name in each of two networks; alice is somewhere else."""

    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm, max_sessions=2), Mallory(swarm, "alice", ELSEWHERE)
        hers = [Mallory(swarm, f"mallory {index}", f"198.51.{index}.1") for index in range(2)]

        async def work(*who: Mallory) -> None:
            for _ in range(round(TURN_S) // 2):
                for one in who:
                    sends(one, stage, 1, done[one.id], 1)
                    done[one.id] += 1
                await asyncio.sleep(2)

        done: Counter[bytes] = Counter()
        for one in hers:
            await one.opens(stage, of(one))
        assert isinstance(await alice.opens(stage, of(alice)), Refused)
        await work(*hers)
        assert await alice.opens(stage, of(alice)) == Opened()
        [gone] = [one for one in hers if of(one) not in {session.id for session in sessions_at(stage)}]
        await work(alice, *(one for one in hers if one is not gone))
        assert isinstance(await gone.opens(stage, of(gone, 1)), Refused), "her turn is over"
        assert of(alice) in {session.id for session in sessions_at(stage)}

    story(tmp_path, tell)


def test_names_that_work_without_pause_leave_their_neighbour_an_address_s_share(tmp_path: Path) -> None:
    """Mallory has four addresses in carol's network, and a name for each place: carol waits for nobody's turn."""

    async def tell(swarm: FakeSwarm) -> None:
        stage, carol = await sam(swarm), Mallory(swarm, "carol", HERS)
        hers = [Mallory(swarm, f"mallory {index}", f"198.51.100.{66 + index % 4}") for index in range(12)]
        for one in hers[:8]:
            assert await one.opens(stage, of(one)) == Opened()
            sends(one, stage, 1, 0, 3)
        assert await carol.opens(stage, of(carol)) == Opened()
        for one in hers[8:]:
            assert isinstance(await one.opens(stage, of(one)), Refused)
        assert carol.id in {session.owner for session in sessions_at(stage)}

    story(tmp_path, tell)


def test_a_lease_is_renewed_by_work_and_not_by_asking_again(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage = await sam(swarm)
        idle, works = names(swarm, 2)
        for route in range(4):
            for one in (idle, works):
                await one.opens(stage, of(one), route=route)
            if route == 0:
                sends(works, stage, 1, 0, 8)
            await asyncio.sleep(MAX_LEASE_S / 4 + 0.1)
        assert [session.owner for session in sessions_at(stage)] == [works.id]

    story(tmp_path, tell)


def test_the_place_that_is_made_for_alice_is_not_mallory_s(tmp_path: Path) -> None:
    """A session whose run is in flight holds its place until that ends. Who asks meanwhile does not get it."""

    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm, max_sessions=2), Mallory(swarm, "alice", ELSEWHERE)
        hers = names(swarm, 2)
        for number in range(2):
            await hers[0].opens(stage, of(hers[0], number))
            sends(hers[0], stage, 1, 0, 90, number)
        await asyncio.sleep(0.05)  # a decode of 0.2 s begins
        asked = asyncio.create_task(alice.opens(stage, of(alice)))
        await asyncio.sleep(0.02)
        assert isinstance(await hers[1].opens(stage, of(hers[1])), Refused)
        assert not asked.done()
        assert await asked == Opened()

    story(tmp_path, tell)


# --- the cache


def test_a_reservation_of_all_the_cache_is_cut_when_alice_comes(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm), Mallory(swarm, "alice", ELSEWHERE)
        hers = names(swarm, 2)
        assert await hers[0].opens(stage, of(hers[0]), max_positions=CELLS) == Opened()
        full = Refused("the cache is reserved by other sessions", retry=True)
        assert await hers[1].opens(stage, of(hers[1]), max_positions=CELLS) == full
        assert await alice.opens(stage, of(alice), max_positions=2000) == Opened()
        assert len(sessions_at(stage)) == 2  # nothing of hers was in it, so she lost nothing
        assert await hers[1].opens(stage, of(hers[1]), max_positions=2097) == full
        assert await hers[1].opens(stage, of(hers[1]), max_positions=2096) == Opened()

    story(tmp_path, tell)


def test_mallory_s_long_sessions_keep_to_a_share_of_the_cache_while_alice_asks(tmp_path: Path) -> None:
    """Whoever has cells there slows everybody's decodes."""

    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm), Mallory(swarm, "alice", ELSEWHERE)
        hers = names(swarm, 3)
        assert await hers[0].opens(stage, of(hers[0]), max_positions=1000) == Opened()
        for step in range(4):
            sends(hers[0], stage, 1, 250 * step, 250)
            await asyncio.sleep(1)
        assert await alice.opens(stage, of(alice), max_positions=90) == Opened()
        much = await hers[1].opens(stage, of(hers[1]), max_positions=CELLS - 2000)
        assert isinstance(much, Refused) and much.retry and "while others ask" in much.reason
        assert await hers[1].opens(stage, of(hers[1]), max_positions=1000) == Opened()
        await asyncio.sleep(ASKED_S)
        assert await hers[2].opens(stage, of(hers[2]), max_positions=CELLS - 2100) == Opened()

    story(tmp_path, tell)


def test_who_was_cut_and_fills_the_cache_nevertheless_loses_it_when_alice_needs_hers(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm), Mallory(swarm, "alice", ELSEWHERE)
        [mallory] = names(swarm, 1)
        told, told_alice = heard(mallory), heard(alice)
        await mallory.opens(stage, of(mallory), max_positions=CELLS)
        await alice.opens(stage, of(alice), max_positions=2000)
        for step in range(12):
            sends(mallory, stage, 1, 250 * step, 250)
            await asyncio.sleep(1)
        for step in range(8):
            sends(alice, stage, 1, 250 * step, 250)
            await asyncio.sleep(1)
        assert [session.num_cells for session in sessions_at(stage)] == [2000]
        assert told[0].reason == SHARE and not told_alice

    story(tmp_path, tell)


def test_what_a_session_has_in_the_cache_is_counted_over_all_its_branches(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm), Mallory(swarm, "alice", ELSEWHERE)
        [mallory] = names(swarm, 1)
        await mallory.opens(stage, of(mallory), max_positions=1040)
        await alice.opens(stage, of(alice), max_positions=2000)
        assert stage.shard is not None
        for epoch in range(1, 9):
            for position in range(0, 1000, 250):
                sends(mallory, stage, epoch, position, 250)
                await asyncio.sleep(0.6)
            assert stage.shard.num_cells <= 1040 + 256
        for step in range(8):
            sends(alice, stage, 1, 250 * step, 250)
            await asyncio.sleep(1)
        assert [session.num_cells for session in sessions_at(stage)][1] == 2000

    story(tmp_path, tell)


def test_no_cell_is_forgotten_nor_counted_twice(tmp_path: Path) -> None:
    """Of a reply with hedges: whenever sam's engine has nothing to do, it holds what his session says."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        stage, client = swarm.members["sam"], await swarm.client()
        asked = replace(REQUEST, max_tokens=400, window="hedged:4:8:2", ignore_eos=True)
        reply = asyncio.create_task(rest(client.generate(asked), []))
        seen: set[int] = set()
        while not reply.done():
            await asyncio.sleep(0.007)
            assert stage.node._stage is not None and stage.shard is not None
            batcher = stage.node._stage.batcher
            if sessions_at(stage) and not batcher.num_waiting and not batcher._current:
                assert session_at(stage).num_cells == stage.shard.num_cells
                seen.add(stage.shard.num_cells)
        assert len(seen) > 20

    story(tmp_path, tell)


def test_digests_beyond_the_line_are_not_looked_at(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, [mallory] = await sam(swarm), names(swarm, 1)
        shard = TARGET.shard(0, 4)
        route = encode_body(OpenStages((StagePlace(stage.contact, 0, 4),)))
        asked = Open(of(mallory), 0, 0, shard.model_id, mallory.contact, WireSampling(), 100, 60.0, "f32")
        answer, _ = await mallory.asks(stage, asked, route, bytes(4 << 20))
        assert answer == Opened()
        assert session_at(stage).line_positions == 100

    story(tmp_path, tell)


def test_conversations_that_rest_go_first_and_those_of_whoever_has_most(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        stage, alice = await sam(swarm, max_sessions=4), Mallory(swarm, "alice", ELSEWHERE)
        hers = names(swarm, 3)
        for one in (alice, *hers):
            await one.opens(stage, of(one))
            one.says(stage, Park(of(one), 0, 60.0))
            await asyncio.sleep(0.1)
        for number in range(1, 4):
            assert await hers[0].opens(stage, of(hers[0], number)) == Opened()
        assert of(alice) in [session.id for session in sessions_at(stage)]  # though it rested first

    story(tmp_path, tell)


# --- replies


def test_a_reply_goes_on_over_other_stages_while_mallory_waits_for_its_places(tmp_path: Path) -> None:
    """Alice's drafter opens its stages again, when sue is gone: nobody gets in between."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=1)
        await swarm.add("sven", layers=(2, 4), max_sessions=1)
        client, hers = await swarm.client(), names(swarm, 3)
        seen: list[Opened | Refused] = []

        async def wait() -> None:
            while True:
                seen.extend([await one.opens(swarm.members["sam"], of(one)) for one in hers])
                await asyncio.sleep(0.01)

        tokens: list[int] = []
        reply = asyncio.create_task(rest(client.generate(REQUEST), tokens))
        while not tokens:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(wait())
        route = session_at(swarm.members["sam"]).asked.stages[1].contact
        await swarm.kill("sue" if swarm.members["sue"].contact == route else "sven")
        finished = await reply
        waiting.cancel()
        assert tokens == EXPECTED and finished.stats.recoveries == 1
        assert all(isinstance(answer, Refused) for answer in seen[:-3]) and seen

    story(tmp_path, tell)

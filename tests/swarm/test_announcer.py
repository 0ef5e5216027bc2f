"""Offers in other peers' hands: they live, change and die with whoever makes them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from dsdnode.dht.ids import MODELS_KEY, K, model_key
from dsdnode.dht.table import Table
from dsdnode.net.rpc import Response
from dsdnode.swarm.announcer import ANNOUNCE_EVERY_S
from dsdnode.wire.messages import Announce, Refused, Stored
from dsdnode.wire.records import MAX_TTL_S, sign_record
from tests.node import jumping
from tests.swarm.town import Member, Town, demo_id

replace = msgspec.structs.replace
pytestmark = pytest.mark.usefixtures("quiet")


def test_an_offer_lives_while_it_is_renewed_and_dies_with_its_owner() -> None:
    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice"), town.begin("bob", "alice", offers=False)
            await asyncio.sleep(10 * MAX_TTL_S)
            assert await bob.found() == {alice.id}
            assert await bob.found(model_key(demo_id())) == {alice.id}
            assert await bob.found(model_key("ef" * 32)) == set()
            await town.kill("alice")
            await asyncio.sleep(MAX_TTL_S + 1)
            assert await bob.found() == set()

    jumping.run(story())


def test_an_offer_withdrawn_is_gone_at_once_everywhere() -> None:
    async def story() -> None:
        async with Town() as town:
            alice = town.begin("alice")
            others = [town.begin(name, "alice", offers=False) for name in ("bob", "carol")]
            await asyncio.sleep(5)
            await alice.discovery.withdraw()
            alice.discovery.changed()
            await asyncio.sleep(10)
            for other in others:
                assert await other.found() == set()

    jumping.run(story())


def test_another_layer_range_replaces_the_old_one() -> None:
    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice", offers=False), town.begin("bob", "alice", offers=False)
            offers = [alice.offer(0, 4)]
            alice.discovery.provide(lambda: offers)
            await asyncio.sleep(5)
            first = (await bob.discovery.find_providers(MODELS_KEY))[0]
            offers[:] = [alice.offer(4, 8)]
            alice.discovery.changed()
            await asyncio.sleep(6)
            [record] = await bob.discovery.find_providers(MODELS_KEY)
            assert (first.start, record.start) == (0, 4)
            assert record.sequence > first.sequence

    jumping.run(story())


@pytest.mark.parametrize(("moves", "start"), [(False, 0), (True, 4)])
def test_where_alice_is_reached_is_told_sooner_than_what_she_offers(moves: bool, start: int) -> None:
    """Until then nobody gets to her."""

    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice", offers=False), town.begin("bob", "alice", offers=False)
            offers = [alice.offer(0, 4)]
            await asyncio.sleep(5)
            alice.discovery.provide(lambda: offers)
            await alice.discovery.announced()
            offers[:] = [alice.offer(4, 8)]
            alice.discovery._relocated() if moves else alice.discovery.changed()
            await asyncio.sleep(2)
            [record] = await bob.discovery.find_providers(MODELS_KEY)
            assert record.start == start

    jumping.run(story())


def test_a_restarted_provider_counts_on_from_its_earlier_life() -> None:
    async def story() -> None:
        async with Town() as town:
            town.begin("alice")
            bob = town.begin("bob", "alice", offers=False)
            await asyncio.sleep(20 * ANNOUNCE_EVERY_S)
            [old] = await bob.discovery.find_providers(MODELS_KEY)
            await town.kill("alice")
            await asyncio.sleep(1)
            alice = Member(town, "alice")
            town.members["alice"] = alice
            alice.discovery.provide(lambda: [replace(alice.offer(), free_sessions=77)])
            # It announces before it knows anybody, and is met by those who know it.
            await asyncio.sleep(1)
            await alice.discovery.join([bob.contact], timeout_s=1)
            await asyncio.sleep(5)
            [new] = await bob.discovery.find_providers(MODELS_KEY)
            assert new.free_sessions == 77
            assert new.sequence > old.sequence

    jumping.run(story())


@pytest.mark.parametrize("num_busy", [2, 3])
def test_a_holder_that_is_too_busy_to_hear_of_a_change_hears_of_it_soon(num_busy: int) -> None:
    """Or it would show for minutes what is not so any more: bob has no place free, say."""

    async def story() -> None:
        async with Town() as town:
            bob, carol = town.begin("bob", offers=False), town.begin("carol", "bob", offers=False)
            offers = [bob.offer(0, 4)]
            bob.discovery.provide(lambda: offers)
            await asyncio.sleep(20)
            answer, times = carol.rpc._on_request[Announce], []

            async def busy(peer: bytes, message: Announce, buffers: list[bytes]) -> Response:
                times.append(message.key)
                if times.count(message.key) <= num_busy:
                    return Refused("too many requests at once", retry=True), ()
                return await answer(peer, message, buffers)

            carol.rpc.on_request(Announce, busy)
            offers[:] = [replace(bob.offer(0, 4), free_sessions=7)]
            bob.discovery.changed()
            await asyncio.sleep(50)
            now = asyncio.get_running_loop().time()
            assert {record.free_sessions for record, _ in carol.discovery.store.get(MODELS_KEY, now)} == {7}

    jumping.run(story())


def test_who_never_takes_an_offer_is_not_told_without_pause() -> None:
    async def story() -> None:
        async with Town() as town:
            bob, mallory = town.begin("bob", offers=False), town.begin("mallory", "bob", offers=False)
            await asyncio.sleep(5)
            told = []

            async def never(peer: bytes, message: Announce, buffers: list[bytes]) -> Response:
                told.append(message.key)
                return Refused("no"), ()

            mallory.rpc.on_request(Announce, never)
            bob.discovery.provide(lambda: [bob.offer()])
            await asyncio.sleep(ANNOUNCE_EVERY_S * 0.9)
            assert told.count(MODELS_KEY) < 10

    jumping.run(story())


@pytest.mark.parametrize("whose", ["mallory", "bob"])
def test_a_holder_that_shows_another_offer_outdoes_nobody(whose: str) -> None:
    """Mallory holds bob's: he would say them again each second, for ever, if he believed that hers is a later one of
    his, or that his own of another model belongs there."""

    async def story() -> None:
        async with Town() as town:
            bob, mallory = town.begin("bob", offers=False), town.begin("mallory", "bob", offers=False)
            await asyncio.sleep(5)
            hers, told = sign_record(mallory.identity, replace(mallory.offer(), sequence=1 << 61)), []
            his: dict[bytes, bytes] = {}

            async def shows(peer: bytes, message: Announce, buffers: list[bytes]) -> Response:
                told.append(message.key)
                his[message.key] = buffers[0]
                return Stored(), [hers] if whose == "mallory" else list(his.values())[:2]

            mallory.rpc.on_request(Announce, shows)
            drafts = replace(bob.offer(weights_hash="ef" * 32), role="drafter")
            bob.discovery.provide(lambda: [bob.offer(), drafts])
            await asyncio.sleep(ANNOUNCE_EVERY_S * 0.9)
            assert told.count(MODELS_KEY) == 1

    jumping.run(story())


def test_what_sam_s_node_keeps_for_him_he_finds_however_far_it_is_from_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody near the key names it, once he knows others; and mallory asks it in vain."""
    closest = Table.closest

    async def story() -> None:
        async with Town() as town:
            node = town.begin("sam's node", offers=False)
            others = [town.begin(name, "sam's node") for name in ("alice", "bob")]
            sam, mallory = (town.begin(name, "sam's node", offers=False, dialable=False) for name in ("sam", "mallory"))
            node.discovery.keep_back(lambda: [node.offer()], lambda peer: peer == sam.id)
            sam.discovery.home = mallory.discovery.home = town.contact("sam's node")
            await asyncio.sleep(10)
            far: dict[str, Any] = {"exclude": (node.id,)}
            monkeypatch.setattr(Table, "closest", lambda self, target, num=K, **_: closest(self, target, num, **far))
            public = {other.id for other in others}
            for _ in range(2):
                assert await sam.found() == {*public, node.id}
                assert await mallory.found() == public
            town.silent.add(node.id)
            assert await sam.found() == public, "its node is away: others are there"

    jumping.run(story())

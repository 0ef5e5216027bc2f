"""Lookups among many, and by somebody who is alone."""

from __future__ import annotations

import asyncio

import pytest

from dsdnode.dht.ids import MODELS_KEY, K, distance, model_key
from dsdnode.errors import DsdError
from dsdnode.wire.records import open_record
from tests.node import jumping
from tests.swarm.town import Town, Wire, demo_id

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]


def test_two_hundred_nodes_half_of_them_killed_and_lookups_find() -> None:
    async def story() -> list[float]:
        async with Town(seed=3, kind=Wire) as town:
            names = [f"peer {i}" for i in range(200)]
            for name in names:
                town.begin(name, offers=False)
            contacts = [member.contact for member in town.members.values()]
            for member in town.members.values():
                # As if they had lived together for long; how they meet is shown above, with fewer.
                for contact in town.rng.sample(contacts, 100):
                    member.discovery.table.seen(contact, 0.0)
                member.discovery.table.refresh_targets(0.0, town.rng)
            for i in range(0, 200, 20):
                member = town.members[names[i]]
                member.discovery.provide(lambda m=member, i=i: [m.offer(weights_hash=f"{i:064x}")])  # type: ignore[misc]
            await asyncio.sleep(8)
            town.silent.update(town.rng.sample([member.id for member in town.members.values()], 100))
            living = [member for member in town.members.values() if member.id not in town.silent]
            loop, times = asyncio.get_running_loop(), []
            for i in range(0, 200, 20):
                started_at = loop.time()
                found = await town.rng.choice(living).found(model_key(demo_id(f"{i:064x}")))
                assert found == {town.members[names[i]].id}
                times.append(loop.time() - started_at)
            return times

    assert max(jumping.run(story())) <= 3.0


def test_a_big_swarm_keeps_a_record_at_the_k_closest() -> None:
    async def story() -> None:
        async with Town(seed=5) as town:
            names = [f"peer {i}" for i in range(40)]
            for i, name in enumerate(names):
                town.begin(name, *([names[town.rng.randrange(i)]] if i else []), offers=i == 0)
            await asyncio.sleep(30)
            members = sorted(town.members.values(), key=lambda member: distance(MODELS_KEY, member.id))
            others = [member for member in members if member is not town.members[names[0]]]
            now = asyncio.get_running_loop().time()
            holding = [bool(member.discovery.store.get(MODELS_KEY, now)) for member in others]
            assert all(holding[:K])
            assert sum(holding) < 2 * K
            [data] = [data for _, data in others[0].discovery.store.get(MODELS_KEY, now)]
            assert open_record(data).peer_id == town.members[names[0]].id

    jumping.run(story())


def test_a_lookup_by_somebody_who_knows_nobody_ends() -> None:
    async def story() -> None:
        async with Town() as town:
            alice = town.begin("alice", offers=False)
            assert await alice.discovery.find_providers(MODELS_KEY) == []
            with pytest.raises(DsdError):
                await alice.discovery.join([], timeout_s=0.1)

    jumping.run(story())


def test_of_what_bob_offered_before_alice_keeps_nothing() -> None:
    """His sessions come and go, and each time he says so: as often as replies are told, for as long as she lives."""

    async def story() -> None:
        async with Town(seed=6) as town:
            for name in ("carol", "bob", "alice"):
                town.begin(name, *(["carol"] if name != "carol" else []), offers=name == "bob")
            alice, bob = town.members["alice"].discovery, town.members["bob"].discovery
            seen = set()
            for _ in range(60):
                bob.changed()
                await asyncio.sleep(6)
                [record] = await alice.find_providers(MODELS_KEY)
                seen.add(record.sequence)
            assert len(seen) == 60
            assert len(alice._queries._opened) == 1

    jumping.run(story())

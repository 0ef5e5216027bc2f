"""Alice comes back as somebody else: what she offered before is void, for everybody, at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from dsdnode.config import next_life
from dsdnode.dht.ids import MODELS_KEY, model_key, tokenizer_key
from dsdnode.wire.messages import FindProviders, Providers
from dsdnode.wire.records import MAX_TTL_S, ProviderRecord, pack_contacts, pack_records, sign_record
from tests.node import jumping
from tests.swarm.town import Member, Town, demo_id

replace = msgspec.structs.replace
pytestmark = pytest.mark.usefixtures("quiet")
Offers = Callable[[Member], Sequence[ProviderRecord]]
OTHER = "ef" * 32
KEYS = [MODELS_KEY, tokenizer_key("cd" * 32), model_key(demo_id()), model_key(demo_id(OTHER))]


def drafts(member: Member) -> ProviderRecord:
    return replace(member.offer(0, 2, OTHER), role="drafter", num_layers=2)


LIVES: dict[str, tuple[Offers, Offers]] = {
    "other layers": (lambda one: [one.offer(0, 4)], lambda one: [one.offer(4, 8)]),
    "another model": (lambda one: [one.offer()], lambda one: [one.offer(weights_hash=OTHER)]),
    "a drafter now": (lambda one: [one.offer()], lambda one: [drafts(one)]),
    "a shard now": (lambda one: [drafts(one)], lambda one: [one.offer()]),
    "both, then one": (lambda one: [one.offer(), drafts(one)], lambda one: [one.offer(2, 6)]),
    "one, then both": (lambda one: [one.offer()], lambda one: [one.offer(0, 8), drafts(one)]),
    "nothing any more": (lambda one: [one.offer(), drafts(one)], lambda one: []),
}


async def found(member: Member, key: bytes) -> list[ProviderRecord]:
    return [replace(record, sequence=0) for record in await member.discovery.find_providers(key)]


async def agree(town: Town, offers: Sequence[ProviderRecord], *names: str) -> None:
    """Everybody finds just these, under all keys; a peer has one shard and one drafter at most."""
    for name in names:
        for key in KEYS:
            told = await found(town.members[name], key)
            assert all(record in offers for record in told), name
        assert sorted(await found(town.members[name], MODELS_KEY), key=repr) == sorted(offers, key=repr)


@pytest.mark.parametrize(("before", "after"), LIVES.values(), ids=LIVES)
def test_after_a_kill_and_a_restart_only_what_is_offered_now_is_found(before: Offers, after: Offers) -> None:
    async def story() -> None:
        async with Town() as town:
            bob, carol = town.begin("bob", offers=False), town.begin("carol", "bob", offers=False)
            alice = town.begin("alice", "bob", offers=False)
            alice.discovery.provide(lambda: before(alice))
            await asyncio.sleep(10)
            await agree(town, before(alice), "bob", "carol")
            await town.kill("alice")  # no goodbye
            again = town.members["alice"] = Member(town, "alice")
            await again.discovery.join([bob.contact], timeout_s=1)
            again.discovery.provide(lambda: after(again))
            await again.discovery.announced()
            await agree(town, after(again), "bob", "carol")
            assert carol.discovery.known_peers()

    jumping.run(story())


@pytest.mark.parametrize(("before", "after"), LIVES.values(), ids=LIVES)
def test_a_running_peer_that_changes_is_found_as_it_is_now(before: Offers, after: Offers) -> None:
    async def story() -> None:
        async with Town() as town:
            town.begin("bob", offers=False)
            alice = town.begin("alice", "bob", offers=False)
            offers = [*before(alice)]
            alice.discovery.provide(lambda: offers)
            await asyncio.sleep(10)
            offers[:] = after(alice)
            alice.discovery.changed()
            await asyncio.sleep(10)
            await agree(town, after(alice), "bob")

    jumping.run(story())


def test_two_peers_of_one_host_swap_their_roles() -> None:
    async def story() -> None:
        async with Town() as town:
            bob = town.begin("bob", offers=False)
            offers: dict[str, list[ProviderRecord]] = {}
            for life in range(2):
                for name in ("alice", "anna"):
                    one = town.members[name] = Member(town, name)
                    shards = (name == "alice") == (life == 0)
                    offers[name] = [one.offer() if shards else drafts(one)]
                    await one.discovery.join([bob.contact], timeout_s=1)
                    one.discovery.provide(lambda name=name: offers[name])  # type: ignore[misc]
                    await one.discovery.announced()
                await agree(town, [*offers["alice"], *offers["anna"]], "bob")
                if life == 0:
                    await town.kill("alice")
                    await town.kill("anna")

    jumping.run(story())


def test_a_shard_that_drafts_too_is_never_found_without_its_other_half() -> None:
    """It announces anew again and again, and while it does somebody looks."""

    async def story() -> None:
        async with Town() as town:
            bob = town.begin("bob", offers=False)
            alice = town.begin("alice", "bob", offers=False)
            alice.discovery.provide(lambda: [alice.offer(), drafts(alice)])
            await alice.discovery.announced()
            for _ in range(40):
                alice.discovery.changed()
                await asyncio.sleep(0.3)
                assert len(await bob.discovery.find_providers(MODELS_KEY)) == 2

    jumping.run(story())


class Replaying(Member):
    """Mallory shows what alice signed long ago, for ever."""

    def show(self, shown: list[bytes]) -> None:
        async def providers(*_: object) -> tuple[Providers, list[bytes]]:
            return Providers(), [pack_contacts([]), pack_records(shown)]

        self.rpc.on_request(FindProviders, providers)


@pytest.mark.parametrize("counted", [True, False], ids=["lives are counted", "they are not"])
def test_an_old_record_shown_again_voids_nothing_long_after_its_tombstone_is_gone(counted: bool) -> None:
    async def story() -> None:
        async with Town() as town:
            bob = town.begin("bob", offers=False)
            mallory = town.members["mallory"] = Replaying(town, "mallory")
            await mallory.discovery.join([bob.contact], timeout_s=1)
            alice = town.members["alice"] = Member(town, "alice", life=int(counted))
            await alice.discovery.join([bob.contact], timeout_s=1)
            old = [sign_record(alice.identity, replace(alice.offer(), sequence=(int(counted) << 32) + 900))]
            await town.kill("alice")
            await asyncio.sleep(3 * MAX_TTL_S)
            if not counted:
                mallory.show(old)  # who cannot count looks first, and goes on from there
            again = town.members["alice"] = Member(town, "alice", life=2 * counted)
            await again.discovery.join([bob.contact], timeout_s=1)
            again.discovery.provide(lambda: [again.offer(4, 8)])
            await asyncio.sleep(10)
            mallory.show(old)
            for _ in range(3):
                [record] = await bob.discovery.find_providers(MODELS_KEY)
                assert (record.start, record.end) == (4, 8)
                await asyncio.sleep(MAX_TTL_S)

    jumping.run(story())


def test_lives_are_counted_beside_the_key(tmp_path: Path) -> None:
    key = tmp_path / "identity.key"
    assert [next_life(key) for _ in range(3)] == [1, 2, 3]
    assert next_life(tmp_path / "other.key") == 1
    for nonsense in (b"", b"-4", b"\xff\xfe", "٣".encode(), b"9" * 40):
        (tmp_path / "identity.key.lives").write_bytes(nonsense)
        assert next_life(key) == 1
    assert next_life(tmp_path / "no folder" / "identity.key") == 0


def test_who_is_outdone_by_an_earlier_life_is_not_ready_yet() -> None:
    """Alice's lookup finds nothing, but bob holds what she said in a longer life, and tells her so."""

    async def nothing(*_: object) -> tuple[Providers, list[bytes]]:
        return Providers(), [pack_contacts([]), pack_records([])]

    async def story() -> None:
        async with Town() as town:
            bob = town.begin("bob", offers=False)
            bob.rpc.on_request(FindProviders, nothing)
            alice = town.members["alice"] = Member(town, "alice")
            await alice.discovery.join([bob.contact], timeout_s=1)
            old = replace(alice.offer(), sequence=900)
            bob.discovery.store.put(MODELS_KEY, [(old, sign_record(alice.identity, old))], 0.0)
            alice.discovery.provide(lambda: [alice.offer(4, 8)])
            await alice.discovery.announced()
            assert await found(bob, MODELS_KEY) == [alice.offer(4, 8)]

    jumping.run(story())

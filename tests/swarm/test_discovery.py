"""Joining and staying together, whatever the order; and strangers who spoil it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import msgspec
import pytest
from structlog.testing import capture_logs

from dsdnode.dht import store as store_module
from dsdnode.dht.ids import MODELS_KEY, model_key, node_id
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.port import Priority
from dsdnode.swarm.joining import MAX_RETRY_S
from dsdnode.wire.messages import Announce, Contact, FindNode, FindProviders, Nodes, Providers, Refused, Stored
from dsdnode.wire.records import pack_contacts, pack_records, sign_record, unpack_contacts
from tests.node import jumping
from tests.swarm.town import Member, Private, Town, Wire, demo_id

replace = msgspec.structs.replace
pytestmark = pytest.mark.usefixtures("quiet")


# --- Show 6: ten daemons, one --join each, any order ---------------------------------------------------------------


def tree(rng: random.Random) -> dict[int, int]:
    return {i: rng.randrange(i) for i in range(1, 10)}


def ring(_: random.Random) -> dict[int, int]:
    return {i: (i + 1) % 10 for i in range(10)}


def star(_: random.Random) -> dict[int, int]:
    return dict.fromkeys(range(1, 10), 0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [tree, ring, star])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pause_s", [0.0, 0.5, 6.0])
def test_ten_started_in_any_order_find_each_other(shape: object, seed: int, pause_s: float) -> None:
    async def story() -> None:
        async with Town(seed) as town:
            joins = shape(town.rng)  # type: ignore[operator]
            order = town.rng.sample(range(10), 10)
            for i in order:
                town.begin(f"peer {i}", *([f"peer {joins[i]}"] if i in joins else []))
                await asyncio.sleep(pause_s * town.rng.random())
            await asyncio.sleep(4.5)
            everybody = {member.id for member in town.members.values()}
            for member in town.members.values():
                async with asyncio.timeout(0.5):
                    assert await member.found() == everybody
            # Not only by asking around: everybody holds everything itself.
            for member in town.members.values():
                held = {record.peer_id for record, _ in member.discovery.store.get(MODELS_KEY, 0.0)}
                assert held == everybody

    jumping.run(story())


def test_when_the_bootstrap_dies_everything_goes_on_and_a_restart_remembers() -> None:
    async def story() -> None:
        async with Town() as town:
            town.begin("bootstrap", offers=False)
            for i in range(5):
                town.begin(f"peer {i}", "bootstrap")
            await asyncio.sleep(5)
            remembered = town.members["peer 4"].discovery.known_peers()
            await town.kill("bootstrap")
            await town.kill("peer 4")
            await asyncio.sleep(60)
            living = {member.id for member in town.members.values()}
            for member in town.members.values():
                started_at = asyncio.get_running_loop().time()
                assert living <= await member.found()
                assert asyncio.get_running_loop().time() - started_at < 0.5
            again = town.begin("peer 4")
            await again.discovery.join(remembered, timeout_s=5)
            await asyncio.sleep(5)
            assert await again.found() == living | {again.id}

    jumping.run(story())


def test_two_islands_grow_together_when_the_link_between_them_comes_up() -> None:
    async def story() -> None:
        async with Town() as town:
            for i in range(3):
                town.begin(f"west {i}", "bridge" if i == 0 else "west 0")
                town.begin(f"east {i}", *([] if i == 0 else ["east 0"]))
            await asyncio.sleep(120)
            town.begin("bridge", "east 0")
            await asyncio.sleep(5)
            for member in town.members.values():
                assert len(await member.found()) == 7

    jumping.run(story())


def test_a_bug_in_one_of_bobs_chores_ends_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever mallory may have said to him that makes one: he is found, and finds others."""

    def bug(now: float) -> bool:
        raise ValueError("nobody has thought of that")

    async def story() -> None:
        async with Town() as town:
            alice = town.begin("alice")
            bob = town.begin("bob", "alice")
            with monkeypatch.context() as patch, capture_logs() as logs:
                patch.setattr(bob.discovery.reach, "due", bug)
                await asyncio.sleep(5)
            assert await alice.found() == {alice.id, bob.id} == await bob.found()
            bugs = [one["event"] for one in logs if one["log_level"] == "error"]
            assert set(bugs) == {"bug in keeping house"} and 15 <= len(bugs) <= 40, "and he does nothing else"

    jumping.run(story())


def test_a_join_target_is_tried_on_and_on_and_less_and_less() -> None:
    async def story() -> None:
        async with Town() as town:
            alice = town.begin("alice")
            with pytest.raises(PeerUnavailable, match="connection refused"):
                await alice.discovery.join([town.contact("bob")], timeout_s=10)
            await asyncio.sleep(3600)
            town.begin("bob")
            await asyncio.sleep(MAX_RETRY_S * 1.25 + 1)
            assert len(await alice.found()) == 2
            await town.kill("bob")
            await asyncio.sleep(60)
            town.begin("bob")
            await asyncio.sleep(5)
            assert len(await town.members["bob"].found()) == 2

    jumping.run(story())


@pytest.mark.slow
def test_a_join_target_that_the_table_has_no_room_for_is_left_in_peace() -> None:
    """Sixty who know each other for long are told to join alice as well; for many of them she is one too many."""
    sent: Counter[bytes] = Counter()

    class Counting(Wire):
        def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
            sent[self._id] += 1
            super().send(peer, frames, priority)

    async def story() -> None:
        async with Town(kind=Counting) as town:
            neighbours = [town.begin(f"peer {i}", *["peer 0"][:i], offers=False) for i in range(60)]
            await asyncio.sleep(60)
            alice = town.begin("alice", offers=False)
            for neighbour in neighbours:
                await neighbour.discovery.join([alice.contact], timeout_s=10)
            await asyncio.sleep(60)
            left_out = [one.id for one in neighbours if not one.discovery.table.is_live(alice.id)]
            assert len(left_out) > 10
            before = sent.copy()
            await asyncio.sleep(120)
            told = sent - before
            usual = max(told[one.id] for one in neighbours if one.id not in left_out)
            assert all(told[one] < 1.5 * usual for one in left_out), "dialled again and again, it was 8 times as much"

    jumping.run(story())


def test_whoever_is_refused_by_all_need_not_wait() -> None:
    async def story() -> None:
        async with Town(kind=Private) as town:
            loop = asyncio.get_running_loop()
            bob, carol = town.begin("bob", offers=False), town.begin("carol", offers=False)
            alice = town.begin("alice", offers=False)
            with pytest.raises(PeerUnavailable, match="wrong swarm key"):
                await alice.discovery.join([bob.contact], timeout_s=10)
            assert loop.time() < 1
            town.silent.add(carol.id)
            begun = loop.time()
            with pytest.raises(PeerUnavailable, match="wrong swarm key"):
                await alice.discovery.join([bob.contact, carol.contact], timeout_s=10)
            assert loop.time() - begun == pytest.approx(10)
            town.silent.clear()
            await alice.discovery.join([bob.contact, carol.contact], timeout_s=40)

    jumping.run(story())


# --- strangers ----------------------------------------------------------------------------------------------------


def test_a_provider_speaks_only_for_its_own_key() -> None:
    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice", offers=False), town.begin("bob", "alice", offers=False)
            carol = Identity(b"c" * 32)
            record = replace(bob.offer(), public_key=carol.public_key)
            reply, _ = await bob.rpc.request(alice.id, Announce(MODELS_KEY), [sign_record(carol, record)], timeout_s=1)
            assert isinstance(reply, Refused)
            reply, _ = await bob.rpc.request(
                alice.id, Announce(bytes(32)), [sign_record(bob.identity, bob.offer())], timeout_s=1
            )
            assert isinstance(reply, Refused)
            assert await alice.found() == set()
            signed = sign_record(bob.identity, bob.offer())
            reply, _ = await bob.rpc.request(alice.id, Announce(MODELS_KEY), [signed], timeout_s=1)
            assert isinstance(reply, Stored)
            assert await alice.found() == {bob.id}

    jumping.run(story())


def test_clients_are_served_but_hold_nothing_and_are_told_to_nobody() -> None:
    async def story() -> None:
        async with Town() as town:
            alice = town.begin("alice")
            client = town.begin("client", "alice", offers=False, dialable=False)
            bob = town.begin("bob", "alice")
            await asyncio.sleep(5)
            assert await client.found() == {alice.id, bob.id}
            assert client.id not in {node_id(contact) for contact in alice.discovery.known_peers()}
            _, buffers = await bob.rpc.request(alice.id, FindNode(client.id), timeout_s=1)
            assert unpack_contacts(buffers[0]) == []
            bob.transport.introduce(client.contact)
            signed = sign_record(bob.identity, bob.offer())
            reply, _ = await bob.rpc.request(client.id, Announce(MODELS_KEY), [signed], timeout_s=1)
            assert isinstance(reply, Refused)

    jumping.run(story())


def test_who_does_not_answer_is_not_told_to_others() -> None:
    async def story() -> None:
        async with Town(kind=Wire) as town:
            alice, bob, carol = town.begin("alice"), town.begin("bob", "alice"), town.begin("carol", "alice")
            await asyncio.sleep(5)
            town.silent.add(bob.id)
            await asyncio.sleep(70)
            _, buffers = await carol.rpc.request(alice.id, FindNode(bob.id), timeout_s=1)
            assert unpack_contacts(buffers[0]) == []
            town.silent.clear()
            await asyncio.sleep(70)
            _, buffers = await carol.rpc.request(alice.id, FindNode(bob.id), timeout_s=1)
            assert unpack_contacts(buffers[0]) == [bob.contact]

    jumping.run(story())


def test_who_asks_is_not_told_to_others_before_it_has_answered() -> None:
    """Mallory says that she listens where nobody does: others would call there in vain."""

    async def story() -> None:
        async with Town(kind=Wire) as town:
            alice, carol = town.begin("alice"), town.begin("carol", "alice")
            mallory = town.members["mallory"] = Member(town, "mallory")
            await asyncio.sleep(5)
            mallory.rpc._reader.cancel()  # she hears nothing
            with pytest.raises(PeerUnavailable):
                await mallory.rpc.request(alice.id, FindNode(mallory.id), timeout_s=1)
            _, buffers = await carol.rpc.request(alice.id, FindNode(mallory.id), timeout_s=1)
            assert unpack_contacts(buffers[0]) == []

    jumping.run(story())


def test_a_liar_among_the_holders_spoils_nothing() -> None:
    """It names people who are not there, at addresses of others, and shows records that are forged or out of date."""

    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice"), town.begin("bob", "alice", offers=False)
            await asyncio.sleep(5)
            old = sign_record(alice.identity, alice.offer())
            forged = bytearray(old)
            forged[-1] ^= 1
            mallory = Member(town, "mallory")
            town.members["mallory"] = mallory
            lies = [
                Contact(alice.contact.public_key, ("tcp://127.0.0.1:1",)),
                Contact(b"x" * 32, ("tcp://127.0.0.1:1",)),
            ]
            shown = [old]

            async def nodes(*_: object) -> tuple[Nodes, list[bytes]]:
                return Nodes(), [pack_contacts(lies)]

            async def providers(*_: object) -> tuple[Providers, list[bytes]]:
                return Providers(), [pack_contacts(lies), pack_records(shown)]

            mallory.rpc.on_request(FindNode, nodes)
            mallory.rpc.on_request(FindProviders, providers)
            await mallory.discovery.join([alice.contact], timeout_s=1)
            await asyncio.sleep(5)
            assert mallory.id in {node_id(contact) for contact in bob.discovery.known_peers()}
            [record] = await bob.discovery.find_providers(MODELS_KEY)
            assert record.sequence > 0
            assert await bob.found(model_key(demo_id("ef" * 32))) == set(), "a record of another model"
            shown[:] = [bytes(forged)]
            [record] = await bob.discovery.find_providers(MODELS_KEY)
            assert record.sequence > 0
            assert bob.discovery.table.get(alice.id) == alice.contact
            await alice.discovery.withdraw()
            shown[:] = [old]
            assert await bob.found() == set(), "the tombstone outweighs the old record"

    jumping.run(story())


def test_mallorys_many_keys_keep_nobody_out_and_push_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They all call from one address, whatever they say of theirs; dave lives in the same network."""
    monkeypatch.setattr(store_module, "MAX_PER_KEY", 16)

    async def story() -> None:
        async with Town() as town:
            bob = town.begin("bob", offers=False)
            homes = {"alice": "192.0.2.1", "dave": "198.51.100.9", "carol": "192.0.2.3", "erin": "198.51.100.10"}

            async def comes(name: str) -> None:
                one = town.members[name] = Member(town, name)
                one.transport.source = homes.get(name, "198.51.100.3")
                await one.discovery.join([bob.contact], timeout_s=1)
                number = len(town.members)
                claims = (f"tcp://{number}.8.8.8:4444",) if name not in homes else one.contact.addresses
                signed = sign_record(one.identity, replace(one.offer(), addresses=claims))
                reply, _ = await one.rpc.request(bob.id, Announce(MODELS_KEY), [signed], timeout_s=1)
                assert isinstance(reply, Stored)

            for name in ("alice", "dave", *(f"mallory {number}" for number in range(60)), "carol", "erin"):
                await comes(name)
            held = {record.peer_id for record, _ in bob.discovery.store.get(MODELS_KEY, 0.0)}
            assert len(held) == 16
            assert {town.members[name].id for name in homes} <= held

    jumping.run(story())

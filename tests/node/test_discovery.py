from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from dsdnode.dht.ids import MODELS_KEY, K, distance, model_key, node_id
from dsdnode.errors import DsdError, PeerUnavailable
from dsdnode.identity import Identity, peer_id
from dsdnode.net.memory import MemoryHub, MemoryTransport
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.discovery import MAX_RETRY_S, Discovery
from dsdnode.node.providing import ANNOUNCE_EVERY_S
from dsdnode.wire.messages import Announce, Contact, FindNode, FindProviders, Nodes, Providers, Refused, Stored
from dsdnode.wire.records import (
    MAX_TTL_S,
    ProviderRecord,
    open_record,
    pack_contacts,
    pack_records,
    sign_record,
    unpack_contacts,
    unpack_records,
)
from tests.node import jumping

replace = msgspec.structs.replace


class Wire(MemoryTransport):
    """An in-memory link with a latency; `silent` peers are powered off: nothing arrives, and nobody says so."""

    silent: set[bytes]
    rng: random.Random

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if peer in self.silent or self._id in self.silent:
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self.rng.uniform(0.005, 0.02), self._deliver, peer, frames, priority)

    def _deliver(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        with contextlib.suppress(PeerUnavailable):
            super().send(peer, frames, priority)


class Refusing(Wire):
    """As on one machine: a port where nobody listens answers so, at once."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if peer not in self._hub.transports:
            raise PeerUnavailable("connection refused")
        super().send(peer, frames, priority)


class Private(Wire):
    """Of another swarm: bob says no for good, whoever asks."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if self.refused_by(peer):
            raise PeerUnavailable("refused: wrong swarm key")
        super().send(peer, frames, priority)

    def refused_by(self, peer: bytes) -> bool:
        return peer == peer_id(Identity((1).to_bytes(32, "big")).public_key)


class Member:
    def __init__(self, town: Town, name: str, dialable: bool = True) -> None:
        number = town.numbers.setdefault(name, len(town.numbers) + 1)
        self.identity = Identity(number.to_bytes(32, "big"))
        addresses = (f"tcp://127.0.0.1:{1000 + number}",) if dialable else ()
        self.contact = Contact(self.identity.public_key, addresses)
        self.transport = town.kind(town.hub, self.contact)
        self.transport.silent, self.transport.rng = town.silent, town.rng
        town.hub.transports[self.id] = self.transport
        self.rpc = Rpc(self.transport, town.rng)
        self.discovery = Discovery(self.rpc, self.identity, town.rng)
        self.rpc.start()
        self.discovery.start()

    @property
    def id(self) -> bytes:
        return self.identity.peer_id

    def offer(self, start: int = 0, end: int = 4, model_id: str = "ab" * 32) -> ProviderRecord:
        key, addresses = self.contact.public_key, self.contact.addresses
        return ProviderRecord(key, addresses, "shard", model_id, "demo", start, end, 8, "cd" * 32, 8, 8, 8, 1)

    async def found(self, key: bytes = MODELS_KEY) -> set[bytes]:
        return {record.peer_id for record in await self.discovery.find_providers(key)}

    async def close(self) -> None:
        await self.discovery.close()
        await self.rpc.close()


class Town:
    """Peers by name. `async with town():` closes them."""

    def __init__(self, seed: int = 0, kind: type[Wire] = Refusing) -> None:
        self.hub = MemoryHub()
        self.rng = random.Random(seed)
        self.kind = kind
        self.numbers: dict[str, int] = {}
        self.silent: set[bytes] = set()
        self.members: dict[str, Member] = {}

    def contact(self, name: str) -> Contact:
        number = self.numbers.setdefault(name, len(self.numbers) + 1)
        return Contact(Identity(number.to_bytes(32, "big")).public_key, (f"tcp://127.0.0.1:{1000 + number}",))

    def begin(self, name: str, *joins: str, offers: bool = True, dialable: bool = True) -> Member:
        """Start a peer and have it join in the background, as the daemon does."""
        member = self.members[name] = Member(self, name, dialable)
        if offers:
            member.discovery.provide(lambda: [member.offer()])
        if joins:
            task = asyncio.ensure_future(member.discovery.join([self.contact(join) for join in joins], timeout_s=1e6))
            member.discovery._tasks._tasks[task] = None
        return member

    async def kill(self, name: str) -> None:
        await self.members.pop(name).close()

    async def __aenter__(self) -> Town:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members.values():
            await member.close()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs() as logs:
        yield
    bugs = [entry for entry in logs if entry["log_level"] in ("error", "critical")]
    assert bugs == []


# --- Show 6: ten daemons, one --join each, any order ---------------------------------------------------------------


def tree(rng: random.Random) -> dict[int, int]:
    return {i: rng.randrange(i) for i in range(1, 10)}


def ring(_: random.Random) -> dict[int, int]:
    return {i: (i + 1) % 10 for i in range(10)}


def star(_: random.Random) -> dict[int, int]:
    return dict.fromkeys(range(1, 10), 0)


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


# --- records ------------------------------------------------------------------------------------------------------


def test_an_offer_lives_while_it_is_renewed_and_dies_with_its_owner() -> None:
    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice"), town.begin("bob", "alice", offers=False)
            await asyncio.sleep(10 * MAX_TTL_S)
            assert await bob.found() == {alice.id}
            assert await bob.found(model_key("ab" * 32)) == {alice.id}
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
            assert await bob.found(model_key("ef" * 32)) == set(), "a record of another model"
            shown[:] = [bytes(forged)]
            [record] = await bob.discovery.find_providers(MODELS_KEY)
            assert record.sequence > 0
            assert bob.discovery.table.get(alice.id) == alice.contact
            await alice.discovery.withdraw()
            shown[:] = [old]
            assert await bob.found() == set(), "the tombstone outweighs the old record"

    jumping.run(story())


def test_a_reply_about_a_crowded_key_stays_within_its_limit() -> None:
    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice", offers=False), town.begin("bob", "alice", offers=False)
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            for number in range(1, 400):
                who = Identity((10_000 + number).to_bytes(32, "big"))
                record = replace(alice.offer(), public_key=who.public_key)
                data = sign_record(who, record)
                alice.discovery.store.put(MODELS_KEY, record, data + bytes(8192 - len(data)), now)
            _, buffers = await bob.rpc.request(alice.id, FindProviders(MODELS_KEY), timeout_s=1)
            assert 100 < len(unpack_records(buffers[1])) < 130

    jumping.run(story())


# --- many ---------------------------------------------------------------------------------------------------------


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
                member.discovery.provide(lambda m=member, i=i: [m.offer(model_id=f"{i:064x}")])  # type: ignore[misc]
            await asyncio.sleep(8)
            town.silent.update(town.rng.sample([member.id for member in town.members.values()], 100))
            living = [member for member in town.members.values() if member.id not in town.silent]
            loop, times = asyncio.get_running_loop(), []
            for i in range(0, 200, 20):
                started_at = loop.time()
                found = await town.rng.choice(living).found(model_key(f"{i:064x}"))
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

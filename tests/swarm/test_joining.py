"""Joining over real sockets: oneself, a copy of oneself, nobody; and strangers who live where they say, or not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random

import pytest

from dsdnode.errors import BadInput, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.dials import PER_TEACHER_AND_TARGET
from dsdnode.net.resolver import Resolver
from dsdnode.net.rpc import Response, Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm import joining
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.joins import of_one_key
from dsdnode.wire.messages import Contact, FindNode, Nodes
from dsdnode.wire.records import pack_contacts, unpack_contacts

NAMES = ("alice", "bob", "carol", "dave", "mallory")
KEYS = {name: Identity(name.encode().ljust(32)) for name in NAMES}


class Member:
    """A peer of the DHT that offers nothing."""

    def __init__(self, identity: Identity, transport: ZmqTransport) -> None:
        self.id = identity.peer_id
        self.rpc = Rpc(transport)
        self.discovery = Discovery(self.rpc, identity, Random(1))
        self.rpc.start()
        self.discovery.start()

    @property
    def contact(self) -> Contact:
        return self.rpc.transport.contact

    async def join(self, *contacts: Contact) -> None:
        await self.discovery.join(contacts, timeout_s=5)

    async def names(self, asked: Member) -> list[Contact]:
        """Whom another one names to it."""
        self.rpc.transport.introduce(asked.contact)
        _, buffers = await self.rpc.request(asked.id, FindNode(self.id), timeout_s=5)
        return unpack_contacts(buffers[0])

    async def close(self) -> None:
        await self.discovery.close()
        await self.rpc.close()


Begin = Callable[..., Awaitable[Member]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    begun: list[Member] = []

    async def one(
        name: str | Identity, listen: str = "tcp://127.0.0.1:0", advertise: Sequence[str] = (), port: bool = False
    ) -> Member:
        """`port`: what it advertises are addresses beside its own."""
        identity = KEYS[name] if isinstance(name, str) else name
        if port:
            listen = elsewhere()
            advertise = (*advertise, listen)
        begun.append(Member(identity, await ZmqTransport.open(identity, listen=listen, advertise=advertise)))
        return begun[-1]

    yield one
    await asyncio.gather(*(member.close() for member in begun))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (nobody tells of these)
            await asyncio.sleep(0.02)


def elsewhere() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


# --- oneself


async def test_who_joins_only_herself_begins_the_swarm_at_once(begin: Begin) -> None:
    """One configuration for all: her address of now, an old one, or under another name."""
    alice = await begin("alice")
    port = alice.contact.addresses[0].rpartition(":")[2]
    for address in (*alice.contact.addresses, elsewhere(), f"tcp://localhost:{port}"):
        async with asyncio.timeout(3):
            await alice.join(Contact(alice.contact.public_key, (address,)))


async def test_who_joins_herself_and_others_waits_for_the_others_alone(begin: Begin) -> None:
    alice, bob = await begin("alice"), await begin("bob")
    await alice.join(alice.contact, bob.contact)
    assert alice.discovery.table.is_live(bob.id)


async def test_a_join_that_fails_says_why(begin: Begin) -> None:
    alice = await begin("alice")
    with pytest.raises(PeerUnavailable, match="nobody listens at"):
        await alice.discovery.join([alice.contact, Contact(KEYS["bob"].public_key, (elsewhere(),))], timeout_s=1)


# --- nobody


async def test_what_is_plainly_in_vain_is_not_waited_for(begin: Begin) -> None:
    """Each by itself, and all at once: a port where nobody listens, a name that is nobody's, another peer's address,
    one that takes connections and says nothing."""
    carol = await begin("carol")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        places = {
            elsewhere(): "nobody listens at",
            "tcp://no-such-host.invalid:29170": "no-such-host.invalid cannot be found",
            carol.contact.addresses[0]: "does not have the key",
            f"tcp://127.0.0.1:{mute.getsockname()[1]}": "takes the connection and says nothing",
        }
        joins: list[tuple[Contact, tuple[str, ...]]] = [
            (Contact(KEYS["bob"].public_key, (place,)), (why,)) for place, why in places.items()
        ]
        joins.append((Contact(KEYS["bob"].public_key, tuple(places)), tuple(places.values())))
        members = [await begin(Identity(bytes([number]) * 32)) for number in range(len(joins))]

        async def why_not(member: Member, contact: Contact) -> str:
            with pytest.raises(PeerUnavailable) as failed:
                await member.discovery.join([contact], timeout_s=90)
            return str(failed.value)

        async with asyncio.timeout(30):
            told = await asyncio.gather(
                *(why_not(*one) for one in zip(members, (one for one, _ in joins), strict=True))
            )
        for words, (contact, whys) in zip(told, joins, strict=True):
            assert all(why in words for why in whys), words
            assert all(place.removeprefix("tcp://").rpartition(":")[0] in words for place in contact.addresses), words


async def test_a_silent_name_server_is_waited_for_three_seconds_and_not_where_an_address_is_known(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(self: Resolver, name: str, by_user: bool) -> list[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(Resolver, "hosts", silent)
    monkeypatch.setattr("dsdnode.net.link.RESOLVE_TIMEOUT_S", 0.2)
    bob, alice, carol = await begin("bob"), await begin("alice"), await begin("carol")
    named = Contact(bob.contact.public_key, ("tcp://bob.example:29170",))
    with pytest.raises(PeerUnavailable, match=r"no name server has said in 0.2 s where bob.example is"):
        await alice.discovery.join([named], timeout_s=60, starting_s=0.1)
    other = Contact(carol.contact.public_key, ("tcp://carol.example:29170",))
    found = of_one_key([named, other, named], [bob.contact, alice.contact])
    assert found == [Contact(named.public_key, (*named.addresses, *bob.contact.addresses)), other]
    await carol.join(*found[:1])


async def test_who_is_just_starting_is_waited_for(begin: Begin) -> None:
    alice, place = await begin("alice"), elsewhere()
    trying = asyncio.create_task(alice.discovery.join([Contact(KEYS["bob"].public_key, (place,))], timeout_s=90))
    await until(lambda: alice.rpc.transport.leads_nowhere(KEYS["bob"].peer_id))
    await begin("bob", listen=place)
    await trying


async def test_alice_hears_what_is_tried_while_it_is_tried(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two does not answer, so it is not plain that nobody will."""
    monkeypatch.setattr(joining, "TELL_S", 0.1)
    alice, told = await begin("alice"), asyncio.Queue[str]()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent, nobody = f"tcp://127.0.0.1:{mute.getsockname()[1]}", elsewhere()
        contacts = [Contact(KEYS[name].public_key, (place,)) for name, place in (("bob", silent), ("carol", nobody))]
        trying = asyncio.create_task(alice.discovery.join(contacts, 90, told.put_nowait))
        words = await told.get()
        assert f"no answer from {silent} yet" in words and f"nobody listens at {nobody}" in words
        trying.cancel()


async def test_who_joins_its_own_address_under_another_key_is_told_so(begin: Begin) -> None:
    alice = await begin("alice")
    with pytest.raises(PeerUnavailable, match="This node is there itself, and has another key"):
        await alice.discovery.join([Contact(KEYS["bob"].public_key, alice.contact.addresses)], 90, starting_s=0.0)


# --- a copy


@pytest.mark.parametrize("way", ["by a bootstrap", "by the first itself", "by its old address", "by both"])
async def test_a_copy_of_alice_is_told_at_its_start(begin: Begin, way: str) -> None:
    bob, alice = await begin("bob"), await begin("alice")
    await alice.join(bob.contact)
    await until(lambda: bob.discovery.table.is_live(alice.id))
    copy = await begin("alice")
    moved = Contact(alice.contact.public_key, (elsewhere(), *alice.contact.addresses))
    joins = {
        "by a bootstrap": [bob.contact],
        "by the first itself": [alice.contact],
        "by its old address": [moved],
        "by both": [bob.contact, alice.contact],
    }[way]
    with pytest.raises(BadInput, match=r"identity is in use already.*--identity"):
        await copy.join(*joins)
    assert alice.rpc.transport.twin in copy.contact.addresses, "and she is told, too"


async def test_a_copy_is_found_by_those_around_its_id_where_the_first_to_be_joined_knows_of_none(begin: Begin) -> None:
    bob, carol, alice, copy = await begin("bob"), await begin("carol"), await begin("alice"), await begin("alice")
    await alice.join(bob.contact)
    await until(lambda: bob.discovery.table.is_live(alice.id))
    await copy.join(carol.contact)
    await carol.join(bob.contact)
    with pytest.raises(BadInput, match="identity is in use already"):
        async with asyncio.timeout(10):
            while True:
                await copy.discovery.check_identity()


@pytest.mark.parametrize("again", ["at another port", "at the same port"])
async def test_alice_who_starts_again_is_no_copy(begin: Begin, again: str) -> None:
    bob, alice = await begin("bob"), await begin("alice")
    await alice.join(bob.contact)
    await until(lambda: bob.discovery.table.is_live(alice.id))
    listen = alice.contact.addresses[0]
    await alice.close()
    alice = await begin("alice", listen if again == "at the same port" else "tcp://127.0.0.1:0")
    await alice.join(bob.contact)
    await alice.discovery.check_identity()
    await until(lambda: bob.discovery.table.get(alice.id) == alice.contact)


# --- where people live


async def test_nobody_is_named_at_an_address_where_he_does_not_live(begin: Begin) -> None:
    """Where nobody listens, where somebody else does, at a service, by a name that is none: they only call in."""
    alice, carol, dave = await begin("alice"), await begin("carol"), await begin("dave")
    claims = [
        elsewhere(),
        *alice.contact.addresses,
        *carol.contact.addresses,
        "tcp://127.0.0.1:22",
        "tcp://no.invalid:5000",
    ]
    liars = [await begin(Identity(b"%32d" % number), advertise=(claim,)) for number, claim in enumerate(claims)]
    for liar in liars:
        await liar.join(alice.contact)
    await dave.join(alice.contact)
    await until(lambda: alice.discovery.table.is_live(dave.id))
    await until(lambda: not alice.discovery._homes.busy)
    assert await carol.names(alice) == [dave.contact]
    assert not any(alice.discovery.table.is_live(liar.id) for liar in liars)


async def test_of_several_addresses_only_the_true_ones_are_named(begin: Begin) -> None:
    alice, carol = await begin("alice"), await begin("carol")
    own = elsewhere()
    dave = await begin("dave", own, advertise=(elsewhere(), own, *carol.contact.addresses))
    await dave.join(alice.contact)
    await until(lambda: alice.discovery.table.is_live(dave.id))
    await until(lambda: not alice.discovery._homes.busy)
    assert await carol.names(alice) == [Contact(dave.contact.public_key, (own,))]


async def test_who_is_far_away_is_named_nobody_near_by(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, dave = await begin("alice"), await begin("dave")
    await dave.join(alice.contact)
    await until(lambda: alice.discovery.table.is_live(dave.id))
    monkeypatch.setattr("dsdnode.net.peers.leads_here", lambda host: False)
    monkeypatch.setattr("dsdnode.net.peers.nearness", lambda host: None)  # from where bob calls
    bob = await begin("bob")
    assert await bob.names(alice) == []


async def test_a_liar_who_names_forty_at_a_victim_s_address(begin: Begin) -> None:
    """All who ask her call there, each so often a minute, and find whom they look for."""
    calls: list[object] = []

    def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer.get_extra_info("peername"))
        writer.close()

    victim = await asyncio.start_server(called, "127.0.0.1", 0)
    port = victim.sockets[0].getsockname()[1]
    alice, mallory, dave = await begin("alice"), await begin("mallory"), await begin("dave")
    rng = Random(1)

    async def nodes(peer: bytes, message: FindNode, buffers: list[bytes]) -> Response:
        hosts = ("127.0.0.1", "localhost", "127.0.0.2", "127.1.1.1")
        addresses = tuple(f"tcp://{host}:{port}" for host in hosts)
        made_up = [Contact(Identity(rng.randbytes(32)).public_key, addresses) for _ in range(40)]
        return Nodes(), (pack_contacts(made_up),)

    mallory.rpc.on_request(FindNode, nodes)
    await alice.join(mallory.contact)
    await dave.join(alice.contact)
    for _ in range(6):
        await alice.discovery._queries.lookup(rng.randbytes(32), FindNode(rng.randbytes(32)), 1.0)
    assert len(calls) <= 2 * 2 * PER_TEACHER_AND_TARGET, "alice's and dave's, and it has two names"
    await until(lambda: alice.discovery.table.is_live(dave.id))
    victim.close()

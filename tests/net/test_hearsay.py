"""Where alice calls because others say so; and what a call of her own shows of who says so himself."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dsdnode.addresses import Nearness
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity, peer_id
from dsdnode.net.call import Way
from dsdnode.net.dials import PER_TEACHER_AND_TARGET, Teacher
from dsdnode.net.peers import MAX_CLAIMS
from dsdnode.net.resolver import MAX_ASKED, Resolver
from dsdnode.net.rpc import Rpc
from dsdnode.wire.messages import Contact

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB, CAROL, MALLORY = (Identity(name * 32) for name in (b"a", b"b", b"c", b"m"))


def inside(rpc: Rpc) -> Any:
    """The transport, to look into."""
    return rpc.transport


@asynccontextmanager
async def victim() -> AsyncIterator[tuple[str, list[object]]]:
    """Somebody who has nothing to do with any of this: his address, and the calls that he gets."""
    calls: list[object] = []

    def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(called, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", calls
    finally:
        server.close()


async def acquainted(start: Start, far: bool = False) -> tuple[Rpc, Rpc]:
    """Alice, and mallory who has called her; `far`: from the other end of the world."""
    alice, mallory = await start(b"a"), await start(b"m")
    mallory.transport.introduce(alice.transport.contact)
    await mallory.ping(ALICE.peer_id, timeout_s=5)
    if far:
        inside(alice)._links.book.get(MALLORY.peer_id).as_teacher = Teacher(Nearness.WORLD, "9.9.9.0/24")
    return alice, mallory


async def unreachable(rpc: Rpc, peer: Identity) -> str:
    with pytest.raises(PeerUnavailable) as error:
        await rpc.ping(peer.peer_id, timeout_s=10)
    return str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_a_stranger_from_far_away_cannot_have_us_call_ourselves(start: Start, host: str) -> None:
    alice, _ = await acquainted(start, far=True)
    async with victim() as (address, calls):
        port = address.rpartition(":")[2]
        alice.transport.introduce(Contact(CAROL.public_key, (f"tcp://{host}:{port}",)), MALLORY.peer_id)
        await unreachable(alice, CAROL)
        assert calls == []


async def test_nor_by_saying_that_it_is_there_itself(start: Start) -> None:
    async with victim() as (address, calls):
        alice, mallory = await start(b"a"), await start(b"m", advertise=[address])
        mallory.transport.introduce(alice.transport.contact)
        await mallory.ping(ALICE.peer_id, timeout_s=5)
        known = inside(alice)._links.book.get(MALLORY.peer_id)
        known.as_teacher = Teacher(Nearness.WORLD, "9.9.9.0/24")
        await alice.transport.reach(MALLORY.peer_id, address)
        assert calls == []
        known.as_teacher = Teacher(Nearness.HERE, "mallory")
        await alice.transport.reach(MALLORY.peer_id, address)
        assert calls != [], "as neighbours may"


async def test_nor_by_a_name_that_leads_here(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is a public one; what it is resolved to is asked for anew."""
    alice, _ = await acquainted(start, far=True)
    async with victim() as (address, calls):
        port = int(address.rpartition(":")[2])

        async def hosts(_: Resolver, name: str, by_user: bool) -> list[str]:
            return ["127.0.0.1"]

        monkeypatch.setattr(Resolver, "hosts", hosts)
        alice.transport.introduce(Contact(CAROL.public_key, (f"tcp://mallory.example:{port}",)), MALLORY.peer_id)
        assert "nobody far away may name" in await unreachable(alice, CAROL)
        assert calls == []
        alice.transport.introduce(Contact(CAROL.public_key, (f"tcp://mallory.example:{port}",)))  # alice herself
        await unreachable(alice, CAROL)
        assert calls != []


async def test_nor_by_a_name_where_both_call_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory says that she listens there, and that her router lets alice in now."""
    alice, _ = await acquainted(start, far=True)
    async with victim() as (address, calls):

        async def hosts(_: Resolver, name: str, by_user: bool) -> list[str]:
            return ["127.0.0.1"]

        monkeypatch.setattr(Resolver, "hosts", hosts)
        at = f"tcp://mallory.example:{address.rpartition(':')[2]}"
        assert not await inside(alice).paths.call_punched(MALLORY.peer_id, at)
        assert calls == []


async def test_names_that_mallory_has_alice_look_up_do_not_hold_up_what_alice_s_user_has_named(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their name server is silent. She tells of others', of her own, and of some that have led to her before: so she is
    among those whom alice keeps in the table of her DHT."""
    alice, _ = await acquainted(start)
    bob, told = await start(b"b"), threading.Event()

    def of_loopback(name: str, *_: object, **__: object) -> list[Any]:
        if name != "bob.example":
            told.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", of_loopback)
    known = inside(alice)._links.book.get(MALLORY.peer_id)
    for number in range(MAX_ASKED):
        known.answered(
            Way(f"tcp://then{number}.mallory.example:29170", known.as_teacher.near, known.as_teacher), "127.0.0.1"
        )
    alice.transport.introduce(Contact(MALLORY.public_key, alice.transport.sighting(MALLORY.peer_id).reached))
    known.said = Contact(MALLORY.public_key, ("tcp://said.mallory.example:29170",))
    assert [way.by_user for way in known.ways()] == [False] * (MAX_ASKED + 1)
    calls = [asyncio.create_task(alice.transport.reach(MALLORY.peer_id, "tcp://said.mallory.example:29170"))]
    for number in range(MAX_ASKED):
        name = Identity((1000 + number).to_bytes(32, "big"))
        address = f"tcp://told{number}.mallory.example:29170"
        alice.transport.introduce(Contact(name.public_key, (address,)), MALLORY.peer_id)
        calls.append(asyncio.create_task(alice.transport.reach(name.peer_id, address)))
    try:
        await asyncio.sleep(0)
        port = bob.transport.contact.addresses[0].rpartition(":")[2]
        alice.transport.introduce(Contact(BOB.public_key, (f"tcp://bob.example:{port}",)))
        await alice.ping(BOB.peer_id, timeout_s=2.5)
        (way,) = inside(alice)._links.book.get(BOB.peer_id).ways()[:1]
        assert way.host == "127.0.0.1" and way.by_user, "nor later, when he was reached"
    finally:
        told.set()
    await asyncio.gather(*calls)


async def test_on_one_machine_neighbours_name_each_other(start: Start) -> None:
    alice, _ = await acquainted(start)
    carol = await start(b"c")
    alice.transport.introduce(carol.transport.contact, MALLORY.peer_id)
    await alice.ping(CAROL.peer_id, timeout_s=5)


async def test_a_liar_has_us_call_a_victim_so_often(start: Start) -> None:
    alice, _ = await acquainted(start)
    async with victim() as (address, calls):
        names = [Identity((1000 + number).to_bytes(32, "big")) for number in range(40)]
        for name in names:
            alice.transport.introduce(Contact(name.public_key, (address,)), MALLORY.peer_id)
        words = await asyncio.gather(*(unreachable(alice, name) for name in names))
        assert len(calls) == PER_TEACHER_AND_TARGET
        assert sum("is not called again yet" in one for one in words) == 40 - PER_TEACHER_AND_TARGET
    carol, bob = await start(b"c"), await start(b"b")
    bob.transport.introduce(alice.transport.contact)
    await bob.ping(ALICE.peer_id, timeout_s=5)
    alice.transport.introduce(carol.transport.contact, BOB.peer_id)
    await alice.ping(CAROL.peer_id, timeout_s=5)


async def test_who_was_reached_once_is_called_again_whatever_it_costs(start: Start) -> None:
    """Carol is down for a while, and alice tries on and on; the one who named carol does not pay for that."""
    alice, _ = await acquainted(start)
    carol = await start(b"c")
    contact = carol.transport.contact
    alice.transport.introduce(contact, MALLORY.peer_id)
    await alice.ping(CAROL.peer_id, timeout_s=5)
    gone = asyncio.Event()
    alice.transport.on_peer_lost(lambda peer, why, at_s: gone.set())
    await carol.close()
    await gone.wait()
    known = inside(alice)._links.book.get(CAROL.peer_id)
    for _ in range(3 * PER_TEACHER_AND_TARGET):
        known.retry_at = 0.0
        assert "nobody listens" in await unreachable(alice, CAROL)
    carol, known.retry_at = await start(b"c", listen=contact.addresses[0]), 0.0
    await alice.ping(CAROL.peer_id, timeout_s=5)


async def test_a_false_address_does_not_stand_before_an_honest_one(start: Start) -> None:
    """Mallory was first, and says it again and again; carol's own record comes later. And nobody displaces our user."""
    alice, _ = await acquainted(start)
    carol, bob = await start(b"c"), await start(b"b")
    bob.transport.introduce(alice.transport.contact)
    await bob.ping(ALICE.peer_id, timeout_s=5)
    async with victim() as (address, _):
        for _ in range(5):
            alice.transport.introduce(Contact(CAROL.public_key, (address,)), MALLORY.peer_id)
        alice.transport.introduce(carol.transport.contact, BOB.peer_id)
        await alice.ping(CAROL.peer_id, timeout_s=5)
        dave = await start(b"d")
        dave_id = peer_id(dave.transport.contact.public_key)
        alice.transport.introduce(dave.transport.contact)
        alice.transport.introduce(Contact(dave.transport.contact.public_key, (address,)), MALLORY.peer_id)
        assert alice.transport.contact_of(dave_id) == dave.transport.contact
        await alice.ping(dave_id, timeout_s=5)


async def test_of_many_claims_those_that_proved_wrong_make_room(start: Start) -> None:
    alice, _ = await acquainted(start)
    carol = await start(b"c")
    async with victim() as (address, _):
        host, _, port = address.rpartition(":")
        for lie in (address, f"{host}:{int(port) + 1}", f"tcp://localhost:{port}"):
            alice.transport.introduce(Contact(CAROL.public_key, (lie,)), MALLORY.peer_id)
        alice.transport.introduce(carol.transport.contact, MALLORY.peer_id)  # one too many
        await unreachable(alice, CAROL)
        alice.transport.introduce(carol.transport.contact, MALLORY.peer_id)
        await alice.ping(CAROL.peer_id, timeout_s=5)


@pytest.mark.parametrize("knows_carol", [True, False])
async def test_what_nobody_calls_on_mallory_s_word_keeps_carol_from_nobody(start: Start, knows_carol: bool) -> None:
    """She was first, with carol's address among others or with lies alone, and names so many that she has used up what
    she may: her word for carol is never tried, and so it never proves wrong. Bob says where carol is."""
    alice, _ = await acquainted(start)
    carol, bob = await start(b"c"), await start(b"b")
    bob.transport.introduce(alice.transport.contact)
    await bob.ping(ALICE.peer_id, timeout_s=5)
    links, home = inside(alice)._links, carol.transport.contact.addresses
    for port in range(2000, 2000 + MAX_CLAIMS):
        claim = (*home * knows_carol, f"tcp://127.0.0.1:{port}")
        alice.transport.introduce(Contact(CAROL.public_key, claim), MALLORY.peer_id)
    now, mallory_s_word = asyncio.get_running_loop().time(), links.book.get(MALLORY.peer_id).as_teacher
    while links.dials.allow(now, mallory_s_word, f"tcp://127.0.0.1:{port}"):
        port += 1
    assert "is not called again yet" in await unreachable(alice, CAROL)
    alice.transport.introduce(carol.transport.contact, BOB.peer_id)
    await alice.ping(CAROL.peer_id, timeout_s=5)


# --- calls of our own


async def test_of_what_a_caller_claims_only_what_answers_is_reached(start: Start) -> None:
    """A port where nobody listens, a stranger's, another peer's, and his own."""
    alice, carol = await start(b"a"), await start(b"c")
    async with victim() as (strangers, _):
        with socket.create_server(("127.0.0.1", 0)) as free:
            own = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        claims = ("tcp://127.0.0.1:2", strangers, *carol.transport.contact.addresses, own)
        bob = await start(b"b", listen=own, advertise=claims)
        bob.transport.introduce(alice.transport.contact)
        await bob.ping(ALICE.peer_id, timeout_s=5)
        assert alice.transport.contact_of(BOB.peer_id) == Contact(BOB.public_key, claims)
        assert alice.transport.sighting(BOB.peer_id).reached == ()
        for claim in claims:
            await alice.transport.reach(BOB.peer_id, claim)
        assert alice.transport.sighting(BOB.peer_id).reached == (own,)


async def test_a_call_to_see_who_answers_disturbs_nobody(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    bob.transport.introduce(alice.transport.contact)
    await bob.ping(ALICE.peer_id, timeout_s=5)
    lost: list[bytes] = []
    for rpc in (alice, bob):
        rpc.transport.on_peer_lost(lambda peer, why, at_s: lost.append(peer))
    assert await alice.transport.reach(BOB.peer_id, bob.transport.contact.addresses[0])
    assert alice.transport.sighting(BOB.peer_id).reached == bob.transport.contact.addresses
    await alice.ping(BOB.peer_id, timeout_s=5)
    await bob.ping(ALICE.peer_id, timeout_s=5)
    assert lost == []


async def test_what_is_said_to_a_client_while_it_looks_who_answers_reaches_it(start: Start) -> None:
    """Bob would take the newest greeting for the connection that is alive, and what he says there would be lost."""
    bob, alice = await start(b"b", listen="tcp://0.0.0.0:0"), await start(b"a", listen=None)
    port = bob.transport.here[0].rpartition(":")[2]
    own = [f"tcp://127.0.0.{number}:{port}" for number in (1, 2, 3, 4)]
    alice.transport.introduce(Contact(BOB.public_key, tuple(own[:1])))
    await alice.ping(BOB.peer_id, timeout_s=5)
    alice.transport.introduce(Contact(BOB.public_key, tuple(own)))
    looks = asyncio.gather(*(alice.transport.reach(BOB.peer_id, one) for one in own))
    pings: list[asyncio.Task[float]] = []
    while not looks.done():
        pings.append(asyncio.create_task(bob.ping(ALICE.peer_id, timeout_s=5)))
        await asyncio.sleep(0.001)
    assert set(alice.transport.sighting(BOB.peer_id).reached) == set(own)
    await asyncio.gather(*pings)


async def test_an_address_that_answers_no_more_is_not_passed_on(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    assert alice.transport.sighting(BOB.peer_id).reached
    gone = asyncio.Event()
    alice.transport.on_peer_lost(lambda peer, why, at_s: gone.set())
    await bob.close()
    await gone.wait()
    await unreachable(alice, BOB)
    assert alice.transport.sighting(BOB.peer_id).reached == ()

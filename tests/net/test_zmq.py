"""Alice, bob and carol over real sockets on loopback. Strangers come in test_strangers.py."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsdnode.addresses import parse_address
from dsdnode.errors import DsdError, Overloaded, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net import links
from dsdnode.net.handshake import CAPABILITIES
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.wire.codec import MAX_FRAME_BYTES
from dsdnode.wire.messages import Announce, Contact, Message, Ping, Pong, Stored
from dsdnode.wire.replies import Cancel

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB, CAROL = (Identity(name * 32) for name in (b"a", b"b", b"c"))


async def echo(peer: bytes, message: Announce, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
    return Stored(), [*buffers, peer]


async def lost(rpc: Rpc) -> asyncio.Future[tuple[bytes, str]]:
    future = asyncio.get_running_loop().create_future()
    rpc.transport.on_peer_lost(lambda peer, why, at_s: None if future.done() else future.set_result((peer, why)))
    return future


async def refused(rpc: Rpc, contact: Contact, peer: Identity = BOB) -> str:
    """What alice is told when she cannot talk to bob; it must not take her whole patience."""
    rpc.transport.introduce(contact)
    async with asyncio.timeout(4):
        with pytest.raises(PeerUnavailable) as error:
            await rpc.ping(peer.peer_id, timeout_s=60)
    return str(error.value)


async def test_alice_asks_bob_and_bob_asks_back(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    for rpc in (alice, bob):
        rpc.on_request(Announce, echo)
    alice.transport.introduce(bob.transport.contact)
    big = os.urandom(MAX_FRAME_BYTES)
    for priority in (Priority.CONTROL, Priority.BULK):
        request = alice.request(BOB.peer_id, Announce(bytes(32)), [big, b""], timeout_s=20, priority=priority)
        assert await request == (Stored(), [big, b"", ALICE.peer_id])
    assert bob.transport.contact_of(ALICE.peer_id) == alice.transport.contact
    reply, buffers = await bob.request(ALICE.peer_id, Announce(bytes(32)), timeout_s=5)
    assert (reply, buffers) == (Stored(), [BOB.peer_id])


async def test_alice_who_cannot_be_dialled_is_called_over_her_own_connection(start: Start) -> None:
    alice, bob = await start(b"a", listen=None), await start(b"b")
    assert alice.transport.contact.addresses == ()
    alice.on_request(Announce, echo)
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    for priority in Priority:
        await bob.request(ALICE.peer_id, Announce(bytes(32)), [bytes(100)], timeout_s=5, priority=priority)


async def test_a_node_of_several_roles_knows_what_it_can_do_itself(start: Start) -> None:
    """A drafter and the shard beside it: nothing greets itself, and yet it is no older version."""
    alice = await start(b"a")
    assert all(alice.transport.can(ALICE.peer_id, one) for one in CAPABILITIES)
    assert not alice.transport.can(BOB.peer_id, CAPABILITIES[0])


async def test_both_dial_at_once(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    bob.transport.introduce(alice.transport.contact)
    pings = [alice.ping(BOB.peer_id, timeout_s=5, priority=priority) for priority in Priority]
    await asyncio.gather(*pings, *(bob.ping(ALICE.peer_id, timeout_s=5, priority=priority) for priority in Priority))


async def test_what_waits_for_one_connection_takes_another_that_comes_first(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        alice.transport.introduce(Contact(BOB.public_key, (f"tcp://127.0.0.1:{silent.getsockname()[1]}",)))
        asked = asyncio.ensure_future(alice.ping(BOB.peer_id, timeout_s=4))
        await asyncio.sleep(0)
        bob.transport.introduce(alice.transport.contact)
        await bob.ping(ALICE.peer_id, timeout_s=5)
        await asked


async def test_what_is_asked_while_the_end_of_a_connection_is_told_goes_by_another(start: Start) -> None:
    """What alice had asked before would never be answered."""
    alice, bob = await start(b"a"), await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    has_heard = asyncio.Event()

    async def never(peer: bytes, message: Announce, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        has_heard.set()
        await asyncio.Event().wait()
        return Stored(), []

    bob.on_request(Announce, never)
    before = asyncio.ensure_future(alice.request(BOB.peer_id, Announce(bytes(32)), timeout_s=60))
    await has_heard.wait()
    after = asyncio.ensure_future(alice.request(BOB.peer_id, Ping(), timeout_s=60))
    alice.transport._links.interrupt("this machine is in no network")  # type: ignore[attr-defined]
    with pytest.raises(PeerUnavailable, match="in no network"):
        await before
    assert await after == (Pong(), [])


async def test_what_waits_for_a_connection_leaves_by_priority(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    heard: list[bytes] = []
    bob.on_notice(Cancel, lambda peer, message, buffers: heard.append(message.request[:2]))
    alice.transport.introduce(bob.transport.contact)
    for index in range(3):
        for priority in (Priority.BULK, Priority.DRAFT, Priority.VERIFY):
            alice.notify(BOB.peer_id, Cancel(b"%d%d" % (priority, index) + bytes(14)), priority=priority)
    await alice.ping(BOB.peer_id, timeout_s=5, priority=Priority.BULK)
    assert heard == [b"10", b"11", b"12", b"20", b"21", b"22", b"30", b"31", b"32"]


async def test_a_flood_is_not_lost_and_stays_in_order(start: Start) -> None:
    """More than libzmq's queues hold, both ways over alice's one connection; control overtakes it."""
    alice, bob = await start(b"a"), await start(b"b")
    by_alice: list[bytes] = []
    by_bob: list[bytes] = []
    alice.on_notice(Cancel, lambda peer, message, buffers: by_alice.append(message.request[:2]))
    bob.on_notice(Cancel, lambda peer, message, buffers: by_bob.append(message.request[:2]))
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5, priority=Priority.VERIFY)
    expected = [index.to_bytes(2, "big") for index in range(900)]
    for name in expected:
        alice.notify(BOB.peer_id, Cancel(name + bytes(14)), [bytes(16384)], Priority.VERIFY)
        bob.notify(ALICE.peer_id, Cancel(name + bytes(14)), [bytes(16384)], Priority.VERIFY)
    await asyncio.gather(
        alice.ping(BOB.peer_id, timeout_s=20, priority=Priority.VERIFY),
        bob.ping(ALICE.peer_id, timeout_s=20, priority=Priority.VERIFY),
    )
    await bob.ping(ALICE.peer_id, timeout_s=20, priority=Priority.VERIFY)
    assert by_alice == by_bob == expected


async def test_a_full_queue_refuses_at_once(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        alice = await start(b"a")
        alice.transport.introduce(Contact(BOB.public_key, (f"tcp://127.0.0.1:{silent.getsockname()[1]}",)))
        with pytest.raises(Overloaded):
            for _ in range(10_000):
                alice.notify(BOB.peer_id, Cancel(bytes(16)))


async def test_bob_restarts_at_the_same_address(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    contact = bob.transport.contact
    alice.transport.introduce(contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    gone = await lost(alice)
    await bob.close()
    async with asyncio.timeout(5):
        assert (await gone)[0] == BOB.peer_id
    bob = await start(b"b", listen=contact.addresses[0])
    await alice.ping(BOB.peer_id, timeout_s=5)
    await bob.ping(ALICE.peer_id, timeout_s=5)


async def test_alice_restarts_and_bob_calls_the_new_one(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    await bob.ping(ALICE.peer_id, timeout_s=5)
    await alice.close()
    alice = await start(b"a")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    await bob.ping(ALICE.peer_id, timeout_s=5)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
async def test_a_killed_peer_is_missed_at_once(start: Start) -> None:
    script = (
        "import asyncio\n"
        "from dsdnode.identity import Identity\n"
        "from dsdnode.net.rpc import Rpc\n"
        "from dsdnode.net.zmq import ZmqTransport\n"
        "async def main():\n"
        "    rpc = Rpc(await ZmqTransport.open(Identity(b'b' * 32), listen='tcp://127.0.0.1:0'))\n"
        "    rpc.start()\n"
        "    print(rpc.transport.contact.addresses[0], flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    alice = await start(b"a")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        alice.transport.introduce(Contact(BOB.public_key, (address,)))
        await alice.ping(BOB.peer_id, timeout_s=10)
        gone = await lost(alice)
        process.send_signal(signal.SIGSTOP)  # so that the next ping is surely still waiting
        asked = asyncio.ensure_future(alice.ping(BOB.peer_id, timeout_s=60))
        await asyncio.sleep(0)
    finally:
        process.kill()
    async with asyncio.timeout(2):
        assert (await gone)[0] == BOB.peer_id
        with pytest.raises(PeerUnavailable, match="closed"):
            await asked
    await process.wait()


async def test_nobody_at_the_address(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    contact = bob.transport.contact
    await bob.close()
    assert f"nobody listens at {contact.addresses[0]}" in await refused(alice, contact)
    assert "nobody listens" in await refused(alice, contact)  # and is not dialled again at once


async def test_the_second_address_serves_when_the_first_is_dead(start: Start) -> None:
    alice, bob, carol = await start(b"a"), await start(b"b"), await start(b"c")
    (dead,) = carol.transport.contact.addresses
    await carol.close()
    addresses = (dead, *bob.transport.contact.addresses)
    alice.transport.introduce(Contact(BOB.public_key, addresses))
    await alice.ping(BOB.peer_id, timeout_s=5)


async def test_a_lie_about_bobs_address_does_not_hide_him(start: Start) -> None:
    alice, bob = await start(b"a", listen=None), await start(b"b")
    contact = bob.transport.contact
    alice.transport.introduce(contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    gone = await lost(alice)
    await bob.close()
    await gone
    bob = await start(b"b", listen=contact.addresses[0])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        alice.transport.introduce(Contact(BOB.public_key, (f"tcp://127.0.0.1:{silent.getsockname()[1]}",)))
        await alice.ping(BOB.peer_id, timeout_s=4)


async def test_names_are_found(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    _, port = parse_address(bob.transport.contact.addresses[0])
    alice.transport.introduce(Contact(BOB.public_key, (f"tcp://localhost:{port}",)))
    await alice.ping(BOB.peer_id, timeout_s=5)
    words = await refused(alice, Contact(CAROL.public_key, (f"tcp://no-such-host.invalid:{port}",)), CAROL)
    assert "no-such-host.invalid cannot be found" in words


async def test_unknown_peers_and_bad_contacts(start: Start) -> None:
    alice = await start(b"a")
    with pytest.raises(PeerUnavailable, match="no address"):
        await alice.ping(BOB.peer_id, timeout_s=5)
    for contact in (
        Contact(bytes(32), ("tcp://127.0.0.1:1",)),
        Contact(BOB.public_key),
        Contact(BOB.public_key, ("ipc:///tmp/x", "inproc://zeromq.zap.01", "tcp://*:1")),
        alice.transport.contact,
    ):
        alice.transport.introduce(contact)
    with pytest.raises(PeerUnavailable):
        await alice.ping(BOB.peer_id, timeout_s=5)


async def test_a_node_with_several_roles_talks_to_itself(start: Start) -> None:
    alice = await start(b"a")
    alice.on_request(Announce, echo)
    reply, buffers = await alice.request(ALICE.peer_id, Announce(bytes(32)), [b"x"], timeout_s=5)
    assert (reply, buffers) == (Stored(), [b"x", ALICE.peer_id])


async def test_of_too_many_links_the_least_used_are_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MAX_DIALLED", 2)
    alice = await start(b"a")
    names = [b"b", b"c", b"d", b"e"]
    others = [await start(name) for name in names]
    for _ in range(2):
        for name, other in zip(names, others, strict=True):
            alice.transport.introduce(other.transport.contact)
            await alice.ping(Identity(name * 32).peer_id, timeout_s=5)
            transport: Any = alice.transport
            assert len(transport._links._dealers) <= 2


async def test_calls_that_nobody_answers_take_no_link_from_alice(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory's records name forty peers at a port that says nothing; bob is there, and silent just now."""
    monkeypatch.setattr(links, "MAX_DIALLED", 6)
    alice, bob = await start(b"a"), await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    gone = await lost(bob)
    mute = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with mute:
        address = f"tcp://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
        names = [Identity(bytes([number]) * 32) for number in range(100, 140)]
        for name in names:
            alice.transport.introduce(Contact(name.public_key, (address,)))
        pings = (alice.ping(name.peer_id, timeout_s=0.3) for name in names)
        assert all(isinstance(one, DsdError) for one in await asyncio.gather(*pings, return_exceptions=True))
        await alice.ping(BOB.peer_id, timeout_s=5)
    assert not gone.done()


async def test_who_waits_for_a_call_that_makes_room_for_another_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_DIALLED", 2)
    alice = await start(b"a")
    mute = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with mute:
        address, pings = f"tcp://127.0.0.1:{mute.sockets[0].getsockname()[1]}", list[asyncio.Task[float]]()
        for number in range(100, 104):
            name = Identity(bytes([number]) * 32)
            alice.transport.introduce(Contact(name.public_key, (address,)))
            pings.append(asyncio.create_task(alice.ping(name.peer_id, timeout_s=60)))
        await asyncio.wait(pings[:2], timeout=5)
        done, waiting = await asyncio.wait(pings, timeout=0)
        assert len(done) == len(waiting) == 2
        for ping in pings[:2]:
            assert "given up for others: too many are called at once" in str(ping.exception())
        for ping in waiting:
            ping.cancel()


async def test_a_banned_peer_is_out(start: Start) -> None:
    """Her connections, too, end at once: what they would still carry costs bob as much as before."""
    alice, bob = await start(b"a"), await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    for priority in (Priority.CONTROL, Priority.VERIFY):
        await alice.ping(BOB.peer_id, timeout_s=5, priority=priority)
    gone = await lost(alice)
    bob.transport.ban(ALICE.peer_id, 60.0)
    with pytest.raises(PeerUnavailable, match="banned"):
        await bob.ping(ALICE.peer_id, timeout_s=5)
    async with asyncio.timeout(5):
        assert (await gone)[0] == BOB.peer_id
    assert "refused the connection (banned" in await refused(alice, bob.transport.contact)


async def test_where_a_peer_calls_from_is_seen_and_not_believed(start: Start) -> None:
    alice = await start(b"a", advertise=("tcp://203.0.113.9:4444",))
    bob = await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    assert bob.transport.source_of(ALICE.peer_id) == ""
    await alice.ping(BOB.peer_id, timeout_s=5)
    assert bob.transport.contact_of(ALICE.peer_id) == alice.transport.contact
    assert bob.transport.source_of(ALICE.peer_id) == "127.0.0.1"
    assert alice.transport.source_of(BOB.peer_id) == "127.0.0.1", "where it was dialled"

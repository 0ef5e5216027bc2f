"""Where one can listen and where not, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq

from dsdnode.addresses import parse_address
from dsdnode.errors import BadInput, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net import router, sockets
from dsdnode.net.places import advertised, check_advertised, here_of
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.replies import Cancel

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))


async def test_listening_where_one_cannot(start: Start) -> None:
    bob = await start(b"b")
    (address,) = bob.transport.contact.addresses
    before = num_descriptors()
    for listen, words in (
        (address, f"port {parse_address(address)[1]} is in use"),
        ("tcp://192.0.2.7:0", "no such address"),
        ("tcp://localhost:0", "IP address"),
        ("tcp://my_box.:0", "IP address"),
        ("tcp://255.255.255.255:0", "not the address of one machine"),
        ("tcp://224.0.0.1:0", "not the address of one machine"),
        ("tcp://240.0.0.1:0", "not the address of one machine"),
        ("tcp://[ff02::1]:0", "not the address of one machine"),
        ("tcp://[fe80::1%lo]:0", "zone"),
        ("tcp://127.1:0", "neither an IP address nor a name"),
        ("127.0.0.1:7000", "tcp://HOST:PORT"),
        ("ipc:///tmp/x", "tcp://HOST:PORT"),
    ):
        with pytest.raises(BadInput, match=words):
            await ZmqTransport.open(ALICE, listen=listen)
    for advertise, words in (
        ("10.0.0.1", "tcp://HOST:PORT"),
        ("tcp://10.0.0.1:0", "port 0 is not within"),
        ("tcp://0.0.0.0:29170", "not the address of one machine"),
        ("tcp://255.255.255.255:29170", "not the address of one machine"),
        ("tcp://[ff02::1]:29170", "not the address of one machine"),
        ("tcp://[fe80::1%eth0]:29170", "zone"),
    ):
        with pytest.raises(BadInput, match=f"cannot advertise.*{words}"):
            await ZmqTransport.open(ALICE, listen="tcp://127.0.0.1:0", advertise=[advertise])
    assert num_descriptors() <= before


def test_what_isadvertised() -> None:
    assert advertised("tcp://127.0.0.1:0", (), 7000) == ("tcp://127.0.0.1:7000",)
    assert advertised("tcp://[::1]:0", (), 7000) == ("tcp://[::1]:7000",)
    assert advertised("tcp://0.0.0.0:0", ["tcp://example.org:1"], 7000) == ("tcp://example.org:1",)
    given = ["tcp://11.7.7.7:4001", "tcp://11.8.8.8:4002"]
    four = [f"tcp://11.1.1.{number}:29170" for number in range(1, 5)]
    assert advertised("tcp://0.0.0.0:0", four, 7000, given) == (*four[:2], *given), "relays have room beside them"
    with pytest.raises(BadInput, match="at most 4"):
        check_advertised([f"tcp://10.0.0.{index}:1" for index in range(5)])
    host, port = parse_address(advertised("tcp://0.0.0.0:7000", (), 7000)[0])
    assert host != "0.0.0.0" and port == 7000


def test_a_port_for_administrators_is_refused_in_words() -> None:
    denied = zmq.ZMQError(errno.EACCES)
    assert "those below 1024 are for administrators" in sockets._why_not_bound("tcp://0.0.0.0:80", 80, denied)


@pytest.mark.parametrize(
    ("listen", "here"),
    [
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:7000"),
        ("tcp://0.0.0.0:0", "tcp://127.0.0.1:7000"),
        ("tcp://[::]:0", "tcp://127.0.0.1:7000"),
        ("tcp://192.0.2.7:7000", "tcp://192.0.2.7:7000"),
    ],
)
def test_where_it_is_reached_on_its_own_machine(listen: str, here: str) -> None:
    assert here_of(listen, 7000, ()) == (here,)


async def test_what_is_advertised_is_tried_when_the_machine_is_another(start: Start) -> None:
    advertise = ["tcp://192.0.2.1:7000", "tcp://192.0.2.2:7000", "tcp://192.0.2.3:7000", "tcp://192.0.2.4:7000"]
    bob = await start(b"b", advertise=advertise)
    here = bob.transport.here
    assert here[0].startswith("tcp://127.0.0.1:") and here[1:] == tuple(advertise[:3])
    assert (await start(b"a", listen=None)).transport.here == ()


async def test_ipv6(start: Start) -> None:
    try:
        bob = await start(b"b", listen="tcp://[::1]:0")
    except BadInput:
        pytest.skip("no IPv6 on this machine")
    alice = await start(b"a")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


async def test_opening_and_closing_leaks_nothing() -> None:
    # asyncio's own pool may start a worker more when the last has only just ended its work: that is no leak, and with
    # one worker the threads can be counted exactly. A close that never let go of it would block the next one.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    gc.collect()  # what other tests have left open
    counts = []
    for _ in range(12):
        alice = Rpc(await ZmqTransport.open(ALICE, listen="tcp://127.0.0.1:0"))
        bob = Rpc(await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0"))
        for rpc in (alice, bob):
            rpc.start()
        alice.transport.introduce(bob.transport.contact)
        await alice.ping(BOB.peer_id, timeout_s=5)
        async with asyncio.timeout(5):
            await alice.close()
            await bob.close()
        with pytest.raises(PeerUnavailable):
            alice.notify(BOB.peer_id, Cancel(bytes(16)))
        counts.append((num_descriptors(), threading.active_count()))
    assert counts[-1] == counts[len(counts) // 2]


def test_routing_ids_are_not_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_routing_id(seed: bytes) -> bytes:
        monkeypatch.setattr(os, "urandom", lambda size: seed)
        sockets.seed_libzmq.cache_clear()
        context = sockets.open_context()
        router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        router.bind("inproc://here")
        dealer.connect("inproc://here")
        dealer.send(b"")
        routing_id = router.recv_multipart()[0]
        context.destroy(0)
        return routing_id

    try:
        assert first_routing_id(b"1234") == first_routing_id(b"1234") != first_routing_id(b"4321")
    finally:
        sockets.seed_libzmq.cache_clear()


@pytest.mark.parametrize("missing", ["bind_router", "open_monitor"])
async def test_a_node_that_had_no_descriptor_to_listen_with_listens_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    monkeypatch.setattr(router, "REBIND_S", 0.01)
    make, troubles = getattr(router, missing), [zmq.ZMQError(errno.EMFILE) for _ in range(3)]
    over = asyncio.Event()

    def bad_day(*arguments: Any) -> Any:
        if troubles:
            raise troubles.pop()
        over.set()
        return make(*arguments)

    monkeypatch.setattr(router, missing, bad_day)
    transport = bob.transport
    assert isinstance(transport, ZmqTransport) and transport._router is not None
    transport._router.rebind()
    async with asyncio.timeout(10):
        await over.wait()
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=10)

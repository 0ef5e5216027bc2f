"""Descriptors of one process, both ends of each link in it: a visit, a cut, a call in vain give back all they took."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Awaitable, Callable
from random import Random

import psutil
import pytest

from dsdnode.bench.proxy import Proxy
from dsdnode.engine.slow import Punctuality
from dsdnode.errors import DsdError
from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.messages import Contact

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no descriptors")

Start = Callable[..., Awaitable[Rpc]]
BOB = Identity(b"b" * 32)
NUM = 8


def num_descriptors() -> int:
    return int(psutil.Process().num_fds())


async def back_to(num: int) -> None:
    """libzmq closes what is closed in a thread of its own."""
    async with asyncio.timeout(20):
        while num_descriptors() > num:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def visit(host: Rpc, number: int) -> None:
    """Of a client, who has no address; with links for both lanes."""
    guest = Rpc(await ZmqTransport.open(Identity(bytes([number]) * 32)))
    guest.start()
    guest.transport.introduce(host.transport.contact)
    guest.warm(BOB.peer_id)
    await guest.ping(BOB.peer_id, timeout_s=10)
    await guest.close()


async def test_who_came_and_went_has_left_nothing(start: Start) -> None:
    bob = await start(b"b")
    gc.collect()  # what other tests have left open
    num = num_descriptors()
    await visit(bob, 1)
    await back_to(num)
    await asyncio.gather(*(visit(bob, 2 + number) for number in range(NUM)))
    await back_to(num)


async def test_links_that_are_cut_and_made_again_are_no_more_than_before(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    proxy = Proxy(Random(0), Punctuality())
    proxy.aim(int(bob.transport.contact.addresses[0].rpartition(":")[2]))
    alice.transport.introduce(Contact(BOB.public_key, (f"tcp://127.0.0.1:{proxy.port}",)))
    lost = asyncio.Event()
    alice.transport.on_peer_lost(lambda peer, why, at_s: lost.set())

    async def talk() -> None:
        """On both lanes."""
        async with asyncio.timeout(20):
            while len(proxy.links) < 2:
                with contextlib.suppress(DsdError):
                    alice.warm(BOB.peer_id)
                    await alice.ping(BOB.peer_id, timeout_s=10)
                await asyncio.sleep(0.02)

    try:
        await talk()
        gc.collect()  # what other tests have left open
        num = num_descriptors()
        for _ in range(NUM):
            lost.clear()
            for link in list(proxy.links):
                link.close()
            await lost.wait()
            await talk()
        await back_to(num)
    finally:
        proxy.close()


async def test_calls_in_vain_leave_nothing(start: Start) -> None:
    alice = await start(b"a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gc.collect()  # what other tests have left open
    num = num_descriptors()
    for number in range(NUM):
        somebody = Identity(bytes([100 + number]) * 32)
        alice.transport.introduce(Contact(somebody.public_key, (f"tcp://127.0.0.1:{port}",)))
        with pytest.raises(DsdError):
            await alice.ping(somebody.peer_id, timeout_s=10)
        await alice.transport.reach(somebody.peer_id, f"tcp://127.0.0.1:{port}")
    await back_to(num)

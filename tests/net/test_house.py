"""Alice's router gives her a port: where she tells others that she is reached, and when it is gone again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from dsdnode.identity import Identity
from dsdnode.net import house
from dsdnode.net.mapper import PortMapper
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import Contact
from tests.net.routers import PUBLIC_IP, FakeRouter, RouterSocket

ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)


@pytest.fixture
async def router(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeRouter]:
    fake = FakeRouter()
    server = await RouterSocket.open(fake)
    monkeypatch.setattr(house, "PortMapper", partial(PortMapper, router=server.address, announce_port=0))
    yield fake
    server.close()


async def test_the_port_that_her_router_gives_is_told_and_given_back(router: FakeRouter) -> None:
    alice = await ZmqTransport.open(ALICE, listen="tcp://0.0.0.0:0")
    told = asyncio.Event()
    alice.on_moved(told.set)
    async with asyncio.timeout(5):
        await told.wait()
    ((inside, outside),) = router.ports.items()
    first, *_, last = alice.contact.addresses
    assert first.endswith(f":{inside}") and last == f"tcp://{PUBLIC_IP}:{outside}"
    assert alice.why_no_port == ""
    await alice.close()
    assert router.ports == {}


async def test_alice_who_was_killed_gets_her_port_again(router: FakeRouter) -> None:
    """Her router goes on holding it for who had it. It is not given to bob, who has her address by now."""
    listen, had = "tcp://0.0.0.0:0", list[int]()
    for identity, is_given in ((ALICE, True), (ALICE, True), (BOB, False)):
        one = await ZmqTransport.open(identity, listen=listen)
        listen = f"tcp://0.0.0.0:{one.here[0].rpartition(':')[2]}"
        mapper = one._house._mapper
        async with asyncio.timeout(5):
            assert (await mapper.settled() is not None) is is_given, mapper.why_not
        had += router.ports.values()
        mapper.stop()
        await one.close()
    assert len(had) == 3 and len(set(had)) == 1


async def test_a_router_that_gives_none_is_named(router: FakeRouter) -> None:
    router.result = 2
    alice = await ZmqTransport.open(ALICE, listen="tcp://0.0.0.0:0")
    async with asyncio.timeout(5):
        while not alice.why_no_port:  # noqa: ASYNC110 (nobody tells of that)
            await asyncio.sleep(0.01)
    assert not any(PUBLIC_IP in address for address in alice.contact.addresses)
    await alice.close()


async def test_who_listens_where_the_user_says_asks_nobody(router: FakeRouter) -> None:
    for more in (
        {"listen": "tcp://127.0.0.1:0"},
        {"listen": "tcp://0.0.0.0:0", "advertise": ["tcp://192.0.2.1:29170"]},
    ):
        alice = await ZmqTransport.open(ALICE, **more)
        assert not alice.on_neighbour(lambda contact: None)
        await alice.close()
    assert router.heard == []


async def test_who_is_heard_in_the_house_is_called_there_and_nowhere_else(router: FakeRouter) -> None:
    met: list[Contact] = []
    alice = house.House(29170, Contact(ALICE.public_key, ("tcp://192.0.2.1:29170",)), ("open",), lambda: None)
    alice.on_neighbour(met.append)
    here, elsewhere = "tcp://192.0.2.7:29170", "tcp://192.0.2.8:29170"
    printer = tuple(f"tcp://192.0.2.7:{port}" for port in (631, 515, 80, 23))
    for addresses in ((elsewhere, here), (elsewhere,), ("http://x",), (), printer):
        alice._hear(encode_body(Contact(BOB.public_key, addresses)), "192.0.2.7")
    for junk in (b"", b"\xc1", encode_body(["x"]), bytes(700)):
        alice._hear(junk, "192.0.2.7")
    assert met == [Contact(BOB.public_key, (here,))]
    await alice.close()

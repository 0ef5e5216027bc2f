"""Alice's router is a real socket on loopback; who else is there may say what they like."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dsdnode.net import mapper, mapping
from dsdnode.net.mapper import PortMapper, gateway_of
from dsdnode.net.mapping import Mapped
from dsdnode.net.pcp import ANNOUNCE_GROUP, ANNOUNCE_PORT, SERVER_PORT
from tests.nat.lab import lab
from tests.nat.namespaces import inside, why_not
from tests.net.routers import PUBLIC_IP, FakeRouter, RouterSocket

PORT = 29170
HERS = (PUBLIC_IP, PORT)


class Alice:
    """`changes`: what she was told, host and port."""

    def __init__(self, router: tuple[str, int] | None, announce_port: int = 0) -> None:
        self.changes: list[tuple[str, int] | None] = []
        self.changed = asyncio.Event()
        self.mapper = PortMapper(PORT, self._on_change, router, announce_port)

    def _on_change(self, mapped: Mapped | None) -> None:
        self.changes.append((mapped.host, mapped.port) if mapped else None)
        self.changed.set()


@asynccontextmanager
async def at_home(router: FakeRouter) -> AsyncIterator[tuple[Alice, RouterSocket]]:
    server = await RouterSocket.open(router)
    alice = Alice(server.address)
    alice.mapper.start()
    try:
        async with asyncio.timeout(5):
            yield alice, server
            await alice.mapper.close()
    finally:
        server.close()


@pytest.mark.parametrize("speaks", [("PCP",), ("NAT-PMP",)])
async def test_alice_gets_a_port_and_gives_it_back(speaks: tuple[str, ...]) -> None:
    router = FakeRouter(speaks)
    async with at_home(router) as (alice, _):
        mapped = await alice.mapper.settled()
        assert (mapped.host, mapped.port) == HERS
        assert router.ports == {PORT: PORT}
    assert router.ports == {}
    assert alice.changes == [HERS]
    assert router.heard[-1][:2] in (b"\x02\x01", b"\x00\x02")


async def test_where_no_descriptor_is_left_for_news_alice_has_her_port_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """She may have been carried elsewhere just then, and has more to do."""
    router = FakeRouter()
    async with at_home(router) as (alice, _):
        alice.mapper.stop()
        left = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]

        def last(*_: int) -> socket.socket:
            if not left:
                raise OSError(errno.EMFILE, "Too many open files")
            return left.pop()

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", last)
            alice.mapper.start()
        assert await alice.mapper.settled() is not None and alice.mapper.announce_port is None


async def test_where_nobody_listens_alice_knows_it_before_a_second_question() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    alice = Alice(address)
    began = asyncio.get_running_loop().time()
    alice.mapper.start()
    async with asyncio.timeout(5):
        assert await alice.mapper.settled() is None
    assert asyncio.get_running_loop().time() - began < mapping.FIRST_WAIT_S
    assert alice.mapper.why_not == "no router answers that would give us a port"
    assert alice.changes == []
    await alice.mapper.close()


async def test_who_waits_for_a_silent_router_when_all_ends_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapper, "REMOVAL_WAITS_S", (0.0,))
    router = FakeRouter(speaks=())
    async with at_home(router) as (alice, server):
        await server.told.wait()
        waiting = asyncio.create_task(alice.mapper.settled())
        await asyncio.sleep(0)
        assert not waiting.done()
        await alice.mapper.close()
        assert await waiting is None
    assert [data[:2] for data in router.heard[:2]] == [b"\2\1", b"\0\0"]


async def test_what_others_than_the_router_say_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory is quicker, and knows what was asked; and she says that the router has started again."""
    monkeypatch.setattr(mapping, "AGAIN_S", 0.0)
    mallory = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mallory.bind(("127.0.0.2", 0))
    router = FakeRouter()
    router.epoch_s = 5
    async with at_home(router) as (alice, server):

        def mallory_first(answer: bytes) -> list[bytes]:
            mallory.sendto(answer.replace(bytes((11, 7, 7, 7)), bytes((11, 6, 6, 6))), server.asker)
            return [answer]

        router.garble = mallory_first
        await alice.mapper.settled()
        assert alice.changes == [HERS]
        server.told.clear()
        mallory.sendto(b"\0\x80\0\0\0\0\0\0\x0b\x07\x07\x07", ("127.0.0.1", alice.mapper.announce_port))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not server.told.is_set()
    mallory.close()


async def test_a_router_that_says_that_it_has_started_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "AGAIN_S", 0.0)
    router = FakeRouter()
    async with at_home(router) as (alice, server):
        await alice.mapper.settled()
        alice.changed.clear()
        router.ports, router.epoch_s, router.taken = {}, 0, {PORT}  # somebody else was quicker
        server.announce(alice.mapper.announce_port)
        await alice.changed.wait()
        assert router.ports == {PORT: PORT + 1}
    assert alice.changes == [HERS, (PUBLIC_IP, PORT + 1)]


@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
async def test_at_home_alice_asks_her_gateway_and_hears_that_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "AGAIN_S", 0.0)
    with lab() as town:
        home, router = town.home("prc"), FakeRouter()
        with inside(home.router):
            server = await RouterSocket.open(router, (home.gateway, SERVER_PORT))
        with home.inside():
            alice = Alice(None, ANNOUNCE_PORT)
            alice.mapper.start()
        async with asyncio.timeout(5):
            assert await alice.mapper.settled() == Mapped(PUBLIC_IP, PORT, mapping.LEASE_S)
            server.told.clear()
            router.epoch_s = 0
            server.announce(ANNOUNCE_PORT, ANNOUNCE_GROUP)
            await server.told.wait()
            await alice.mapper.close()
        server.close()
    assert router.ports == {}


async def test_in_another_network_there_is_another_router() -> None:
    async with at_home(FakeRouter(speaks=("NAT-PMP",))) as (alice, _):
        await alice.mapper.settled()
        alice.mapper.stop()
        assert alice.mapper.mapped is None
        alice.mapper.start()
        await alice.mapper.settled()
        assert alice.changes == [HERS, HERS]


async def test_the_router_that_holds_alice_s_port_knows_her_again_when_something_else_has_changed() -> None:
    """A temporary address of IPv6, say: she asks anew, as who she was. Another router does not hear of that."""
    first, second = FakeRouter(speaks=("PCP",)), FakeRouter(speaks=("PCP",))
    async with at_home(first) as (alice, server):
        other = await RouterSocket.open(second)
        for where in (server, server, other, server):
            alice.mapper._router = where.address
            alice.mapper.stop()
            alice.mapper.start()
            assert await alice.mapper.settled() is not None, alice.mapper.why_not
        await alice.mapper.close()
        other.close()
    asked = [list(dict.fromkeys(data[24:36] for data in one.heard if data[1])) for one in (first, second)]
    assert [len(one) for one in asked] == [1, 1] and asked[0] != asked[1]


def test_the_gateway_is_that_of_the_nearest_default_route() -> None:
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    lan = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    wifi = "wlan0\t00000000\t010AA8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
    wire = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
    assert gateway_of(head + lan + wifi + wire) == "192.168.1.1"
    assert gateway_of(head + lan + wifi) == "192.168.10.1"
    assert gateway_of(head + lan) is None
    assert (
        gateway_of(head + "eth0\t00000000\n" + "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n") is None
    )
    assert gateway_of("") is None

"""Alice's laptop gets addresses and loses them, in a network namespace; and where the kernel tells nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from dsdnode.net import interfaces
from dsdnode.net.interfaces import POLL_S, AddressWatch, Own, own_addresses
from tests.nat.namespaces import configure, inside, namespaces, why_not
from tests.node import jumping

HOME = Own("wlan0", "192.168.1.10", "192.168.1.0/24", "192.168.1.255")
HOME6 = Own("wlan0", "2a11:1::10", "2a11:1::/64")
CAFE = Own("wlan0", "10.9.0.7", "10.9.0.0/16", "10.9.255.255")
LINK_S = 5.0
"""Of links that come up the kernel itself tells once a second at most."""


@pytest.fixture
def laptop() -> Iterator[str]:
    """A namespace with the interface wlan0, which works, and eth0, into which nothing is plugged."""
    with namespaces() as add:
        name = add()
        for interface in ("wlan0", "eth0"):
            configure(name, f"link add {interface} type veth peer name {interface}there\nlink set {interface} up\n")
        configure(name, "link set wlan0there up\naddr add 192.168.7.7/24 dev eth0\n")
        yield name


@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_alice_is_carried_to_a_cafe_and_is_told_of_it_within_a_second(laptop: str) -> None:
    told: asyncio.Queue[tuple[Own, ...]] = asyncio.Queue()
    with inside(laptop):
        watch = AddressWatch(told.put_nowait)
        assert watch.addresses == ()
        configure(laptop, "addr add 192.168.1.10/24 broadcast + dev wlan0\naddr add 2a11:1::10/64 dev wlan0 nodad\n")
        assert await asyncio.wait_for(told.get(), LINK_S) == (HOME, HOME6)
        configure(laptop, "addr flush dev wlan0\naddr add 10.9.0.7/16 broadcast + dev wlan0\n")
        assert await asyncio.wait_for(told.get(), 1.0) == (CAFE,)
        configure(laptop, "link set wlan0 down\n")
        assert await asyncio.wait_for(told.get(), LINK_S) == ()
        configure(laptop, "link add another type bridge\nlink set lo down\nlink set wlan0 up\n")
        assert await asyncio.wait_for(told.get(), LINK_S) == (CAFE,), "what changes no address is not told"
        watch.close()
    assert told.empty()


async def test_of_this_machine_there_are_no_loopback_and_no_zones() -> None:
    for own in own_addresses():
        assert not own.host.startswith(("127.", "fe80:", "::1"))
        assert "%" not in own.host


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="netlink is Linux's")
async def test_more_news_than_is_read_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    ours.setblocking(False)
    monkeypatch.setattr(interfaces, "_open_news", lambda: ours)
    monkeypatch.setattr(interfaces, "SETTLE_S", 0.0)
    reads: list[tuple[Own, ...]] = [(), (HOME,), (HOME,)]
    told: asyncio.Queue[tuple[Own, ...]] = asyncio.Queue()
    watch = AddressWatch(told.put_nowait, lambda: reads.pop(0))
    for _ in range(100):
        theirs.send(b"whatever")
    assert await asyncio.wait_for(told.get(), 1.0) == (HOME,)
    watch.close()
    theirs.close()


def test_where_the_kernel_tells_nothing_addresses_are_looked_at_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "_open_news", lambda: None)
    reads: list[tuple[Own, ...]] = [(HOME,), (HOME,), (CAFE,), (CAFE,), ()]
    told: list[tuple[Own, ...]] = []

    async def story() -> None:
        watch = AddressWatch(told.append, lambda: reads.pop(0) if len(reads) > 1 else reads[0])
        await asyncio.sleep(10 * POLL_S)
        watch.close()
        reads[:] = [(HOME,)]
        await asyncio.sleep(10 * POLL_S)

    jumping.run(story())
    assert told == [(CAFE,), ()]

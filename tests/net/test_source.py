"""Whose network a connection is of, and which connections fill the memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import pytest

from dsdnode.accounts import Account
from dsdnode.addresses import machine_of, network_of
from dsdnode.identity import Identity
from dsdnode.net.door import Door
from dsdnode.net.filling import Unseen, culprits
from dsdnode.net.router import Router
from dsdnode.net.rpc import Rpc
from dsdnode.wire.messages import Ping

ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.254", "192.0.3.1"),
        ("10.1.2.3", "::ffff:10.1.2.9", "10.1.3.3"),
        ("2001:db8:1::1", "2001:db8:1:00ff::9", "2001:db8:1:100::1"),
        ("127.0.0.1", "127.0.0.9", "192.168.0.1"),
        ("fe80::1", "fe80::2", "fd00::1"),
        ("", "nonsense", "127.0.0.1"),
    ],
)
def test_a_network_is_what_one_stranger_can_have_all_of(one: str, same: str, other: str) -> None:
    assert network_of(one) == network_of(same) != network_of(other)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::9", "2001:db8:1:2::1"),
        ("fe80::1%eth0", "fe80::2", "fe80:0:0:1::1"),
        ("", "nonsense", "127.0.0.1"),
    ],
)
def test_an_address_is_what_one_machine_has_all_of(one: str, same: str, other: str) -> None:
    assert machine_of(one) == machine_of(same) != machine_of(other)


async def test_both_ends_of_a_connection_see_where_the_other_is(start: Callable[..., Awaitable[Rpc]]) -> None:
    bob, alice = await start(b"b"), await start(b"a", listen=None)
    assert bob.account_of(ALICE.peer_id) == Account(ALICE.peer_id, "")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    assert bob.account_of(ALICE.peer_id) == Account(ALICE.peer_id, "127.0.0.0/24", "127.0.0.1")
    assert alice.account_of(BOB.peer_id).network == "127.0.0.0/24"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what a connection has received")
async def test_whose_messages_all_arrived_has_filled_nothing(
    start: Callable[..., Awaitable[Rpc]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they were: what was seen is counted to the byte."""
    monkeypatch.setattr("dsdnode.net.filling.MAX_UNSEEN_BYTES", 2000)  # a handshake
    bob, alice = await start(b"b"), await start(b"a")
    alice.transport.introduce(bob.transport.contact)
    for size in (0, 10, 300, 70_000):
        for _ in range(20):
            alice.notify(BOB.peer_id, Ping(), [bytes(size)] * 3)
    await alice.ping(BOB.peer_id, timeout_s=5)
    async with asyncio.timeout(5):
        await alice.ping(BOB.peer_id, timeout_s=5)
    router: Router = bob.transport._router  # type: ignore[attr-defined]
    assert router.lobby.num_peers == 1
    assert router.drop_fillers() is None


def test_of_the_network_that_has_filled_most_all_that_have_filled_something_are_culprits() -> None:
    door = Door(1, "192.0.2.1", "192.0.2.2", 1)
    hers = [Unseen(door, "hers", num_bytes) for num_bytes in (40, 41, 0)]
    assert culprits([*hers, Unseen(door, "elsewhere", 50), Unseen(door, "elsewhere", 0)]) == hers[:2]
    assert culprits([Unseen(door, "hers", 0)]) == culprits([]) == []

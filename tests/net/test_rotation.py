"""A swarm changes its key while everybody stays connected, over real sockets; whoever is not told is out at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc

Start = Callable[..., Awaitable[Rpc]]
OLD, NEW = "the old key of our swarm", "the new key of our swarm"


async def reaches(caller: Rpc, name: bytes, callee: Rpc) -> str:
    """Empty when the callee answers; else why not."""
    caller.transport.introduce(callee.transport.contact)
    try:
        async with asyncio.timeout(5):
            await caller.ping(Identity(name * 32).peer_id, timeout_s=60)
    except PeerUnavailable as error:
        return str(error)
    return ""


@pytest.mark.parametrize("order", [(NEW, OLD), (OLD, NEW)])
async def test_in_the_middle_of_a_rotation_all_reach_each_other(start: Start, order: tuple[str, str]) -> None:
    """Bob has restarted with both, alice not yet; carol is done already."""
    alice, bob = await start(b"a", swarm_keys=(OLD,)), await start(b"b", swarm_keys=order)
    carol = await start(b"c", swarm_keys=(NEW,))
    assert await reaches(bob, b"a", alice) == "" and await reaches(bob, b"c", carol) == ""
    again = await start(b"d", swarm_keys=order)
    assert await reaches(alice, b"d", again) == "" and await reaches(carol, b"d", again) == ""
    assert await reaches(again, b"b", bob) == ""


async def test_who_is_not_given_the_new_key_is_removed(start: Start) -> None:
    mallory, bob = await start(b"m", swarm_keys=(OLD,)), await start(b"b", swarm_keys=(NEW,))
    assert "wrong swarm key" in await reaches(mallory, b"b", bob)
    assert "wrong swarm key" in await reaches(bob, b"m", mallory)
    stubborn = await start(b"n", swarm_keys=(OLD, "a guess at the new key"))
    assert "wrong swarm key" in await reaches(stubborn, b"b", bob)
    assert stubborn.transport.refused_by(Identity(b"b" * 32).peer_id)
    friend = await start(b"f", swarm_keys=(NEW,))
    assert await reaches(friend, b"b", bob) == ""


async def test_an_open_swarm_takes_neither(start: Start) -> None:
    bob = await start(b"b")
    alice = await start(b"a", swarm_keys=(NEW, OLD))
    assert "no swarm key" in await reaches(alice, b"b", bob)

"""Two laptops in one house: they find each other though nobody was named, and strangers of other swarms do not."""

from __future__ import annotations

import asyncio

import pytest

from dsdnode.identity import Identity
from dsdnode.net.zmq import ZmqTransport
from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not
from tests.swarm.test_joining import Member

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft")),
]
KEY, OTHER = "a key of this swarm that is long", "a key of another that is as long"


async def starts(host: Host, name: bytes, *swarm_keys: str, port: int = 29170) -> Member:
    """All that it does is done at its host."""
    identity = Identity(name * 32)
    with host.inside():
        transport = await ZmqTransport.open(identity, listen=f"tcp://0.0.0.0:{port}", swarm_keys=swarm_keys)
        return Member(identity, transport)


async def test_two_laptops_of_a_house_find_each_other_and_mallory_s_swarm_does_not() -> None:
    with lab() as town:
        home = town.home("prc", num_hosts=3)
        alice = await starts(home, b"a", KEY)
        assert alice.rpc.transport.contact.addresses == ("tcp://192.168.1.10:29170",)
        mallory = await starts(home.others[0], b"m", OTHER)
        alone = await asyncio.gather(*(one.discovery.joined_in_the_house() for one in (alice, mallory)))
        assert alone == [False, False]
        bob = await starts(home.others[1], b"b", KEY)
        assert await bob.discovery.joined_in_the_house()
        async with asyncio.timeout(5):
            while not bob.discovery.table.is_live(alice.id):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not mallory.discovery.known_peers()
        for one in (alice, mallory, bob):
            await one.close()


async def test_two_nodes_of_one_machine_find_each_other() -> None:
    with lab() as town:
        home = town.home("prc")
        alice, bob = await starts(home, b"a"), await starts(home, b"b", port=29171)
        assert await bob.discovery.joined_in_the_house()
        for one in (alice, bob):
            await one.close()

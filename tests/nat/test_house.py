"""Two laptops in one house: they find each other though nobody was named, and strangers of other swarms do not."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm.discovery import Discovery
from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft")),
]
KEY, OTHER = "a key of this swarm that is long", "a key of another that is as long"


class Laptop:
    """A node that offers nothing. All that it does is done at its host."""

    def __init__(self, identity: Identity, transport: ZmqTransport) -> None:
        self.id = identity.peer_id
        self.rpc = Rpc(transport)
        self.discovery = Discovery(self.rpc, identity, Random(1))
        self.rpc.start()
        self.discovery.start()

    @classmethod
    async def starts(cls, host: Host, name: bytes, *swarm_keys: str, port: int = 29170) -> Laptop:
        identity = Identity(name * 32)
        with host.inside():
            listen = f"tcp://0.0.0.0:{port}"
            return cls(identity, await ZmqTransport.open(identity, listen=listen, swarm_keys=swarm_keys))

    async def close(self) -> None:
        await self.discovery.close()
        await self.rpc.close()


async def test_two_laptops_of_a_house_find_each_other_and_mallory_s_swarm_does_not() -> None:
    with lab() as town:
        home = town.home("prc", num_hosts=3)
        alice = await Laptop.starts(home, b"a", KEY)
        assert alice.rpc.transport.contact.addresses == ("tcp://192.168.1.10:29170",)
        mallory = await Laptop.starts(home.others[0], b"m", OTHER)
        alone = await asyncio.gather(*(one.discovery.joined_in_the_house() for one in (alice, mallory)))
        assert alone == [False, False]
        bob = await Laptop.starts(home.others[1], b"b", KEY)
        assert await bob.discovery.joined_in_the_house()
        assert bob.discovery.table.is_live(alice.id)
        assert not mallory.discovery.known_peers()
        for one in (alice, mallory, bob):
            await one.close()


async def test_two_nodes_of_one_machine_find_each_other() -> None:
    with lab() as town:
        home = town.home("prc")
        alice, bob = await Laptop.starts(home, b"a"), await Laptop.starts(home, b"b", port=29171)
        assert await bob.discovery.joined_in_the_house()
        for one in (alice, bob):
            await one.close()

"""Whole transports of this process, each in a home of its own: as a test of anything that is to get through routers."""

from __future__ import annotations

import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.messages import Contact
from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not

ALICE, BOB, CAROL = (Identity(name * 32) for name in (b"a", b"b", b"c"))


async def at(host: Host, identity: Identity) -> Rpc:
    """Its threads are begun at the host, so all that they do is done there."""
    with host.inside():
        rpc = Rpc(await ZmqTransport.open(identity, listen="tcp://0.0.0.0:29170", advertise=[f"tcp://{host.ip}:29170"]))
    rpc.start()
    return rpc


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
async def test_carol_is_called_from_behind_two_routers_and_answers_by_that_link_alone() -> None:
    with lab() as town:
        homes = town.home("cgn"), town.home("prc"), town.home("public")
        alice, bob, carol = [await at(*one) for one in zip(homes, (ALICE, BOB, CAROL), strict=True)]
        alice.transport.introduce(carol.transport.contact)
        await alice.ping(CAROL.peer_id, timeout_s=5)
        assert carol.account_of(ALICE.peer_id).address == homes[0].public_ip
        await carol.ping(ALICE.peer_id, timeout_s=5)
        bob.transport.introduce(Contact(ALICE.public_key, (f"tcp://{homes[0].public_ip}:29170",)))
        with pytest.raises(PeerUnavailable):
            await bob.ping(ALICE.peer_id, timeout_s=0.3)
        for rpc in (alice, bob, carol):
            await rpc.close()

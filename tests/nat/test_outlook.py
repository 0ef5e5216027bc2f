"""Alice's router counts, bob's lets everybody in: both hear from carol and dave how their ports look from outside."""

from __future__ import annotations

import pytest

from dsdnode.identity import Identity
from dsdnode.net.nat import Kind, Nat
from dsdnode.net.outlook import Outlook
from dsdnode.net.rpc import Rpc
from dsdnode.wire.messages import Contact
from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not
from tests.nat.test_transports import ALICE, BOB, CAROL, at

DAVE = Identity(b"d" * 32)


def outlook_of(rpc: Rpc) -> Outlook:
    assert rpc.transport.outlook is not None
    return rpc.transport.outlook


async def looks(home: Host, rpc: Rpc, others: list[Rpc]) -> Nat:
    ids = []
    for other, identity in zip(others, (CAROL, DAVE), strict=True):
        rpc.transport.introduce(other.transport.contact)
        await rpc.ping(identity.peer_id, timeout_s=5)
        ids.append(identity.peer_id)
    outlook = outlook_of(rpc)
    with home.inside():  # sockets of Python live where they are made
        outlook.look(0.0, ids)
        assert outlook._looking is not None
        await outlook._looking
    return outlook.nat


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
async def test_alice_learns_that_ports_are_counted_and_bob_where_everybody_reaches_him() -> None:
    with lab() as town:
        homes = town.home("symseq"), town.home("cone"), town.home("public"), town.home("public")
        alice, bob, *others = [await at(*one) for one in zip(homes, (ALICE, BOB, CAROL, DAVE), strict=True)]
        assert await looks(homes[0], alice, others) == Nat(Kind.COUNTING, 1)
        outside = f"tcp://{homes[1].public_ip}:29170"
        assert await looks(homes[1], bob, others) == Nat(Kind.SAME, address=outside)
        assert not outlook_of(bob).is_open, "only those have called him whom he had called"
        await alice.transport.visit(Contact(BOB.public_key, (outside,)), CAROL.peer_id)
        assert outlook_of(bob).is_open and not list(bob.transport.linked())[2:], "she is no link"
        for rpc in (alice, bob, *others):
            await rpc.close()

"""Who cannot be called, or by way of a relay alone, is a client of the DHT (at scale: tests/sim/unreachable.py)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from dsdnode.dht.ids import MODELS_KEY, node_id
from dsdnode.identity import Identity
from dsdnode.net.rpc import Response
from dsdnode.net.zmq import ZmqTransport
from dsdnode.sim import loop as jumping
from dsdnode.swarm import homes
from dsdnode.swarm.reach import Verdict
from dsdnode.wire.messages import Announce, Contact, FindMe, Reached, Refused
from dsdnode.wire.records import sign_record
from tests.net.detours import router_of
from tests.sim.town import Town
from tests.sim.unreachable import Outskirts, Terms, run
from tests.swarm.test_homes import found, offer
from tests.swarm.test_joining import KEYS, Begin, Member, begin, elsewhere, until

__all__ = ["begin"]
CONFIRM_S = 60.0


@pytest.mark.parametrize("kind", ["unreached", "relayed"])
def test_lookups_find_though_two_thirds_are_clients(kind: str) -> None:
    figures = run(Terms(nodes=18, kind=kind, lookups=20, settle_s=20, idle_s=5))
    assert figures.found == 1.0 and figures.num_named == 0
    assert figures.per_callee.most <= 1, "no circuit but for those who announced or asked where they are reached"


def test_who_joins_by_one_who_is_relayed_knows_those_whom_that_one_names() -> None:
    async def story() -> None:
        town = Outskirts(Terms(nodes=4, share=0.25, kind="relayed"))
        await town.come()
        newcomer, relayed = town.add(False), town.people[3]
        await newcomer.discovery.join([relayed.contact], timeout_s=30)
        await asyncio.sleep(2)
        known = [node_id(contact) for contact in newcomer.discovery.table.contacts()]
        assert sorted(known) == sorted(one.identity.peer_id for one in town.direct)
        await town.close()

    jumping.run(story())


def test_whom_nobody_can_call_any_more_is_named_no_more_though_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carol's router has been replaced. She still calls others, over connections of her own."""
    monkeypatch.setattr(homes, "CONFIRM_S", CONFIRM_S)

    async def story() -> None:
        town = Town(1)
        await town.join_all(3, 1)
        alice, bob, carol = town.people
        await asyncio.sleep(10)
        assert all(one.discovery.table.is_live(carol.identity.peer_id) for one in (alice, bob))
        carol.transport.dialable = False
        for one in (alice, bob):
            for link in one.transport.links_to(carol.identity.peer_id):
                town.network.break_link(link, "her router", 0.0, 0.0)
            await asyncio.sleep(0.01)  # both have seen it
            await carol.rpc.ping(one.identity.peer_id, timeout_s=5)
        await asyncio.sleep(2 * CONFIRM_S)
        await carol.rpc.ping(alice.identity.peer_id, timeout_s=5)
        assert not any(one.discovery.table.is_live(carol.identity.peer_id) for one in (alice, bob))
        assert len(carol.discovery.table) == 2
        await town.close()

    jumping.run(story())


async def test_who_is_not_reached_names_no_address_offers_nothing_and_holds_nothing(begin: Begin) -> None:
    """Dave's router lets nobody in. He still finds what alice offers."""
    bob, alice, dave = await begin("bob"), await begin("alice"), await begin("dave", advertise=[elsewhere()])
    await alice.join(bob.contact)
    alice.discovery.provide(lambda: [offer(alice.contact)])
    await alice.discovery.announced()
    dave.discovery.provide(lambda: [offer(dave.contact)])
    await dave.join(bob.contact)
    await until(lambda: dave.discovery.reach.verdict is Verdict.UNREACHED)
    await until(lambda: told(bob) == {alice.id})
    assert not bob.discovery.table.is_live(dave.id) and await found(dave) == {alice.id}
    signed = sign_record(KEYS["alice"], offer(alice.contact))
    answer, _ = await alice.rpc.request(dave.id, Announce(MODELS_KEY), [signed], timeout_s=5)
    assert isinstance(answer, Refused)
    carol = await begin("carol")
    await dave.join(carol.contact)
    await until(lambda: carol.rpc.transport.contact_of(dave.id) is not None)
    assert carol.rpc.transport.contact_of(dave.id) == Contact(dave.contact.public_key)


async def test_who_is_called_all_the_same_is_no_client_whatever_mallory_says(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """She and her friends tell dave that they do not reach him, so that he takes his offer back."""

    async def lies(peer: bytes, message: FindMe, buffers: list[bytes]) -> Response:
        return Reached("", (), message.addresses), ()

    monkeypatch.setattr("dsdnode.net.router.leads_here", lambda host: False)
    mallory, dave = await begin("mallory"), await begin("dave")
    mallory.rpc.on_request(FindMe, lies)
    dave.discovery.provide(lambda: [offer(dave.contact)])
    await dave.join(mallory.contact)
    await until(lambda: dave.discovery.reach.verdict is Verdict.UNREACHED and dave.id not in told(dave))
    bob = await begin("bob")
    await bob.join(dave.contact)
    await until(lambda: dave.id in told(dave) and bob.discovery.table.is_live(dave.id))
    assert await found(bob) == {dave.id}


async def test_all_whom_dave_knows_learn_at_once_that_he_is_reached_now(begin: Begin) -> None:
    """He asks three of them whether they reach him; the others have been greeted by somebody whom nobody reaches."""
    bob, dave = await begin("bob"), await begin("dave", advertise=[elsewhere()])
    others = [bob, *[await begin(Identity(b"%32d" % number)) for number in range(4)]]
    await dave.join(*(one.contact for one in others))
    await until(lambda: dave.discovery.reach.verdict is Verdict.UNREACHED)
    transport = dave.rpc.transport
    assert isinstance(transport, ZmqTransport)
    for one in others:
        transport._links.drop_dealers(transport._links.book.meet(one.contact.public_key))
    await until(lambda: transport._handshake.named == ())
    for one in others:
        await dave.rpc.ping(one.id, timeout_s=5)
    contact = Contact(dave.contact.public_key, (f"tcp://127.0.0.1:{router_of(transport).port}",))
    transport._handshake = transport._links.handshake = replace(transport._handshake, contact=contact)
    for moved in transport._on_moved:
        moved()
    await until(lambda: all(one.discovery.table.is_live(dave.id) for one in others))


def told(holder: Member) -> set[bytes]:
    """Whose offers it holds."""
    now = asyncio.get_running_loop().time()
    return {one.peer_id for one, _ in holder.discovery.store.get(MODELS_KEY, now) if not one.withdrawn}

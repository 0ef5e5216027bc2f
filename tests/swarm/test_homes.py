"""What providers say of where they live, over real sockets: who tells the truth is found, and nobody is led astray."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest

from dsdnode.dht.ids import MODELS_KEY, node_id
from dsdnode.dht.store import record_keys
from dsdnode.errors import DsdError
from dsdnode.identity import Identity
from dsdnode.net.dials import PER_TEACHER_AND_TARGET
from dsdnode.net.port import Sighting
from dsdnode.swarm.catalogue import describe_models, describe_peers
from dsdnode.swarm.homes import MAX_CALLED, MAX_OF_A_PLACE, MAX_VERIFYING, Homes
from dsdnode.swarm.pings import Pings
from dsdnode.swarm.queries import Tasks
from dsdnode.wire.messages import Announce, Contact
from dsdnode.wire.records import ProviderRecord, sign_record
from tests.swarm.test_joining import Begin, Member, begin, elsewhere, until

__all__ = ["begin"]
NUM_NAMES = 8


def offer(contact: Contact, sequence: int = 1) -> ProviderRecord:
    names = "ab" * 32, "fake", "demo"
    return ProviderRecord(
        contact.public_key, contact.addresses, "shard", *names, 0, 8, 8, "cd" * 32, 8, 8, 8, 1, sequence=sequence
    )  # fmt: skip


def mallory(name: int) -> Identity:
    return Identity(b"mallory %24d" % name)


async def announces(begin: Begin, holder: Member, identity: Identity, addresses: tuple[str, ...]) -> Member:
    """Under all keys, as its record is: `addresses` are its own word."""
    liar: Member = await begin(identity)
    liar.rpc.transport.introduce(holder.contact)
    record = offer(Contact(identity.public_key, addresses))
    for key in record_keys(record):
        with suppress(DsdError):  # she does not wait so long
            await liar.rpc.request(holder.id, Announce(key), (sign_record(identity, record),), timeout_s=3)
    return liar


async def found(asker: Member) -> set[bytes]:
    return {record.peer_id for record in await asker.discovery.find_providers(MODELS_KEY)}


class Victim:
    """Somebody who listens, and is no peer."""

    def __init__(self) -> None:
        self.num_calls = 0

    async def listens(self) -> str:
        self._server = await asyncio.start_server(self._called, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_calls += 1
        writer.close()

    @contextmanager
    def leaves(self) -> Iterator[None]:
        yield
        self._server.close()


async def test_a_provider_is_found_at_once_where_it_lives(begin: Begin) -> None:
    alice, bob, dave = await begin("alice"), await begin("bob"), await begin("dave")
    await dave.join(alice.contact)
    dave.discovery.provide(lambda: [offer(dave.contact)])
    await dave.discovery.announced()
    await bob.join(alice.contact)
    assert await found(bob) == {dave.id}


@pytest.mark.parametrize("claim", ["nobody's", "carol's", "a victim's", "his own and a victim's", "a name's"])
async def test_a_provider_is_not_found_where_it_does_not_live(begin: Begin, claim: str) -> None:
    victim = Victim()
    alice, bob, carol = await begin("alice"), await begin("bob"), await begin("carol")
    own, theirs = elsewhere(), await victim.listens()
    addresses = {
        "nobody's": (elsewhere(),),
        "carol's": carol.contact.addresses,
        "a victim's": (theirs,),
        "his own and a victim's": (own, theirs),
        "a name's": ("tcp://no.invalid:5000",),
    }[claim]
    with victim.leaves():
        liar = await begin(mallory(0), own)
        liar.rpc.transport.introduce(alice.contact)
        record = offer(Contact(mallory(0).public_key, addresses))
        await liar.rpc.request(alice.id, Announce(MODELS_KEY), (sign_record(mallory(0), record),), timeout_s=5)
        before = victim.num_calls
        await bob.join(alice.contact)
        assert await found(bob) == set()
        assert victim.num_calls - before == 0, "bob has not heard of it"


async def test_who_claims_carol_s_address_does_not_keep_others_from_calling_her(begin: Begin) -> None:
    """What bob may try at one address on alice's word is not used up by names that do not live there."""
    alice, carol, bob = await begin("alice"), await begin("carol"), await begin("bob")
    for number in range(NUM_NAMES):
        await announces(begin, alice, mallory(number), carol.contact.addresses)
    await carol.join(alice.contact)
    carol.discovery.provide(lambda: [offer(carol.contact)])
    await carol.discovery.announced()
    await bob.join(alice.contact)
    pings = Pings(bob.rpc)
    [model] = await describe_models(bob.discovery, pings)
    assert model.complete
    assert model.coverage[0].replicas == 1
    await pings.close()


async def test_a_provider_that_is_gone_for_a_while_still_has_its_record(begin: Begin) -> None:
    """Its replies wait for it: who asks must learn whom to wait for."""
    alice, bob, dave = await begin("alice"), await begin("bob"), await begin("dave")
    await dave.join(alice.contact)
    dave.discovery.provide(lambda: [offer(dave.contact)])
    await dave.discovery.announced()
    await dave.close()
    await until(lambda: bool(alice.rpc.transport.trouble_with(dave.id)))
    with suppress(DsdError):
        await alice.rpc.ping(dave.id, timeout_s=5)
    # The word that the connection ended may end that ping before the call that it began has come to its end.
    await until(lambda: not alice.rpc.transport.sighting(dave.id).reached)
    await bob.join(alice.contact)
    assert await found(bob) == {dave.id}


async def test_who_looks_at_all_models_calls_nobody_beyond_the_budget(begin: Begin) -> None:
    """Alice holds mallory's records herself; looking at what there is calls a victim no oftener than anything does."""
    victim, alice = Victim(), await begin("alice")
    theirs = await victim.listens()
    with victim.leaves():
        for number in range(NUM_NAMES):
            liar = await announces(begin, alice, mallory(number), (theirs,))
            await liar.close()
        pings = Pings(alice.rpc)
        for _ in range(3):
            await describe_models(alice.discovery, pings)
            await describe_peers(alice.discovery, pings)
        await pings.close()
        assert 0 < victim.num_calls <= NUM_NAMES * PER_TEACHER_AND_TARGET


class Slow:
    """A transport of somebody who calls carol: at SILENT's host that takes a while, and is in vain."""

    contact = Contact(mallory(2).public_key, ())

    def __init__(self) -> None:
        self.called, self.reached = list[str](), list[str]()
        self.going_on = asyncio.Event()
        self.is_allowed = True
        self.sources: dict[bytes, str] = {}

    def source_of(self, peer: bytes) -> str:
        return self.sources.get(peer, "")

    def sighting(self, peer: bytes) -> Sighting:
        return Sighting(tuple(self.reached))

    async def reach(self, peer: bytes, address: str, anew: bool = False) -> bool:
        self.called.append(address)
        if address.startswith("tcp://192.0.2.1:"):
            await self.going_on.wait()
        else:
            self.reached.append(address)
        return self.is_allowed


CAROL = mallory(1).public_key
SILENT, OPEN = "tcp://192.0.2.1:29170", "tcp://192.0.2.2:29170"


async def nothing(contact: Contact) -> None:
    """Nobody listens."""


def homes_of(transport: Slow) -> Homes:
    return Homes(cast(Any, transport), Tasks(), nothing)


async def test_who_claims_one_address_more_while_the_others_are_called_has_that_one_called_at_once() -> None:
    """Carol asks where she is reached while what she announced before is still being called."""
    bob = Slow()
    homes = homes_of(bob)
    homes.call_soon(Contact(CAROL, (SILENT,)))
    await asyncio.sleep(0)
    await asyncio.wait_for(homes.called(Contact(CAROL, (OPEN,)), 60.0), 5)
    assert bob.called == [SILENT, OPEN] and homes.busy
    bob.going_on.set()
    await homes.called(Contact(CAROL, (SILENT, OPEN)), 60.0)
    assert not homes.busy


@pytest.mark.parametrize("host", ["11.1.1.{}", "192.168.1.66"], ids=["of a network", "of a machine in the house"])
async def test_mallory_s_many_names_do_not_keep_carol_from_being_called(host: str) -> None:
    bob, carol = Slow(), Contact(CAROL, (OPEN,))
    homes = homes_of(bob)
    bob.sources[node_id(carol)] = "192.168.1.67"
    for number in range(2, 2 + MAX_VERIFYING):
        name = Contact(mallory(number).public_key, (SILENT,))
        bob.sources[node_id(name)] = host.format(number)
        homes.call_soon(name)
    await asyncio.wait_for(homes.called(carol, 60.0), 5)
    assert bob.called == [*[SILENT] * MAX_OF_A_PLACE, OPEN]
    bob.going_on.set()


async def test_who_is_reached_somewhere_does_not_wait_for_silence_and_hears_of_it_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsdnode.swarm.homes.SETTLED_S", 0.01)
    bob, carol = Slow(), Contact(CAROL, (SILENT, OPEN))
    homes = homes_of(bob)
    assert await asyncio.wait_for(homes.tried(carol, 60.0), 5) == (OPEN,), "the other is still being called"
    bob.going_on.set()
    await homes.called(carol, 60.0)
    assert await homes.tried(carol, 60.0) == (SILENT, OPEN) and bob.called == [SILENT, OPEN], "just now"


async def test_what_could_not_be_called_was_not_tried() -> None:
    """She has used up what bob calls on her word."""
    bob, carol = Slow(), Contact(CAROL, (SILENT,))
    bob.is_allowed = False
    bob.going_on.set()
    assert await homes_of(bob).tried(carol, 60.0) == ()


async def test_one_peer_has_so_many_addresses_called_at_once() -> None:
    bob = Slow()
    homes = homes_of(bob)
    for number in range(MAX_CALLED + 1):
        homes.call_soon(Contact(CAROL, (f"tcp://192.0.2.1:{3000 + number}",)))
    await asyncio.sleep(0)
    assert len(bob.called) == MAX_CALLED
    bob.going_on.set()

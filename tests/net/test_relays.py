"""Bob is called by way of a relay: whoever comes counts for where he is, and is never taken for bob's own machine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from dsdnode.accounts import Account
from dsdnode.addresses import Nearness
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net import relays
from dsdnode.net.behind import Behind
from dsdnode.net.door import Door, said_by
from dsdnode.net.handshake import Handshake, derive_swarm_key
from dsdnode.net.relay.frames import Incoming, Reserved
from dsdnode.net.relay.server import Relay
from dsdnode.net.relays import Circuits, Relays
from dsdnode.net.router import Router
from dsdnode.net.rpc import Rpc
from dsdnode.net.zap import CONNECTIONS_BURST, REFUSAL_COST, Gate
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.codec import encode
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord, open_record, sign_record
from tests.net.conftest import SWARM_KEYS
from tests.net.relay.ends import ROSE

ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))
OWN = "11.9.9.9"
"""A public address of bob's machine."""


def router_of(rpc: Rpc) -> Router:
    router: Router = rpc.transport._router  # type: ignore[attr-defined]
    return router


async def relayed(bob: Rpc) -> str:
    """The address that his relay gives him."""
    relays = bob.transport.relays
    assert relays is not None
    async with asyncio.timeout(5):
        while not relays.given:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return relays.given[0]


@pytest.fixture
async def rose() -> AsyncIterator[Contact]:
    relay = await Relay.open(ROSE, "127.0.0.1", 0, swarm_keys=SWARM_KEYS)
    yield Contact(ROSE.public_key, (f"tcp://127.0.0.1:{relay.port}",))
    await relay.close()


@pytest.fixture
async def bob(rose: Contact, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rpc]:
    monkeypatch.setattr(relays, "leads_here", lambda host: host in (OWN, "127.0.0.1"))
    rpc = Rpc(await ZmqTransport.open(BOB, listen="tcp://0.0.0.0:0", swarm_keys=SWARM_KEYS))
    rpc.start()
    rpc.transport.relays.reserve(rose, ["127.0.0.1"])
    yield rpc
    await rpc.close()


@pytest.fixture
async def alice() -> AsyncIterator[Rpc]:
    rpc = Rpc(await ZmqTransport.open(ALICE, swarm_keys=SWARM_KEYS))
    rpc.start()
    yield rpc
    await rpc.close()


@pytest.mark.parametrize(
    ("said", "account"),
    [
        ("11.7.7.7", Account(ALICE.peer_id, "11.7.7.0/24", "11.7.7.7")),
        ("2a11:7::7", Account(ALICE.peer_id, "2a11:7::/56", "2a11:7::")),
        ("127.0.0.1", Account(ALICE.peer_id)),
        ("192.168.1.7", Account(ALICE.peer_id)),
        ("::ffff:10.0.0.1", Account(ALICE.peer_id)),
        ("0.0.0.0", Account(ALICE.peer_id)),
        (OWN, Account(ALICE.peer_id)),
    ],
)
async def test_alice_counts_for_where_the_relay_sees_her_and_never_as_bobs_neighbour(
    monkeypatch: pytest.MonkeyPatch, alice: Rpc, bob: Rpc, said: str, account: Account
) -> None:
    """Whatever it says: else she could name bob's own services to him."""
    monkeypatch.setattr("dsdnode.net.relay.server.Incoming", lambda token, host: Incoming(token, said))
    alice.transport.introduce(Contact(BOB.public_key, (await relayed(bob),)))
    await alice.ping(BOB.peer_id, timeout_s=5)
    assert bob.account_of(ALICE.peer_id) == account
    assert bob.transport.sighting(ALICE.peer_id).near is Nearness.WORLD
    sources = [source for source, _ in router_of(bob).lobby._peers.values()]
    assert sources == [said_by(ROSE.peer_id, account.network)]


async def test_alice_is_told_that_a_call_has_come_by_way_of_a_relay(alice: Rpc, bob: Rpc) -> None:
    """Bob himself says so, in his welcome: else she would name that address to all who look for anything. What he says
    of himself in a greeting leaves it out."""
    given, port = await relayed(bob), router_of(bob).port
    alice.transport.introduce(Contact(BOB.public_key, (given,)))
    await alice.ping(BOB.peer_id, timeout_s=5)
    assert alice.transport.sighting(BOB.peer_id).relayed == (given,) and not bob.transport.is_called
    here = f"tcp://127.0.0.1:{port}"
    alice.transport.introduce(Contact(BOB.public_key, (here,)))
    await alice.transport.reach(BOB.peer_id, here)
    sighting = alice.transport.sighting(BOB.peer_id)
    assert set(sighting.reached) == {given, here} and sighting.relayed == (given,)
    assert bob.transport.given == (given,) and bob.transport.relay_bytes_per_s > 0


async def test_bob_tells_of_his_relays_address_last_and_no_more_when_it_has_gone(rose: Contact, bob: Rpc) -> None:
    told: list[tuple[str, ...]] = []
    own = bob.transport.contact.addresses
    bob.transport.on_moved(lambda: told.append(bob.transport.contact.addresses))
    given = await relayed(bob)
    bob.transport.relays.leave(ROSE.peer_id)
    assert told == [(*own, given)[-4:], own] and bob.transport.relays.held == {}


HOME, OFFICE = "192.168.1.2", "10.0.0.2"


async def test_bob_who_moves_is_called_where_he_was_and_tells_nothing_else(rose: Contact, bob: Rpc) -> None:
    relays, given = bob.transport.relays, await relayed(bob)
    assert relays is not None
    told: list[tuple[str, ...]] = []
    bob.transport.on_moved(lambda: told.append(bob.transport.contact.addresses))
    assert not relays.moved([HOME]), "it is no address of his that he has lost"
    for hosts in ([], [OFFICE]):
        relays._held[ROSE.peer_id].agent.local = HOME
        assert relays.moved(hosts)
        relays.unreserved(rose, "the network is unreachable")
        assert relays.given == (given,), "it tries again"
        async with asyncio.timeout(5):
            while not relays._held[ROSE.peer_id].agent.local:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert relays.given == (given,) and told == []


async def test_a_relay_that_is_not_reached_from_where_bob_is_now_is_left(
    rose: Contact, bob: Rpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    relays, _ = bob.transport.relays, await relayed(bob)
    assert relays is not None
    monkeypatch.setattr("dsdnode.net.relays.RETURN_S", 0.0)
    relays._held[ROSE.peer_id].agent.local = HOME
    relays.moved([])
    relays.unreserved(rose, "the network is unreachable")
    assert relays.given, "wherever he is, he is not elsewhere yet"
    relays.moved([OFFICE])
    relays.unreserved(rose, "the relay does not answer")
    assert relays.given == () and relays.held == {}


@pytest.mark.parametrize("is_reserved", [False, True])
async def test_a_relay_that_dies_after_bob_is_back_is_left_though_he_heard_of_his_new_address_late(
    rose: Contact, bob: Rpc, monkeypatch: pytest.MonkeyPatch, is_reserved: bool
) -> None:
    """His agent has called it from there before the watch of his addresses told of any."""
    relays, _ = bob.transport.relays, await relayed(bob)
    assert relays is not None
    monkeypatch.setattr("dsdnode.net.relays.RETURN_S", 9999.0 if is_reserved else 0.0)
    agent = relays._held[ROSE.peer_id].agent
    agent.local = HOME
    relays.moved([])
    agent.local = OFFICE
    if is_reserved:
        relays.reserved(rose, Reserved(29172, 3600, 16, 1, 1))
    assert not relays.moved([OFFICE])
    relays.unreserved(rose, "the relay does not answer")
    assert relays.given == () and relays.held == {}


async def test_what_bob_s_user_has_said_comes_before_what_a_relay_gives(rose: Contact) -> None:
    said = tuple(f"tcp://192.0.2.{number}:29170" for number in range(4))
    rpc = Rpc(await ZmqTransport.open(BOB, listen="tcp://0.0.0.0:0", advertise=said, swarm_keys=SWARM_KEYS))
    assert rpc.transport.contact.addresses == said and rpc.transport.relays is not None
    rpc.transport.relays.reserve(rose, ["127.0.0.1"])
    given = await relayed(rpc)
    assert rpc.transport.contact.addresses == (*said[:3], given)
    rpc.transport.relays.leave(ROSE.peer_id)
    assert rpc.transport.contact.addresses == said
    await rpc.close()


async def test_a_port_of_a_machine_s_services_is_not_told(rose: Contact, bob: Rpc) -> None:
    """Who is told of it would be had to call there."""
    own, held = bob.transport.contact, bob.transport.relays
    assert held is not None
    held.reserved(rose, Reserved(22, 3600, 16, 1, 1))
    assert bob.transport.contact == own and held.held == {}


async def test_an_address_where_nobody_can_call_is_not_told(rose: Contact, bob: Rpc) -> None:
    """Mallory's relay says that it is there: bob's house would be kept no more, with that among his addresses."""
    own, held = bob.transport.contact, bob.transport.relays
    assert held is not None
    held._held[ROSE.peer_id].hosts = ("2a11:1::1%x", "11.1.1.1")
    held.reserved(rose, Reserved(29172, 3600, 16, 1, 1))
    assert held.given == ("tcp://11.1.1.1:29172",)
    held._held[ROSE.peer_id].hosts = ("2a11:1::1%x",)
    held.reserved(rose, Reserved(29172, 3600, 16, 1, 1))
    assert bob.transport.contact == own and held.held == {}


async def test_mallory_s_relay_that_promises_too_much_does_not_keep_bob_from_being_found(
    rose: Contact, bob: Rpc
) -> None:
    held = bob.transport.relays
    assert held is not None
    held.reserved(rose, Reserved(29172, 3600, 16, 1 << 53, 1))
    where, names, rate = bob.transport.contact.addresses, ("ab" * 32, "fake", "demo"), bob.transport.relay_bytes_per_s
    record = ProviderRecord(BOB.public_key, where, "shard", *names, 0, 4, 8, "cd" * 32, 8, 8, 8, 1)
    record = msgspec.structs.replace(record, relay_bytes_per_s=rate)
    assert open_record(sign_record(BOB, record)).relay_bytes_per_s == 1e12


async def test_a_relay_that_lets_nothing_through_is_none(rose: Contact, bob: Rpc) -> None:
    """With 0 bob's record would say that nobody needs a relay to call him."""
    held = bob.transport.relays
    assert held is not None
    held.reserved(rose, Reserved(29172, 3600, 16, 0, 1))
    assert held.given == () and held.bytes_per_s == 0.0 and held.held == {}


@pytest.mark.parametrize("hung_up_at_once", [False, True])
async def test_a_greeting_of_a_connection_that_is_over_is_nobodys(bob: Rpc, hung_up_at_once: bool) -> None:
    """Where it came from nobody can tell: it may have been a circuit. And its end has been told already."""
    router = router_of(bob)
    if hung_up_at_once:
        router._doors[9999] = Door(9999, "", "127.0.0.1", 1), 0.0
    keys = tuple(map(derive_swarm_key, SWARM_KEYS))
    hello = Handshake(Contact(ALICE.public_key, ()), keys).hello(BOB.public_key, bulk=False)
    router._greet(b"alice", ALICE.curve_public_key.hex(), 9999, encode(hello))
    assert not router._by_routing_id and bob.transport.sighting(ALICE.peer_id).near is Nearness.WORLD


async def test_a_circuit_is_remembered_for_a_while_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has said before may still be on its way to us."""
    circuits = Circuits()
    ours = Door(1, "127.0.0.1", "127.0.0.1", 1, port=4000, caller="127.0.0.1")
    other = Door(1, "11.2.2.2", "127.0.0.1", 1, port=4000, caller="11.2.2.2")
    circuits.begin(4000, "11.7.7.7", b"rose")
    circuits.end(4000)
    await asyncio.sleep(0.001)
    assert circuits.caller(ours) == ("11.7.7.7", b"rose") and circuits.caller(other) == ("11.2.2.2", b"")
    circuits.begin(4000, "11.7.7.8", b"rose")
    monkeypatch.setattr(relays, "PARTED_S", 0.0)
    circuits.end(4000)
    await asyncio.sleep(0.001)
    assert circuits.caller(ours) == ("127.0.0.1", b"") and len(circuits) == len(circuits._relays) == 0


async def test_a_flood_by_way_of_a_relay_uses_up_its_own_network_and_nobody_elses(bob: Rpc) -> None:
    gate = bob.transport._gate  # type: ignore[attr-defined]
    held = bob.transport.relays
    assert isinstance(held, Relays)
    admits = Behind(held, gate, ROSE.peer_id).admits
    num = sum(admits("11.7.7.7") for _ in range(2 * CONNECTIONS_BURST))
    assert CONNECTIONS_BURST <= num < CONNECTIONS_BURST + 9
    assert admits("11.7.8.8")
    gate.lock(asyncio.get_running_loop().time(), "11.7.8.0/24")
    assert not admits("11.7.8.8") and admits("11.7.9.9")
    assert Gate().admits_circuit(0.0, ROSE.peer_id, "")


async def test_whose_greeting_is_refused_by_way_of_a_relay_pays_there_alone(
    monkeypatch: pytest.MonkeyPatch, rose: Contact, bob: Rpc
) -> None:
    """That mallory calls from alice's address says rose, and nobody else. What alice has left is all that there is."""
    monkeypatch.setattr("dsdnode.net.relay.server.Incoming", lambda token, host: Incoming(token, "11.7.7.7"))
    gate: Gate = bob.transport._gate  # type: ignore[attr-defined]
    given, mallory = await relayed(bob), Rpc(await ZmqTransport.open(Identity(b"m" * 32), swarm_keys=("f" * 32,)))
    mallory.start()
    mallory.transport.introduce(Contact(BOB.public_key, (given,)))
    before = asyncio.get_running_loop().time()
    with pytest.raises(PeerUnavailable):
        await mallory.ping(BOB.peer_id, timeout_s=5)
    left = gate._circuits.left((ROSE.peer_id, "11.7.7.7"), before)
    assert len(gate._circuits) == 1 and CONNECTIONS_BURST - 2 * REFUSAL_COST < left <= CONNECTIONS_BURST - REFUSAL_COST
    assert gate._credits.left("11.7.7.7", before) == CONNECTIONS_BURST
    await mallory.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what a connection has received")
async def test_who_fills_bob_s_memory_by_way_of_a_relay_does_not_keep_those_out_who_are_where_it_says(
    monkeypatch: pytest.MonkeyPatch, rose: Contact, bob: Rpc
) -> None:
    """Rose says that mallory calls from alice's network. Nor does mallory take one of its places, here or in the table
    of the DHT, or pay from what it has for what she names."""
    monkeypatch.setattr("dsdnode.net.relay.server.Incoming", lambda token, host: Incoming(token, "11.7.7.7"))
    given, mallory = await relayed(bob), Rpc(await ZmqTransport.open(Identity(b"m" * 32), swarm_keys=SWARM_KEYS))
    mallory.start()
    mallory.transport.introduce(Contact(BOB.public_key, (given,)))
    await mallory.ping(BOB.peer_id, timeout_s=5)
    transport: Any = bob.transport
    ((source, _),) = router_of(bob).lobby._peers.values()
    known = transport._links.book.get(Identity(b"m" * 32).peer_id)
    assert "11.7.7.0/24" not in (source, known.as_teacher.account, *known.sighting().networks)
    monkeypatch.setattr("dsdnode.net.filling.MAX_UNSEEN_BYTES", -(1 << 20))
    assert transport._drop_fillers()
    gate, now = transport._gate, asyncio.get_running_loop().time()
    assert gate.admit(now, "11.7.7.7", ALICE.curve_public_key) == "" and gate.admits_circuit(now, b"bert", "11.7.7.7")
    assert not gate.admits_circuit(now, ROSE.peer_id, "11.7.7.8") and gate.admits_circuit(now, ROSE.peer_id, "11.7.8.8")
    await mallory.close()

"""Alice calls others from the port that she listens on, and hears how it looks from there."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from dsdnode.addresses import parse_address
from dsdnode.dht.ids import node_id
from dsdnode.net import listener, views
from dsdnode.net import outlook as outlooks
from dsdnode.net.call import Way
from dsdnode.net.link import Dealer, Inbound
from dsdnode.net.listener import CAN_SHARE
from dsdnode.net.nat import Kind, Nat
from dsdnode.net.outlook import DETOUR_S, MAX_LOOKS, Outlook
from dsdnode.net.peers import Peer
from dsdnode.net.port import OBSERVE, SEEN, LinkKind, Priority
from dsdnode.net.router import Router
from dsdnode.net.rpc import Rpc
from dsdnode.net.views import Place, View, seen_in
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.codec import encode
from dsdnode.wire.messages import Contact, Ping
from tests.net.conftest import SWARM_KEYS, Start

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="this system does not share ports")


@pytest.fixture(autouse=True)
def the_world_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each port of this machine is a network of its own."""

    def answering(peer: Peer) -> Iterator[tuple[str, int]]:
        for way in peer.reached.values():
            yield way.host, int(way.told.rpartition(":")[2])

    monkeypatch.setattr(outlooks, "_answering", answering)
    monkeypatch.setattr(Place, "network", property(lambda place: f"{place.port}"))
    monkeypatch.setattr(views, "may_name", lambda near, address: True)


class Alice:
    """On all addresses of her machine, and linked to the others."""

    def __init__(self, rpc: Rpc, others: dict[str, Rpc]) -> None:
        assert isinstance(rpc.transport, ZmqTransport) and rpc.transport.outlook is not None
        self.rpc, self.others, self.transport, self.outlook = rpc, others, rpc.transport, rpc.transport.outlook

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.transport._listens[1]}"

    def id_of(self, name: str) -> bytes:
        return node_id(self.others[name].transport.contact)

    async def looks(self, *names: str, now: float = 0.0) -> Nat:
        self.outlook.look(now, [self.id_of(name) for name in names])
        assert self.outlook._looking is not None
        await asyncio.wait_for(self.outlook._looking, 5)
        return self.outlook.nat

    def link_at(self, name: str) -> Inbound:
        """Her call to be looked at, as it is seen there."""
        transport = self.others[name].transport
        assert isinstance(transport, ZmqTransport) and transport._router is not None
        return next(one for one in transport._router._by_routing_id.values() if one.is_look)


@pytest.fixture
async def alice(start: Start) -> AsyncIterator[Alice]:
    names = "bob", "carol", "dave", "erin"
    others = {name: await start(name[:1].encode(), swarm_keys=SWARM_KEYS) for name in names}
    rpc = await start(b"a", listen="tcp://0.0.0.0:0", swarm_keys=SWARM_KEYS)
    for other in others.values():
        rpc.transport.introduce(other.transport.contact)
        await rpc.ping(node_id(other.transport.contact), timeout_s=5)
    yield Alice(rpc, others)


def others_see(monkeypatch: pytest.MonkeyPatch, port: Callable[[int], int]) -> None:
    """Her router's port for each call, by how many it has seen before."""
    seen: list[int] = []

    def see(self: Router, descriptor: int) -> tuple[str, ...]:
        seen.append(port(len(seen)))
        return (f"{SEEN}tcp://127.0.0.1:{seen[-1]}",)

    monkeypatch.setattr(Router, "_seen", see)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (nobody tells of these)
            await asyncio.sleep(0.01)


async def test_two_see_the_port_that_alice_listens_on_and_she_tells_others_of_it(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdnode.net.zmq.leads_here", lambda host: False)
    assert await alice.looks("bob") == Nat()
    assert alice.address not in alice.transport.contact.addresses
    assert await alice.looks("carol") == Nat(Kind.SAME, address=alice.address)
    assert alice.address in alice.transport.contact.addresses
    assert alice.outlook.is_due(0.0)
    await alice.looks("bob", "dave", "erin")
    assert len(alice.outlook._views) == MAX_LOOKS and not alice.outlook.is_due(0.0)


async def test_a_call_to_be_looked_at_is_no_link(alice: Alice) -> None:
    """Bob answers her over the one that there is, and hears nothing over the other."""
    await alice.looks("bob")
    inbound, bob = alice.link_at("bob"), alice.others["bob"]
    answered = bob.sent["Pong"].num
    (view,) = alice.outlook._views.values()
    assert view._dealer is not None
    view._dealer.send(encode(Ping(), request_id=7, deadline_ms=5000), Priority.CONTROL)
    await until(lambda: inbound.num_seen_bytes > 0)
    await bob.ping(node_id(alice.transport.contact), timeout_s=5)
    await alice.rpc.ping(alice.id_of("bob"), timeout_s=5)
    assert bob.sent["Pong"].num == answered + 1


@pytest.mark.parametrize(
    ("port", "nat"),
    [(lambda num: 20000 + num, Nat(Kind.COUNTING, 1)), (lambda num: 20000 + 1000 * num, Nat(Kind.RANDOM))],
    ids=("counting", "random"),
)
async def test_where_no_two_see_the_same_two_calls_more_tell_why_and_none_is_kept(
    alice: Alice, monkeypatch: pytest.MonkeyPatch, port: Callable[[int], int], nat: Nat
) -> None:
    others_see(monkeypatch, port)
    found = await alice.looks("bob", "carol")
    assert replace(found, step=abs(found.step)) == nat, "whose Welcome is written first is chance"
    assert not alice.outlook._views and not alice.outlook.is_due(1.0) and alice.outlook.is_due(601.0)
    assert await alice.looks("bob", now=601.0) == found, "one alone says nothing new"


async def test_who_does_not_say_what_he_sees_is_not_called_again_soon(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Router, "_seen", lambda self, descriptor: ())
    await alice.looks("bob")
    assert not alice.outlook._views and not alice.outlook._choose(599.0, [alice.id_of("bob")])
    assert alice.outlook._choose(600.0, [alice.id_of("bob")])


async def test_who_does_not_know_of_it_is_not_called(alice: Alice) -> None:
    known = alice.transport._links.book.get(alice.id_of("bob"))
    assert known is not None and OBSERVE in known.capabilities
    known.capabilities = tuple(one for one in known.capabilities if one != OBSERVE)
    assert not alice.outlook._choose(0.0, [alice.id_of("bob")])


async def test_mallory_who_says_something_over_it_is_hung_up_on(alice: Alice) -> None:
    await alice.looks("bob", "carol")
    alice.link_at("bob").send(encode(Ping()), Priority.CONTROL)
    await until(lambda: len(alice.outlook._views) == 1)
    assert not alice.outlook._choose(asyncio.get_running_loop().time(), [alice.id_of("bob")])
    alice.link_at("carol")


async def test_in_another_network_nothing_is_known_any_more(alice: Alice) -> None:
    await alice.looks("bob", "carol")
    alice.outlook.moved()
    assert alice.outlook.nat == Nat() and not alice.outlook._views
    assert (await alice.looks("bob", "carol")).address == alice.address, "by the same port, at once"


async def test_when_alice_moves_just_as_bob_answers_her_call_to_be_looked_at_is_hung_up(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same turn: who called is cancelled, and never sees the answer."""
    views_made, ready = list[View](), View.dealer_ready

    def dealer_ready(self: View, dealer: Dealer) -> None:
        views_made.append(self)
        ready(self, dealer)
        alice.outlook.moved()

    monkeypatch.setattr(View, "dealer_ready", dealer_ready)
    with pytest.raises(asyncio.CancelledError):
        await alice.looks("bob")
    (view,) = views_made
    assert view.seen and view._dealer is not None and view._dealer.closed and not alice.outlook._views
    monkeypatch.setattr(View, "dealer_ready", ready)
    assert (await alice.looks("bob", "carol")).address == alice.address


async def test_where_ports_are_not_shared_nothing_is_known(alice: Alice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsdnode.net.listener.CAN_SHARE", False)
    assert await alice.looks("bob", "carol") == Nat() and alice.outlook.is_due(0.0)


def is_open(outlook: Outlook) -> bool:
    return outlook.is_open


async def test_her_port_is_open_when_somebody_has_come_whom_she_has_not_called(alice: Alice) -> None:
    """Nor is he next door, and what IPv6 lets in does not count."""
    outlook = alice.outlook
    outlook.nat = Nat(Kind.SAME, address="tcp://11.1.1.1:29170")
    assert alice.transport._links.may_dial(Way("tcp://11.7.7.7:29170"))
    for host in ("11.7.7.7", "11.1.1.9", "2a11:7::7", "192.168.1.7", "127.0.0.1", ""):
        outlook.called_by(host)
    assert not is_open(outlook)
    outlook.called_by("11.8.8.8")
    assert is_open(outlook)
    outlook.moved()
    outlook.nat = Nat(Kind.SAME, address="tcp://11.1.1.1:29170")
    assert not is_open(outlook)


async def test_where_nobody_reaches_her_she_tells_nobody_for_a_while(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdnode.net.zmq.leads_here", lambda host: False)
    await alice.looks("bob", "carol")
    alice.outlook.shut()
    assert alice.transport.seen == "" and alice.address not in alice.transport.contact.addresses
    assert alice.outlook.nat.address == alice.address, "as before"
    monkeypatch.setattr(outlooks, "LOOK_AGAIN_S", 0.0)
    alice.outlook.moved()
    await alice.looks("bob", "carol")
    assert alice.address in alice.transport.contact.addresses, "another network"
    alice.outlook.shut()
    assert alice.address not in alice.transport.contact.addresses
    await until(lambda: alice.address in alice.transport.contact.addresses)


def test_what_is_no_address_of_the_world_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert seen_in(("f32", "seen tcp://11.1.1.1:29170", "seen tcp://11.1.1.1:5")) == "tcp://11.1.1.1:29170"
    near, service, name = "tcp://192.168.1.2:29170", "tcp://11.1.1.1:22", "tcp://a.example:29170"
    for said in ("", near, service, name, "11.1.1.1:29170", "tcp://[2001:db8::1", "x" * 9):
        assert seen_in((SEEN + said,)) == ""
    assert seen_in(("f32",)) == ""


async def test_a_client_has_its_port_looked_at_once_a_relay_carries_its_link_and_listens_when_it_is_to_be_called(
    start: Start, alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    frank = await start(b"f", listen=None, swarm_keys=SWARM_KEYS)
    transport = frank.transport
    assert isinstance(transport, ZmqTransport) and transport.outlook is not None
    outlook, ids = transport.outlook, [alice.id_of(name) for name in ("bob", "carol")]
    for name in ("bob", "carol"):
        transport.introduce(alice.others[name].transport.contact)
        await frank.ping(alice.id_of(name), timeout_s=5)
    now = asyncio.get_running_loop().time()
    assert not outlook.is_due(now + 60), "no relay is between him and anybody"
    (link, _) = next(iter(transport._links._dealers.items()))
    link.kind = LinkKind.RELAYED
    assert not outlook.is_due(link.since_s + DETOUR_S - 0.1), "a short reply is over sooner"
    assert outlook.is_due(link.since_s + DETOUR_S)
    outlook.look(now, ids)
    assert outlook._looking is not None
    await asyncio.wait_for(outlook._looking, 5)
    assert outlook.nat.kind is Kind.SAME and transport.paths.at == "" and not outlook._views
    port, seen = outlook._port(), outlook.nat.address
    await transport.paths.listen()
    assert transport.paths.at == outlook.nat.address == seen == f"tcp://127.0.0.1:{port}" and outlook._views
    assert transport.contact.addresses == (), "nobody is told"
    alice.transport.introduce(Contact(transport.contact.public_key, (seen,)))
    await alice.rpc.ping(node_id(transport.contact), timeout_s=5)


async def test_whom_bob_calls_from_his_port_cannot_call_him_from_hers_but_is_told_where_he_has_called_her(
    alice: Alice, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ports have one connection."""

    def none_is_left(host: str, port: int, to: str) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "there is such a connection")

    frank, grace = [await start(name, listen="tcp://0.0.0.0:0", swarm_keys=SWARM_KEYS) for name in (b"f", b"g")]
    alice.others |= {"frank": frank, "grace": grace}
    for one in (frank, grace):
        port = parse_address(one.transport.here[0])[1]
        alice.rpc.transport.introduce(Contact(one.transport.contact.public_key, (f"tcp://127.0.0.1:{port}",)))
        one.transport.introduce(Contact(alice.transport.contact.public_key, (alice.address,)))
        await alice.rpc.ping(node_id(one.transport.contact), timeout_s=5)
        assert await one.transport.reach(node_id(alice.transport.contact), alice.address)
    socket_from = listener.socket_from
    monkeypatch.setattr("dsdnode.net.views.socket_from", none_is_left)
    assert await alice.looks("frank", "grace") == Nat() and not alice.outlook._views
    monkeypatch.setattr("dsdnode.net.views.socket_from", socket_from)
    for one in (frank, grace):
        assert isinstance(one.transport, ZmqTransport) and one.transport.outlook is not None
        one.transport.outlook.look(0.0, [node_id(alice.transport.contact)])
        assert one.transport.outlook._looking is not None
        await asyncio.wait_for(one.transport.outlook._looking, 5)
    monkeypatch.setattr("dsdnode.net.views.socket_from", none_is_left)
    assert await alice.looks("frank", "grace") == Nat(Kind.SAME, address=alice.address)
    assert isinstance(frank.transport, ZmqTransport) and frank.transport.outlook is not None
    await until(lambda: len(alice.outlook._views) == 2)
    frank.transport.outlook.moved()
    await until(lambda: alice.outlook.is_due(0.0) and len(alice.outlook._views) == 1)

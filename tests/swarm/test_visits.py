"""Carol has reached alice, who has called her before: dave, a client, is to call alice, whom he has never heard of."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import Identity
from dsdnode.net.dials import PER_TEACHER_AND_TARGET
from dsdnode.net.port import OBSERVE
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm.queries import Tasks
from dsdnode.swarm.visits import PER_MINUTE, Visits
from dsdnode.wire.messages import Contact, Visit
from tests.net.conftest import Start, start
from tests.swarm.test_joining import until

__all__ = ["start"]
KEYS = {name: Identity(name.encode().ljust(32)) for name in ("alice", "bob", "carol", "dave", "erin")}
HOSTS = {"alice": "11.1.1.1", "bob": "11.2.2.2", "carol": "11.3.3.3", "dave": "11.4.4.4", "erin": "11.5.5.5"}
OUTSIDE = f"tcp://{HOSTS['alice']}:29170"


def id_of(name: str) -> bytes:
    return KEYS[name].peer_id


class Town:
    """A transport and rpc where everybody else is linked. `clients` have no address."""

    def __init__(self, *linked: str, clients: str = "dave") -> None:
        self.transport, self.names, self.clients = self, {id_of(name): name for name in linked}, clients.split()
        self.hosts, self.can_visit = dict(HOSTS), set(KEYS)
        self.contact = self._contact_of("carol")
        self.asked: list[tuple[str, Visit]] = []
        self.visited: list[tuple[Contact, str]] = []
        self.tasks = Tasks()
        here: Any = self
        self.visits = Visits(here, self.tasks, Random(1))

    def _contact_of(self, name: str) -> Contact:
        return Contact(KEYS[name].public_key, () if name in self.clients else (f"tcp://{self.hosts[name]}:29170",))

    def contact_of(self, peer: bytes) -> Contact:
        return self._contact_of(self.names[peer])

    def linked(self) -> list[bytes]:
        return list(self.names)

    def source_of(self, peer: bytes) -> str:
        return self.hosts[self.names[peer]]

    def can(self, peer: bytes, capability: str) -> bool:
        return capability == OBSERVE and self.names[peer] in self.can_visit

    def on_notice(self, kind: type[Visit], handler: Any) -> None:
        self.hear = handler

    def notify(self, peer: bytes, message: Visit) -> None:
        self.asked.append((self.names[peer], message))

    async def visit(self, contact: Contact, teacher: bytes) -> None:
        self.visited.append((contact, self.names[teacher]))

    def reaches_alice(self, *reached: str, now: float = 0.0) -> list[str]:
        """Who is asked to visit her."""
        self.asked.clear()
        self.visits.ask_for(now, id_of("alice"), reached or (OUTSIDE,))
        return [name for name, _ in self.asked]


def test_a_client_is_sent_before_members_and_of_them_any() -> None:
    town = Town("alice", "bob", "dave", "erin")
    assert town.reaches_alice() == ["dave"]
    assert town.asked == [("dave", Visit(KEYS["alice"].public_key, OUTSIDE))]
    assert set(Town("alice", "bob", "erin").reaches_alice()) <= {"bob", "erin"}
    assert Town("alice").reaches_alice() == [], "nobody is there"


def test_alice_is_visited_where_carol_sees_her_and_nowhere_else() -> None:
    """A relay's address leads to her as well; what is at home, or of IPv6, says nothing."""
    for reached in ("tcp://11.9.9.9:40000", "tcp://192.168.1.2:29170", "tcp://[2a11::1]:29170", "tcp://11.1.1.1:22"):
        assert Town("alice", "dave").reaches_alice(reached) == []
    assert Town("alice", "dave").reaches_alice("tcp://11.9.9.9:40000", OUTSIDE) == ["dave"]


@pytest.mark.parametrize("host", ["11.1.1.7", "11.3.3.7", "192.168.1.2", "2a11::7", ""])
def test_who_lives_next_door_is_not_sent(host: str) -> None:
    town = Town("alice", "dave")
    town.hosts["dave"] = host
    assert town.reaches_alice() == []


@pytest.mark.parametrize("name", ["alice", "dave"])
def test_peers_of_earlier_versions_hear_nothing_of_it(name: str) -> None:
    town = Town("alice", "dave")
    town.can_visit.remove(name)
    assert town.reaches_alice() == []


def test_for_one_network_once_a_minute_and_ten_times_for_all() -> None:
    town = Town("alice", "dave")
    assert town.reaches_alice() == ["dave"]
    town.hosts["alice"] = "11.1.1.2"
    assert town.reaches_alice("tcp://11.1.1.2:29170", now=1.0) == [], "another name in the same network"
    assert town.reaches_alice("tcp://11.1.1.2:29170", now=61.0) == ["dave"]
    sent = 0
    for number in range(2 * PER_MINUTE):
        town.hosts["alice"] = f"11.{100 + number}.1.1"
        sent += len(town.reaches_alice(f"tcp://11.{100 + number}.1.1:29170", now=61.0))
    assert sent == PER_MINUTE - 1


async def test_mallory_s_flood_of_visits_has_dave_call_once_a_minute() -> None:
    town = Town("bob", "erin", clients="")
    visit = Visit(KEYS["alice"].public_key, OUTSIDE)
    for _ in range(100):
        town.hear(id_of("bob"), visit, [])
    town.hear(id_of("erin"), visit, [])
    await asyncio.sleep(0)
    assert [name for _, name in town.visited] == ["bob", "erin"]
    for number in range(2 * PER_MINUTE):
        town.hosts["bob"] = f"11.{100 + number}.1.1"
        town.hear(id_of("bob"), visit, [])
    await asyncio.sleep(0)
    assert len(town.visited) == PER_MINUTE


@pytest.mark.parametrize(
    "address",
    [
        *("tcp://192.168.1.1:8080", "tcp://127.0.0.1:29170", "tcp://11.1.1.1:22", "tcp://[2a11::1]:29170"),
        *("tcp://printer.example:9100", "http://11.1.1.1:8000", "", "tcp://224.0.0.1:29170"),
    ],
)
async def test_dave_calls_no_printer_no_service_and_no_name(address: str) -> None:
    town = Town("bob")
    with pytest.raises(PeerMisbehaved):
        town.hear(id_of("bob"), Visit(KEYS["alice"].public_key, address), [])
    with pytest.raises(PeerMisbehaved):
        town.hear(id_of("bob"), Visit(b"\xff" * 32, OUTSIDE), [])
    await asyncio.sleep(0)
    assert town.visited == []


# --- over real sockets


def inside(rpc: Rpc) -> ZmqTransport:
    assert isinstance(rpc.transport, ZmqTransport)
    return rpc.transport


async def test_alice_sees_dave_come_and_he_is_no_link(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is sent to him goes over it: he may have a link of his own that carries a reply."""
    alice, carol, dave = await start(b"a", listen="tcp://0.0.0.0:0", advertise=["tcp://127.0.0.1:1"]), None, None
    came: list[str] = []
    outlook = inside(alice).outlook
    assert outlook is not None
    monkeypatch.setattr(outlook, "called_by", came.append)
    carol, dave = await start(b"c"), await start(b"d", listen=None)
    carol.transport.introduce(dave.transport.contact)
    where = f"tcp://127.0.0.1:{inside(alice)._listens[1]}"
    await dave.transport.visit(Contact(alice.transport.contact.public_key, (where,)), Identity(b"c" * 32).peer_id)
    assert came == [], "carol is far away, for all that he knows: she names nobody's own machine"
    dave.transport.introduce(carol.transport.contact)
    await dave.ping(Identity(b"c" * 32).peer_id, timeout_s=5)
    assert list(dave.transport.linked()) == [Identity(b"c" * 32).peer_id]
    await dave.transport.visit(Contact(alice.transport.contact.public_key, (where,)), Identity(b"c" * 32).peer_id)
    await until(lambda: came == ["127.0.0.1"])
    assert not list(alice.transport.linked())


async def test_a_victim_is_called_so_often_on_mallory_s_word(start: Start) -> None:
    """She says that alice is there: what nobody answers is paid for by her."""
    num_calls = 0

    def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_calls
        num_calls += 1
        writer.close()

    victim = await asyncio.start_server(called, "127.0.0.1", 0)
    mallory, dave = await start(b"m"), await start(b"d", listen=None)
    dave.transport.introduce(mallory.transport.contact)
    await dave.ping(Identity(b"m" * 32).peer_id, timeout_s=5)
    where = f"tcp://127.0.0.1:{victim.sockets[0].getsockname()[1]}"
    for _ in range(PER_TEACHER_AND_TARGET + 3):
        await dave.transport.visit(Contact(KEYS["alice"].public_key, (where,)), Identity(b"m" * 32).peer_id)
    assert num_calls == PER_TEACHER_AND_TARGET
    victim.close()

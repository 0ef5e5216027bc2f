"""Alice calls bob by way of a relay; he asks her where she is reached without one, and calls her there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from dsdnode.identity import Identity
from dsdnode.net.links import Links
from dsdnode.net.nat import Kind
from dsdnode.net.paths import Paths
from dsdnode.net.port import LinkKind
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm import shortcuts
from dsdnode.swarm.punching import Punching
from dsdnode.swarm.queries import Tasks
from dsdnode.swarm.shortcuts import ASKED_BURST, Shortcuts
from dsdnode.wire.messages import WIRE_TYPES, Contact, Refused
from dsdnode.wire.paths import FindPath, Path
from tests.net.detours import Detour, router_of

ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))
PATIENCE_S = 10.0


class Peer:
    def __init__(self, identity: Identity, rpc: Rpc) -> None:
        self.id = identity.peer_id
        self.rpc = rpc
        self.tasks = Tasks()
        self.reached: tuple[str, ...] = ()
        self.shortcuts = Shortcuts(rpc, self.tasks, lambda: self.reached)
        rpc.start()

    def kind_to(self, other: Peer) -> LinkKind | None:
        assert self.rpc.transport.paths is not None
        return self.rpc.transport.paths.kind(other.id)

    async def close(self) -> None:
        await self.tasks.close()
        await self.rpc.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (nobody tells of that)
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def detours_are_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Links, "_follow", lambda *_: None)


@pytest.fixture
async def alice() -> AsyncIterator[Peer]:
    peer = Peer(ALICE, Rpc(await ZmqTransport.open(ALICE, listen="tcp://127.0.0.1:0")))
    yield peer
    await peer.close()


@pytest.fixture
async def bob() -> AsyncIterator[Peer]:
    peer = Peer(BOB, Rpc(await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0")))
    yield peer
    await peer.close()


@pytest.fixture
async def detour(alice: Peer, bob: Peer) -> AsyncIterator[Detour]:
    """Alice knows bob at its end alone."""
    way = Detour(Random(1))
    (way.address,), way.circuits = bob.rpc.transport.contact.addresses, router_of(bob.rpc.transport)._circuits
    async with way.begin() as address:
        alice.rpc.transport.introduce(Contact(BOB.public_key, (address,)))
        yield way


async def test_bob_calls_her_back_and_the_detour_is_left(alice: Peer, bob: Peer, detour: Detour) -> None:
    alice.reached = alice.rpc.transport.contact.addresses
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await until(lambda: not detour.num_open)
    assert alice.kind_to(bob) is bob.kind_to(alice) is LinkKind.REVERSED
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await bob.rpc.ping(alice.id, timeout_s=PATIENCE_S)
    assert not detour.num_open


async def test_alice_calls_bob_where_he_is_reached_now(alice: Peer, bob: Peer, detour: Detour) -> None:
    bob.reached = bob.rpc.transport.contact.addresses
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await until(lambda: not detour.num_open)
    assert alice.kind_to(bob) is bob.kind_to(alice) is LinkKind.REVERSED


async def test_the_detour_is_taken_again_at_once_when_the_straight_link_dies(
    alice: Peer, bob: Peer, detour: Detour
) -> None:
    alice.reached = alice.rpc.transport.contact.addresses
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await until(lambda: not detour.num_open)
    alice.reached = ()
    router = router_of(alice.rpc.transport)
    for descriptor in list(router._doors):
        router._close(descriptor)
    await until(lambda: alice.kind_to(bob) is None)
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    assert alice.kind_to(bob) is LinkKind.RELAYED and bob.kind_to(alice) is LinkKind.RELAYED


async def test_alice_who_is_far_away_cannot_have_bob_call_what_is_near_him(
    alice: Peer, bob: Peer, detour: Detour
) -> None:
    """Where nobody could be called it is not asked again for a while, unless bob moves."""
    detour.caller = ""
    alice.reached = (*alice.rpc.transport.contact.addresses, "tcp://192.168.1.7:9100")
    asked: list[bytes] = []
    answer = alice.shortcuts._on_find_path

    async def note(peer: bytes, *words: object) -> object:
        asked.append(peer)
        return await answer(peer, *words)  # type: ignore[arg-type]

    alice.rpc.on_request(FindPath, note)  # type: ignore[arg-type]
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await until(lambda: bool(bob.shortcuts._resting))
    assert asked == [bob.id] and not router_of(alice.rpc.transport)._doors
    bob.shortcuts._look_for(alice.id)
    assert not bob.shortcuts._busy
    bob.shortcuts.moved()
    bob.shortcuts._look_for(alice.id)
    assert bob.shortcuts._busy and bob.kind_to(alice) is LinkKind.RELAYED


async def test_pauses_grow_to_hours(alice: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_now", lambda: 1000.0)
    pauses = []
    for found in (*[False] * 7, True, False):
        alice.shortcuts._rest(b"bob", found)
        pauses.append(alice.shortcuts._resting[b"bob"].until_s - 1000.0)
    assert pauses == [600, 1200, 2400, 4800, 9600, 19200, 21600, 1, 600]


async def test_alice_is_told_a_few_times_and_then_once_a_second(alice: Peer, bob: Peer, detour: Detour) -> None:
    async def ask() -> object:
        return (await alice.rpc.request(bob.id, FindPath(()), timeout_s=PATIENCE_S))[0]

    answers = [await ask() for _ in range(2 * ASKED_BURST)]
    assert answers[:ASKED_BURST] == [Path(())] * ASKED_BURST and isinstance(answers[-1], Refused)


async def test_a_peer_of_the_last_release_is_not_asked(
    alice: Peer, bob: Peer, detour: Detour, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = alice.rpc.transport._handshake  # type: ignore[attr-defined]
    monkeypatch.setattr(own.__class__, "capabilities", property(lambda _: WIRE_TYPES), raising=False)
    alice.reached = alice.rpc.transport.contact.addresses
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    assert not bob.shortcuts._busy and bob.kind_to(alice) is LinkKind.RELAYED


async def test_who_could_not_say_how_her_ports_look_asks_back_when_she_can(
    alice: Peer, bob: Peer, detour: Detour, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bytes] = []

    async def cannot_be_tried(self: Punching, paths: Paths, peer: bytes) -> None:
        tried.append(peer)

    monkeypatch.setattr(Punching, "punch", cannot_be_tried)
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    await until(lambda: bool(bob.shortcuts._resting))
    alice.shortcuts.tick(0.0)
    await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    assert tried == [alice.id], "she knows no more than before"
    monkeypatch.setattr(Paths, "insight", (Kind.SAME, True))
    alice.shortcuts.tick(0.0)
    for _ in range(3):
        await alice.rpc.ping(bob.id, timeout_s=PATIENCE_S)
    assert tried == [alice.id] and not bob.shortcuts._busy, "a moment ago"
    monkeypatch.setattr(shortcuts, "ASKED_BACK_S", 0.0)
    monkeypatch.setattr(Paths, "insight", (Kind.COUNTING, True))
    alice.shortcuts.tick(0.0)
    await until(lambda: len(tried) == 2)

"""Connections that are dead though nobody says so: alice reaches bob by two ways, of which one stalls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from dsdnode.addresses import parse_address
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net import links as net_links
from dsdnode.net.link import Dealer
from dsdnode.net.port import LinkKind, Priority
from dsdnode.net.rpc import LinkBroken, Rpc
from dsdnode.swarm.pings import Pings
from dsdnode.wire.messages import Contact, Ping, Pong
from dsdnode.wire.replies import Cancel

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))
LAX_S = 5.0


@dataclass
class Relay:
    """A way to bob that passes everything on, until it does not: connections stay open, and are acknowledged."""

    address: str = ""
    num_calls: int = 0
    passes: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def before(self, address: str) -> AsyncIterator[Relay]:
        host, port = parse_address(address)
        self.passes.set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.num_calls += 1
            far_reader, far_writer = await asyncio.open_connection(host, port)
            for source, target in ((reader, far_writer), (far_reader, writer)):
                self.tasks.add(asyncio.create_task(self._carry(source, target)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(target):
            while piece := await source.read(1 << 14):
                await self.passes.wait()
                target.write(piece)


@pytest.fixture
async def ways(start: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Rpc, Rpc, list[Relay]]]:
    """Alice, bob, and the relays by which she reaches him: the first is taken."""
    monkeypatch.setattr("dsdnode.net.rpc.DOUBT_AFTER_S", 0.1)
    alice, bob = await start(b"a", listen=None), await start(b"b")
    [address] = bob.transport.contact.addresses
    async with Relay().before(address) as one, Relay().before(address) as other:
        alice.transport.introduce(Contact(BOB.public_key, (one.address, other.address)))
        await alice.ping(BOB.peer_id, timeout_s=LAX_S)
        alice.notify(BOB.peer_id, Cancel(bytes(16)), priority=Priority.DRAFT)
        while one.num_calls < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await alice.ping(BOB.peer_id, timeout_s=LAX_S, priority=Priority.DRAFT)
        assert (one.num_calls, other.num_calls) == (2, 0)
        yield alice, bob, [one, other]


async def test_when_a_relay_stalls_another_one_is_taken_in_both_lanes(ways: tuple[Rpc, Rpc, list[Relay]]) -> None:
    """Bob answers by it, too: nothing would ever end the connections that he has."""
    alice, bob, (one, other) = ways
    heard, broken = asyncio.Event(), list[bool]()
    bob.on_notice(Cancel, lambda *_: heard.set())
    alice.transport.on_broken(lambda peer, bulk, since_s: broken.append(bulk))
    one.passes.clear()
    with pytest.raises(PeerUnavailable):
        await alice.ping(BOB.peer_id, timeout_s=0.1)
    pings = Pings(alice)
    await pings.ping(BOB.peer_id, LAX_S)
    await pings.close()
    while len(broken) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert sorted(broken) == [False, True] and other.num_calls == 2
    alice.notify(BOB.peer_id, Cancel(bytes(16)), priority=Priority.DRAFT)
    await asyncio.wait_for(heard.wait(), LAX_S)
    await bob.ping(ALICE.peer_id, timeout_s=LAX_S)


async def test_who_waits_by_the_connection_that_is_left_is_told_at_once(ways: tuple[Rpc, Rpc, list[Relay]]) -> None:
    alice, _, (one, _) = ways
    one.passes.clear()
    waiting = asyncio.ensure_future(alice.request(BOB.peer_id, Ping(), timeout_s=60))
    with pytest.raises(PeerUnavailable):
        await alice.ping(BOB.peer_id, timeout_s=0.1)
    with pytest.raises(LinkBroken):
        await asyncio.wait_for(waiting, LAX_S)


async def test_a_peer_that_is_slow_is_not_called_again_and_again(ways: tuple[Rpc, Rpc, list[Relay]]) -> None:
    """And its connections stay, as nothing better is there."""
    alice, _, both = ways
    for relay in both:
        relay.passes.clear()
    for _ in range(5):
        with pytest.raises(PeerUnavailable):
            await alice.ping(BOB.peer_id, timeout_s=0.1)
    assert sum(relay.num_calls for relay in both) <= 6
    for relay in both:
        relay.passes.set()
    await alice.ping(BOB.peer_id, timeout_s=LAX_S)


@pytest.fixture
async def both(start: Start) -> AsyncIterator[tuple[Rpc, Rpc, Relay, Relay]]:
    """Alice has called bob, and bob has called her: each sends by the own connection. The relays: on her way to him,
    and on his to her."""
    alice, bob = await start(b"a"), await start(b"b")
    [hers], [his] = alice.transport.contact.addresses, bob.transport.contact.addresses
    async with Relay().before(his) as there, Relay().before(hers) as here:
        alice.transport.introduce(Contact(BOB.public_key, (there.address,)))
        bob.transport.introduce(Contact(ALICE.public_key, (here.address,)))
        await alice.ping(BOB.peer_id, timeout_s=LAX_S)
        links = alice.transport._links  # type: ignore[attr-defined]
        bobs = bob.transport._links  # type: ignore[attr-defined]
        # Where she has called him: else she would take it that he has moved, and hang up.
        bobs.handshake = replace(bobs.handshake, named=(there.address,))
        known, book = links.book.get(BOB.peer_id), bobs.book.get(ALICE.peer_id)
        own = bobs._dial(book, False)
        while not (known.inbounds and own.ready):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        book.use(False, own, asyncio.get_running_loop().time())
        yield alice, bob, there, here


async def cut(relay: Relay) -> None:
    for task in relay.tasks:
        task.cancel()
    await asyncio.gather(*relay.tasks, return_exceptions=True)


@pytest.mark.parametrize("ends", ["hers", "his"])
@pytest.mark.parametrize("spoke", [True, False])
async def test_when_one_of_two_connections_ends_what_was_asked_or_answered_by_it_is_asked_again(
    both: tuple[Rpc, Rpc, Relay, Relay], ends: str, spoke: bool
) -> None:
    """She would wait for a minute. `spoke`: bob has answered by his own connection before."""
    alice, bob, there, here = both
    if spoke:
        await alice.ping(BOB.peer_id, timeout_s=LAX_S)
    relay = there if ends == "hers" else here
    relay.passes.clear()
    num_answers = bob.sent["Pong"].num
    pings = Pings(alice)
    asked = asyncio.ensure_future(pings.ping(BOB.peer_id, 60))
    await asyncio.sleep(0)
    while relay is here and bob.sent["Pong"].num == num_answers:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await cut(relay)
    assert await asyncio.wait_for(asked, LAX_S) > 0
    await pings.close()


async def test_what_may_be_asked_twice_is_when_the_answer_is_lost(both: tuple[Rpc, Rpc, Relay, Relay]) -> None:
    alice, bob, _, here = both
    here.passes.clear()
    num_answers = bob.sent["Pong"].num
    asked = asyncio.ensure_future(alice.ask(BOB.peer_id, Ping(), timeout_s=60))
    while bob.sent["Pong"].num == num_answers:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await cut(here)
    answer, _ = await asyncio.wait_for(asked, LAX_S)
    assert isinstance(answer, Pong)


async def test_the_end_of_a_connection_that_nobody_sends_by_is_nothing_to_who_waits(
    both: tuple[Rpc, Rpc, Relay, Relay],
) -> None:
    alice, bob, _, here = both
    bobs = bob.transport._links  # type: ignore[attr-defined]
    book = bobs.book.get(ALICE.peer_id)
    book.use(False, book.inbounds[-1], asyncio.get_running_loop().time())
    await alice.ping(BOB.peer_id, timeout_s=LAX_S)  # so that she has heard him by the other one since
    broken = list[bool]()
    links = alice.transport._links  # type: ignore[attr-defined]
    [inbound] = links.book.get(BOB.peer_id).inbounds
    alice.transport.on_broken(lambda peer, bulk, since_s: broken.append(bulk))
    await cut(here)
    while not inbound.closed:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await alice.ping(BOB.peer_id, timeout_s=LAX_S)
    assert not broken


@pytest.mark.parametrize("lives", [True, False])
async def test_a_straight_link_that_has_something_to_say_is_not_left_for_a_relayed_one(
    ways: tuple[Rpc, Rpc, list[Relay]], monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """Bob is slow to answer; the way to him that is called beside the other leads by a relay."""
    monkeypatch.setattr(net_links, "LAST_WORD_S", 0.1)
    alice, _, both = ways
    links = alice.transport._links  # type: ignore[attr-defined]
    book = links.book.get(BOB.peer_id)
    used = dict(book.used)
    ready = links.dealer_ready

    def by_a_relay(dealer: Dealer) -> None:
        dealer.kind = LinkKind.RELAYED if dealer in links._spares else dealer.kind
        ready(dealer)

    monkeypatch.setattr(links, "dealer_ready", by_a_relay)
    both[0].passes.clear()
    with pytest.raises(PeerUnavailable):
        await alice.ping(BOB.peer_id, timeout_s=0.1)
    if lives:
        both[0].passes.set()
        for link in used.values():
            link.heard_s = asyncio.get_running_loop().time()
    while not links._spares:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    while links._spares:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    kinds = {link.kind for link in book.used.values()}
    assert (LinkKind.RELAYED in kinds) is not lives
    pings = Pings(alice)
    await pings.ping(BOB.peer_id, LAX_S)
    await pings.close()

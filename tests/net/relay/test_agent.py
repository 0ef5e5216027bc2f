"""Bob's reservation: it is renewed, outlives its relay, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable

import psutil
import pytest

from dsdnode.net.handshake import derive_swarm_key
from dsdnode.net.relay import frames
from dsdnode.net.relay.frames import Challenge, Incoming, No, Ping, Pong, Reserved, pack, unpack
from dsdnode.net.relay.server import Relay
from tests.net.relay.ends import BOB, CAROL, PATIENCE_S, ROSE, Bare, Callee, circuit

OpenRelay = Callable[..., Awaitable[Relay]]
ReserveAs = Callable[..., Awaitable[Callee]]


class Rose:
    """A relay by hand: it answers as a test wants it to, and never lets anybody fetch a circuit."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = answers
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for answer in (*self.answers, None):
                while True:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    body = await reader.readexactly(size)
                    self.heard.put_nowait(body)
                    if answer is not None and body[1] != ACCEPT_TAG:
                        writer.write(answer)
                        break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


ACCEPT_TAG = 6
CHALLENGE, TERMS = pack(Challenge(1, bytes(32), "127.0.0.1")), pack(Reserved(29172, 3600, 16, 1, 1))


async def test_bob_reserves_anew_when_his_relay_is_back(open_relay: OpenRelay, reserve: ReserveAs) -> None:
    relay = await open_relay()
    bob = await reserve(BOB, relay, 1, pause_s=0.01)
    assert bob.why == ""
    await relay.close()
    await bob.next_news()
    assert "closed the connection" in bob.why
    again = await open_relay(port=relay.port)
    while bob.why:
        await bob.next_news()
    assert again.book._reserved[BOB.peer_id].account.address == "127.0.0.1"


async def test_bob_and_alice_are_members(open_relay: OpenRelay, reserve: ReserveAs) -> None:
    relay = await open_relay(swarm_keys=("open sesame",))
    assert (await reserve(BOB, relay, 1, (derive_swarm_key("open sesame"),))).terms is not None
    assert "--swarm-key" in (await reserve(CAROL, relay, 1)).why


async def test_half_way_through_a_lease_bob_asks_again_over_the_same_connection(reserve: ReserveAs) -> None:
    rose = Rose(CHALLENGE, pack(Reserved(29172, 0, 16, 1, 1)), TERMS)
    await rose.open()
    try:
        bob = await reserve(BOB, rose, 1)
        _, asked, again, ping = [await asyncio.wait_for(rose.heard.get(), PATIENCE_S) for _ in range(4)]
        assert again == asked and unpack(ping, Ping) == Ping() and bob.why == ""
    finally:
        rose.server.close()


async def test_and_the_relay_renews_it(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    bob = await Bare.open(relay.port)
    ask = frames.reserve(BOB, (), ROSE.public_key, await bob.challenge())
    bob.say(ask)
    await bob.hear()
    reservation = relay.book._reserved[BOB.peer_id]
    reservation.until_s = 0.0
    bob.say(ask)
    assert await bob.hear() == relay.book.terms(reservation.port)
    assert relay.book._reserved == {BOB.peer_id: reservation} and reservation.until_s > 3600
    bob.close()


@pytest.mark.parametrize(
    ("answers", "why", "patience"),
    [
        ((), "does not answer", {"answer_s": 0.05}),
        ((CHALLENGE,), "does not answer", {"answer_s": 0.05}),
        ((CHALLENGE, TERMS), "does not answer our pings", {"ping_s": 0.02}),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "closed the connection", {}),
        ((TERMS,), "answered by a Reserved", {}),
        ((CHALLENGE, b"\x00\x02\x91\x09"), "is none: malformed", {}),
        ((CHALLENGE, CHALLENGE), "answered by a Challenge", {}),
        ((CHALLENGE, TERMS, pack(Pong()) * 300), "more than 256", {"ping_s": 60}),
    ],
    ids=("mute", "no terms", "no pongs", "http", "no challenge", "malformed", "challenges", "talks"),
)
async def test_a_relay_that_does_not_keep_to_the_protocol_is_left(
    reserve: ReserveAs, answers: tuple[bytes, ...], why: str, patience: dict[str, float]
) -> None:
    rose = Rose(*answers)
    await rose.open()
    try:
        bob = await reserve(BOB, rose, 1, pause_s=60, **patience)
        if not bob.why:
            await bob.next_news()
        assert why in bob.why
    finally:
        rose.server.close()


@pytest.mark.parametrize("limit", ["MAX_TAKEN", "CALLS_BURST"])
async def test_whatever_a_relay_says_bob_takes_so_many_circuits(
    monkeypatch: pytest.MonkeyPatch, reserve: ReserveAs, limit: str
) -> None:
    monkeypatch.setattr(f"dsdnode.net.relay.agent.{limit}", 2)
    monkeypatch.setattr("dsdnode.net.relay.agent.CALLS_PER_S", 1e-6)
    nowhere = ("a house with a garden", "2606:4700::1%x", "2606:4700::1%\0")
    flood = b"".join(pack(Incoming(bytes(16), host)) for host in nowhere)
    flood += b"".join(pack(Incoming(bytes([number]) * 16, "192.0.2.1")) for number in range(8))
    rose = Rose(CHALLENGE, TERMS + flood + pack(No("enough")))
    await rose.open()
    try:
        bob = await reserve(BOB, rose, 1, answer_s=60.0, pause_s=60)
        heard = [await asyncio.wait_for(rose.heard.get(), PATIENCE_S) for _ in range(5)]
        if not bob.why:
            await bob.next_news()
        assert "enough" in bob.why and bob.asked == ["192.0.2.1"] * 2
        assert sum(one[1] == ACCEPT_TAG for one in heard) == 2
    finally:
        rose.server.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no descriptors")
async def test_nothing_is_left_of_any_of_them(open_relay: OpenRelay, reserve: ReserveAs) -> None:
    relay = await open_relay(unanswered=100, dials_burst=100.0, connections_burst=100.0)
    sink = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    bob = await reserve(BOB, relay, sink.sockets[0].getsockname()[1])
    process, tasks = psutil.Process(), asyncio.all_tasks()
    gc.collect()  # what other tests have left open
    num = process.num_fds()
    for _ in range(3):
        alice = await Bare.open(bob.terms.port)
        assert await alice.rest() == b""
        alice.close()
        mallory = await Bare.open(relay.port)
        mallory.say(b"GET / HTTP/1.1\r\n\r\n")
        assert await mallory.rest() == b""
        mallory.close()
        control = await Bare.open(relay.port)
        await control.reserve(CAROL)
        near, far = await circuit(relay.port, CAROL, control)
        for one in (near, far, control):
            one.close()
    async with asyncio.timeout(PATIENCE_S):
        while process.num_fds() > num or asyncio.all_tasks() != tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert bob.num_spliced == 3 and bob.hosts == {}
    assert (relay._ends, relay._circuits, relay._guests, relay.book._guests, relay.book._circuits) == ({},) * 5
    assert list(relay._connections) == list(relay._reservations) == list(relay._controls.values())
    sink.close()
    await bob.agent.close()
    async with asyncio.timeout(PATIENCE_S):
        while relay._connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_bob_who_moves_reserves_at_once_and_is_called_where_he_was(
    open_relay: OpenRelay, reserve: ReserveAs
) -> None:
    """What he had before is dead; he is not told that his relay has left him."""
    relay = await open_relay()
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    bob = await reserve(BOB, relay, server.sockets[0].getsockname()[1], pause_s=60.0, most_pause_s=60.0)
    assert bob.terms is not None
    before = bob.terms.port
    alice = await Bare.open(before)
    while not bob.hosts:  # noqa: ASYNC110
        await asyncio.sleep(0)
    bob.agent.begin_again()
    await bob.next_news()
    assert bob.terms.port == before and bob.why == ""
    assert await alice.rest() == b"" and bob.hosts == {}
    again = await Bare.open(before)
    while not bob.hosts:  # noqa: ASYNC110
        await asyncio.sleep(0)
    again.close()
    server.close()

"""One key in two processes: alice's folder was copied to another machine, with her identity in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from dsdnode.addresses import parse_address
from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))


def places(*rpcs: Rpc) -> dict[str, bytes | None]:
    return {address: None for rpc in rpcs for address in rpc.transport.contact.addresses}


@pytest.mark.parametrize("keys", [{}, {"swarm_keys": ("ours",)}, {"swarm_keys": ("new", "ours")}])
async def test_both_are_told_when_the_copy_looks(start: Start, keys: dict[str, tuple[str, ...]]) -> None:
    alice, copy = await start(b"a", **keys), await start(b"a", **keys)
    await copy.transport.look_for_twin(places(alice))
    assert copy.transport.twin == alice.transport.contact.addresses[0]
    assert alice.transport.twin == copy.transport.contact.addresses[0]


async def test_alice_is_no_twin_of_herself(start: Start) -> None:
    """Also not where her address is written in another way."""
    alice = await start(b"a")
    port = alice.transport.contact.addresses[0].rpartition(":")[2]
    await alice.transport.look_for_twin({**places(alice), f"tcp://localhost:{port}": None})
    assert alice.transport.twin == ""


async def test_where_she_was_before_nobody_is_or_somebody_else(start: Start) -> None:
    old = await start(b"a")
    where = places(old)
    await old.close()
    alice, bob = await start(b"a"), await start(b"b")
    await alice.transport.look_for_twin({**where, **places(bob)})
    assert alice.transport.twin == ""


async def test_a_stranger_cannot_have_her_call_anywhere_by_saying_she_is_there(start: Start) -> None:
    alice, copy, mallory = await start(b"a"), await start(b"a"), await start(b"m")
    mallory_id = mallory.transport.contact.public_key
    await alice.transport.look_for_twin(dict.fromkeys(places(copy), mallory_id))  # whom she has never seen
    assert alice.transport.twin == copy.transport.twin == ""


class Wire:
    """At a port of mallory's, which leads to alice's own: all of the handshake passes, and what follows waits for
    `released`. `answered`: alice's port has said something after that."""

    def __init__(self, alice: Rpc) -> None:
        self._port = parse_address(alice.transport.contact.addresses[0])[1]
        self.released, self.answered = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._tasks.append(asyncio.create_task(self._back(far_reader, writer)))
        self._tasks.append(asyncio.create_task(self._there(reader, far_writer)))

    async def _back(self, far_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await far_reader.read(1 << 16):
            if self.released.is_set():
                self.answered.set()
            writer.write(piece)

    async def _there(self, reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        """ZMTP 3.1: 64 bytes, and frames; of the first byte of these bit 1 is for a long one, bit 2 for a command."""
        with suppress(asyncio.IncompleteReadError):
            for _ in range(64):  # either waits for a part of the other's
                far_writer.write(await reader.readexactly(1))
            while True:
                [flags] = await reader.readexactly(1)
                length = await reader.readexactly(8 if flags & 2 else 1)
                body = await reader.readexactly(int.from_bytes(length, "big"))
                if not flags & 4:
                    await self.released.wait()
                far_writer.write(bytes((flags,)) + length + body)
        await self.answered.wait()  # the far end stays open


async def test_a_wire_of_mallory_s_that_leads_to_alice_herself_is_no_twin(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Her own key is proven there, and her greeting is lost; or it comes when she has hung up."""
    monkeypatch.setattr("dsdnode.net.call.ATTEMPT_TIMEOUT_S", 0.5)
    alice = await start(b"a")
    wire = Wire(alice)
    async with wire.begin() as where, asyncio.timeout(10):
        await alice.transport.look_for_twin({where: None})
        assert alice.transport.twin == ""
        wire.released.set()
        await wire.answered.wait()
        assert alice.transport.twin == ""


async def test_when_the_copy_ends_bob_talks_to_alice_again(start: Start) -> None:
    """What bob sends goes to whoever of the two called last; and back to the first when that one is gone."""
    bob, alice, copy = await start(b"b"), await start(b"a"), await start(b"a")
    for one in (alice, copy):
        one.transport.introduce(bob.transport.contact)
        await one.ping(BOB.peer_id, timeout_s=5)
    assert bob.transport.contact_of(ALICE.peer_id) == copy.transport.contact
    lost: list[str] = []
    bob.transport.on_peer_lost(lambda peer, why, at_s: lost.append(why))
    ended = asyncio.Event()
    copy_ends = bob.transport._links.inbound_ended  # type: ignore[attr-defined]

    def end(inbound: object) -> None:
        copy_ends(inbound)
        ended.set()

    bob.transport._links.inbound_ended = end  # type: ignore[attr-defined]
    await copy.close()
    async with asyncio.timeout(5):
        await ended.wait()
    assert bob.transport.contact_of(ALICE.peer_id) == alice.transport.contact
    await bob.ping(ALICE.peer_id, timeout_s=5)
    assert lost == []

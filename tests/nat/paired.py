"""One process of a lab of pairs: a relay, or a peer that calls others and says how it is linked with them in the end.

    python -m tests.nat.paired rose
    python -m tests.nat.paired alice reached tcp://11.3.3.10:29170
    python -m tests.nat.paired bob relayed rose=tcp://11.1.1.10:41234,ruth=tcp://11.2.2.10:41235

A relay prints where it relays; a peer where it is called, and then, of each line "NAME ADDRESS,ADDRESS" that it reads,
how it is linked, after how many ms it was first answered, and after how many the link was as it is.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import structlog

from dsdnode.addresses import parse_address
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.net.nat import Kind
from dsdnode.net.port import LinkKind
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm.queries import Tasks
from dsdnode.swarm.shortcuts import Shortcuts
from dsdnode.wire.messages import Contact
from tests.nat.relayed import LOOK_S, PORT, identity_of

RATE_BYTES_PER_S = 1e8
ANSWER_S = 10.0
PATIENCE_S = 12.0
"""For a straight link."""


async def relay(name: str) -> None:
    transport = await ZmqTransport.open(identity_of(name), listen=f"tcp://0.0.0.0:{PORT}")
    assert transport.relays is not None and await transport.relays.serve(RATE_BYTES_PER_S)
    Rpc(transport).start()
    host, _ = parse_address(transport.contact.addresses[0])
    print(f"{name}=tcp://{host}:{transport.relays.port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


class Peer:
    def __init__(self, transport: ZmqTransport, reached: tuple[str, ...]) -> None:
        self._transport = transport
        self._rpc = Rpc(transport)
        self._shortcuts = Shortcuts(self._rpc, Tasks(), lambda: reached)
        self._rpc.start()

    async def look_around(self, relays: Sequence[Contact]) -> None:
        """Have our ports looked at, as a whole node does."""
        outlook, loop = self._transport.outlook, asyncio.get_running_loop()
        assert outlook is not None
        for relay in relays:
            host, _ = parse_address(relay.addresses[0])
            self._transport.introduce(Contact(relay.public_key, (f"tcp://{host}:{PORT}",)))
            await self._rpc.ping(peer_id(relay.public_key), timeout_s=ANSWER_S)
        while outlook.nat.kind is Kind.UNKNOWN:
            if outlook.is_due(loop.time()):
                outlook.look(loop.time(), [peer_id(relay.public_key) for relay in relays])
            await asyncio.sleep(LOOK_S)

    async def link(self, name: str, addresses: tuple[str, ...]) -> str:
        other = identity_of(name)
        self._transport.introduce(Contact(other.public_key, addresses))
        loop, paths = asyncio.get_running_loop(), self._transport.paths
        begun_s = loop.time()
        try:
            await self._rpc.ping(other.peer_id, timeout_s=ANSWER_S)
        except PeerUnavailable as error:
            return f"none ({error})"
        first_s = loop.time() - begun_s
        while paths.kind(other.peer_id) in (None, LinkKind.RELAYED) and loop.time() < begun_s + PATIENCE_S:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S / 4)
        last_s = loop.time() - begun_s
        kind = paths.kind(other.peer_id)
        await self._rpc.ping(other.peer_id, timeout_s=ANSWER_S)
        return f"{kind} {first_s * 1e3:.0f} {(first_s if kind is LinkKind.RELAYED else last_s) * 1e3:.0f}"


async def peer(name: str, how: str, where: str) -> None:
    reached = tuple(where.split(",")) if how == "reached" else ()
    transport = await ZmqTransport.open(identity_of(name), listen=f"tcp://0.0.0.0:{PORT}", advertise=reached)
    peer = Peer(transport, reached)
    if how == "relayed":
        assert transport.relays is not None
        contacts = [
            Contact(identity_of(key).public_key, (at,)) for key, at in (one.split("=") for one in where.split(","))
        ]
        for contact in contacts:
            transport.relays.reserve(contact, [parse_address(contact.addresses[0])[0]])
        await peer.look_around(contacts)
        while len(transport.relays.given) < len(contacts):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        print(",".join(transport.relays.given), flush=True)
    else:
        print(where, flush=True)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        print(await peer.link(words[0], tuple(words[1].split(","))), flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(relay(sys.argv[1]) if len(sys.argv) == 2 else peer(*sys.argv[1:4]))

"""One process of a lab: a node that offers nothing, on its host; all that it does is done there.

    python -m tests.nat.relayed carol
    python -m tests.nat.relayed bob tcp://11.3.3.10:29170
    python -m tests.nat.relayed client

Whoever is given carol's address joins her, and says where others reach it, in both families; a client cannot be called.
Then, of each name and address that it reads: that one is called, and what came of it is told; of a name alone, how its
caller is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from random import Random

import structlog

from dsdnode.addresses import family, parse_address
from dsdnode.errors import DsdError
from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Contact

PORT = 29170
LOOK_S = 0.02
ANSWER_S = 5.0
REACHED_S = 30.0


def identity_of(name: str) -> Identity:
    return Identity(name.encode().ljust(32))


async def answered(rpc: Rpc, peer: bytes) -> float:
    """After how many seconds; raises TimeoutError. A connection may break under a question."""
    begun_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(ANSWER_S):
        while True:
            with contextlib.suppress(DsdError):
                await rpc.ping(peer, timeout_s=ANSWER_S)
                return asyncio.get_running_loop().time() - begun_s
            await asyncio.sleep(LOOK_S)


async def run(name: str, carols: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    transport = await ZmqTransport.open(identity_of(name), listen=None if name == "client" else f"tcp://[::]:{PORT}")
    rpc = Rpc(transport)
    discovery = Discovery(rpc, identity_of(name), Random(name))
    rpc.start()
    discovery.start()
    if carols:
        await discovery.join([Contact(identity_of("carol").public_key, (carols,))], timeout_s=5, starting_s=5)
        async with asyncio.timeout(REACHED_S):
            while {family(parse_address(one)[0]) for one in discovery.contact.addresses} != {4, 6}:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
    print(*discovery.contact.addresses, flush=True)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        other = identity_of(words[0])
        if len(words) > 1:
            transport.introduce(Contact(other.public_key, (words[1],)))
            print(f"{await answered(rpc, other.peer_id) * 1e3:.0f} ms", flush=True)
        else:
            print(transport.source_of(other.peer_id), transport.sighting(other.peer_id).near.name, flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))

"""Three processes of a lab: rose relays, bob is reached by way of her, and alice reaches him.

python -m tests.nat.relayed rose 0.0.0.0
python -m tests.nat.relayed bob 11.1.1.10
python -m tests.nat.relayed alice 11.1.1.10
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from random import Random

from dsdnode.identity import Identity
from dsdnode.net.relay.agent import Agent
from dsdnode.net.relay.frames import Reserved
from dsdnode.net.relay.server import Relay
from dsdnode.net.relay.tunnel import Tunnel
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.messages import Contact

ALICE, BOB, ROSE = (Identity(name * 32) for name in (b"a", b"b", b"r"))
PORT = 29171
PINGS = 20


class Bob:
    """An agent's callee: tells on standard output what it is told."""

    def reserved(self, relay: Contact, terms: Reserved) -> None:
        print("reserved", flush=True)

    def unreserved(self, relay: Contact, why: str) -> None:
        print(why, flush=True)

    def admits(self, host: str) -> bool:
        return True

    def spliced(self, port: int, host: str) -> None:
        print(host, flush=True)

    def parted(self, port: int) -> None:
        print("parted", flush=True)


async def rose(host: str) -> None:
    await Relay.open(ROSE, host, PORT)
    print("open", flush=True)
    await asyncio.Event().wait()


async def bob(relay: Contact) -> None:
    rpc = Rpc(await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0"))
    rpc.start()
    Agent(Bob(), BOB, relay, ("127.0.0.1", int(rpc.transport.here[0].rpartition(":")[2])), Random(1)).start()
    await asyncio.Event().wait()


async def alice(relay: Contact) -> None:
    """Prints after how many milliseconds bob first answered, and how many he takes then."""
    rpc = Rpc(await ZmqTransport.open(ALICE))
    rpc.start()
    loop, took_ms = asyncio.get_running_loop(), list[float]()
    begun_s = loop.time()
    tunnel = await Tunnel.open(ALICE, relay, BOB.peer_id)
    rpc.transport.introduce(Contact(BOB.public_key, (tunnel.address,)))
    for _ in range(1 + PINGS):
        await rpc.ping(BOB.peer_id, timeout_s=10)
        took_ms.append((loop.time() - begun_s) * 1e3)
        begun_s = loop.time()
    print(round(took_ms[0]), round(statistics.median(took_ms[1:])), flush=True)
    await rpc.close()
    await tunnel.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=("rose", "bob", "alice"))
    parser.add_argument("host", help="rose's")
    options = parser.parse_args()
    relay = Contact(ROSE.public_key, (f"tcp://{options.host}:{PORT}",))
    asyncio.run(
        {"rose": lambda: rose(options.host), "bob": lambda: bob(relay), "alice": lambda: alice(relay)}[options.who]()
    )


if __name__ == "__main__":
    main()

"""What a node behind each kind of router finds out about it, where others reach it, and after how many seconds.

    python -m tests.nat.reached carol
    python -m tests.nat.reached alice 11.3.3.10

Such is one process: a node that offers nothing, on its host; whoever is given carol's host joins her. It tells what it
has found out whenever that changes. Who is called a client cannot be called.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from random import Random
from select import select
from typing import Any, Final

import structlog

from dsdnode.addresses import parse_address
from dsdnode.net.door import leads_here
from dsdnode.net.nat import Kind
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Contact
from tests.nat.kinds import KINDS
from tests.nat.lab import Host, lab
from tests.nat.relayed import LOOK_S, PORT, identity_of
from tests.node.mutation import ROOT

PATIENCE_S = 40.0
ROW = "| {:7} | {:8} | {:8} | {:12} | {:>9} | {:>7} | {:5} |"


@dataclass(frozen=True)
class Found:
    """`ways`: where others are told that it is reached: "own", "seen", "mapped" or "relay"."""

    mapping: str = Kind.UNKNOWN.value
    ways: tuple[str, ...] = ()


_RANDOM: Final = Found(Kind.RANDOM.value, ("relay",))
_SHUT: Final = Found(Kind.SAME.value, ("relay",))
RIGHT: Final = {
    "public": Found(Kind.SAME.value, ("own",)),
    "fw": _SHUT,
    "cone": Found(Kind.SAME.value, ("seen",)),
    "arc": Found(Kind.SAME.value, ("seen", "relay")),
    "prc": _SHUT,
    "prcrst": _SHUT,
    "cgn": _SHUT,
    "symseq": Found(Kind.COUNTING.value, ("relay",)),
    "sym": _RANDOM,
    "symf": _RANDOM,
    "cgnsym": _RANDOM,
}


def main(kinds: Sequence[str]) -> int:
    """Exit code 1: something is found out wrongly, or not in time."""
    status = 0
    with lab() as town, ExitStack() as stack:
        hosts = [town.home("public") for _ in range(4)]
        carols = hosts[0].public_ip
        for host, name in zip(hosts, ("carol", "bob", "dave", "client"), strict=True):
            members = stack.enter_context(_process(host, name, *([carols] if name != "carol" else [])))
            next(_heard(members, PATIENCE_S))
        print(ROW.format("kind", "found", "mapping", "reached at", "reached s", "right s", "right"))
        print(ROW.format(*["---"] * 7))
        for kind in kinds or KINDS:
            status |= not _try(kind, town.home(kind), carols)
    return status


def _try(kind: str, home: Host, carols: str) -> bool:
    found, reached_s, right_s = Found(), 0.0, 0.0
    with _process(home, kind, carols) as process:
        for after_s, found in _heard(process, PATIENCE_S):
            if found.ways and not reached_s:
                reached_s = after_s
            if found == RIGHT[kind]:
                right_s = after_s
                break
    is_right = found == RIGHT[kind]
    ways, look = ", ".join(found.ways), KINDS[kind].look.mapping
    row = ROW.format(kind, found.mapping, look, ways, f"{reached_s:.1f}", f"{right_s:.1f}", "yes" if is_right else "NO")
    print(row, flush=True)
    return is_right


@contextmanager
def _process(host: Host, *words: str) -> Iterator[subprocess.Popen[Any]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = (sys.executable, "-m", "tests.nat.reached", *words)
    process = host.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _heard(process: subprocess.Popen[Any], patience_s: float) -> Iterator[tuple[float, Found]]:
    """What it has found out, and after how many seconds of its own."""
    until_s = time.monotonic() + patience_s
    while select([process.stdout], [], [], max(0.0, until_s - time.monotonic()))[0]:
        line = process.stdout.readline()
        if not line:
            return
        after_s, found = json.loads(line)
        yield after_s, Found(found["mapping"], tuple(found["ways"]))


# --- in a process of its own


async def run(name: str, host: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    begun_s, identity, last = time.monotonic(), identity_of(name), None
    transport = await ZmqTransport.open(identity, listen=None if name == "client" else f"tcp://[::]:{PORT}")
    rpc = Rpc(transport)
    discovery = Discovery(rpc, identity, Random(name))
    rpc.start()
    discovery.start()
    if host:
        await discovery.join([Contact(identity_of("carol").public_key, (f"tcp://{host}:{PORT}",))], timeout_s=5)
    while True:
        found = _look(discovery, transport)
        if found != last:
            print(json.dumps([time.monotonic() - begun_s, asdict(found)]), flush=True)
            last = found
        await asyncio.sleep(LOOK_S)


def _look(discovery: Discovery, transport: ZmqTransport) -> Found:
    given = transport.relays.given if transport.relays is not None else ()
    nat = transport.outlook.nat if transport.outlook is not None else None
    ways = dict[str, None]()
    for address in filter(discovery.reach.is_reached, discovery.contact.addresses):
        is_own = leads_here(parse_address(address)[0])
        is_seen = nat is not None and address == nat.address
        ways["relay" if address in given else "own" if is_own else "seen" if is_seen else "mapped"] = None
    return Found((nat.kind if nat is not None else Kind.UNKNOWN).value, tuple(ways))


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))

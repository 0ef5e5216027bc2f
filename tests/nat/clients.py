"""How a client that asks somebody at home is linked to him, at first and after some seconds, in homes of all kinds.

    python -m tests.nat.clients dsd://11.1.1.10:29170/KEY bob tcp://11.2.2.10:41234,...

Such is one process: a client on its host, which joins there and asks bob, told where he is called, again and again. It
tells how that link leads whenever that changes, and after how many seconds. Who is asked is a process of relayed.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from select import select
from typing import Any

import structlog

from dsdnode.client.client import Client
from dsdnode.errors import DsdError
from dsdnode.net.port import LinkKind
from dsdnode.wire.joins import format_join
from dsdnode.wire.messages import Contact
from tests.nat.kinds import KINDS
from tests.nat.lab import Host, Lab, lab
from tests.nat.pairs import DELAY_MS, RANDOM, REACHED
from tests.nat.relayed import PORT, identity_of
from tests.nat.situations import only_v4, only_v6
from tests.node.mutation import ROOT

RELAYS = "carol", "rose"
OPEN = (*REACHED, "arc")
CALLEES = "public", "prc", "cgn", "symseq", "symf"
"""Who are asked, by default; they and their clients have IPv4 alone."""
V6 = "v6fw"
"""Both have IPv6 alone, behind firewalls that let in answers."""
PATIENCE_S = 20.0
ASK_EVERY_S = 0.25
ASKED_S = 5.0


def expected(client: str, callee: str) -> str:
    """Whoever is reached is called; of two that nobody reaches, one whose ports can be told calls another one."""
    if callee in REACHED:
        return "direct"
    if callee == V6:
        return "punched"
    return "relayed" if {client, callee} & set(RANDOM) and not {client, callee} & set(OPEN) else "punched"


def main(kinds: Sequence[str]) -> int:
    """`kinds`: a client's and a callee's. Exit code 1: a link is not as it should be."""
    return int(not play(kinds[:1] or [*KINDS, V6], kinds[1:] or (*CALLEES, V6)))


def play(clients: Sequence[str], callees: Sequence[str]) -> bool:
    with lab() as town, ExitStack() as stack:
        carol, rose = [town.home("public", delay_ms=DELAY_MS / 2) for _ in RELAYS]
        carols = f"tcp://{carol.public_ip}:{PORT}", f"tcp://[{carol.ip6}]:{PORT}"
        for host, name, joined in ((carol, RELAYS[0], ()), (rose, RELAYS[1], carols[:1])):
            _begin(stack, host, name, *joined)
        where = {kind: _begin(stack, _home(town, kind), f"bob-{kind}", carols[kind == V6]) for kind in callees}
        homes = {kind: _home(town, kind) for kind in clients}
        join = format_join(Contact(identity_of(RELAYS[0]).public_key, carols))
        print("| client | callee | at first | after s | in the end | after s | as it should be |")
        print("|---|---|---|---|---|---|---|")
        pairs = [(one, other) for one in clients for other in callees if (one == V6) == (other == V6)]
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda pair: _try(homes[pair[0]], pair, join, where[pair[1]]), pairs)
        return all(found)


def _home(town: Lab, kind: str) -> Host:
    home = town.home("prc" if kind == V6 else kind, delay_ms=DELAY_MS)
    return only_v6(home) if kind == V6 else only_v4(home)


def _begin(stack: ExitStack, host: Host, name: str, *words: str) -> str:
    """Where it is called."""
    process = stack.enter_context(_process(host, "tests.nat.relayed", name, *words))
    told = process.stdout.readline().decode().split()
    assert told, f"{name} is not reached"
    return ",".join(told)


def _try(home: Host, pair: tuple[str, str], join: str, where: str) -> bool:
    client, callee = pair
    told: list[tuple[float, str]] = []
    wanted, until_s = expected(client, callee), time.monotonic() + PATIENCE_S
    with _process(home, "tests.nat.clients", join, f"bob-{callee}", where) as process:
        while select([process.stdout], [], [], max(0.0, until_s - time.monotonic()))[0]:
            line = process.stdout.readline()
            if not line:
                break
            told.append(tuple(json.loads(line)))
            if told[-1][1] == wanted != LinkKind.RELAYED:
                break
    first, last = (told or [(0.0, "none")])[0], (told or [(0.0, "none")])[-1]
    is_right = last[1] == wanted
    cells = (client, callee, first[1], f"{first[0]:.1f}", last[1], f"{last[0]:.1f}", "yes" if is_right else "NO")
    print(f"| {' | '.join(cells)} |", flush=True)
    return is_right


@contextmanager
def _process(host: Host, *words: str) -> Iterator[subprocess.Popen[Any]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = host.popen(
        *(sys.executable, "-m", *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=env,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# --- in a process of its own


async def run(join: str, name: str, where: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    client, bob, last = await Client.connect([join]), identity_of(name), ""
    client._rpc.transport.introduce(Contact(bob.public_key, tuple(where.split(","))))
    begun_s = time.monotonic()
    while True:
        try:
            await client._pings.ping(bob.peer_id, timeout_s=ASKED_S)
        except DsdError as error:
            print(error, file=sys.stderr)
        link = client._pings.link(bob.peer_id)
        if link and link != last:
            print(json.dumps([time.monotonic() - begun_s, link]), flush=True)
            last = link
        await asyncio.sleep(ASK_EVERY_S)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:4]))

"""Real daemons, each in a home of its own: a pipeline of people whom nobody reaches, and a client in a fifth home.

The one that has a public address offers nothing but its place in the DHT, and relays. Nobody is told of a relay.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdnode.cli import control
from dsdnode.config import DEFAULT_LISTEN
from dsdnode.errors import DsdError
from dsdnode.node.status import NodeStatus
from dsdnode.swarm.reach import Verdict
from tests.nat.lab import Host, Lab, lab
from tests.nat.namespaces import within
from tests.node.mutation import ROOT
from tests.node.processes import COMMAND, Daemon, Swarm, swarm

MEMBERS = (
    ("bootstrap", "public", ("--role", "bootstrap")),
    ("shard-0-4", "prc", ("--role", "shard", "--layers", "0:4")),
    ("shard-4-8", "cgn", ("--role", "shard", "--layers", "4:8")),
    ("drafter", "symf", ("--role", "drafter")),
)
CLIENT = "sym"
PROMPT = "Anna has 3 apples and buys 4 more. How many apples does she have?"
PATIENCE_S = 120.0
LOOK_S = 0.1


@dataclass
class Member:
    """`ready_s`, `reached_s`: after its start; 0: not yet."""

    daemon: Daemon
    kind: str
    begun_s: float
    ready_s: float = 0.0
    reached_s: float = 0.0
    reach: str = "(no answer)"

    async def look(self) -> None:
        try:
            status = await control.ask(self.daemon.data_dir, "status", NodeStatus)
        except DsdError:
            return
        after_s, self.reach = time.monotonic() - self.begun_s, status.reach
        self.ready_s = self.ready_s or after_s
        if self.reach.startswith(Verdict.REACHED.value):
            self.reached_s = self.reached_s or after_s


def main(folder: Path) -> int:
    """Exit code 1: somebody is not reached, or there is no answer."""
    with lab() as town, swarm(folder) as people:
        members = list(_begin(town, people))
        asyncio.run(until_reached(members))
        client = town.home(CLIENT)
        asked_s = time.monotonic()
        text, first_s, num = "", 0.0, 0
        while not text and time.monotonic() < asked_s + PATIENCE_S:
            num += 1
            text, first_s = ask(client, members[0].daemon.join, folder / "client")
        asyncio.run(_look(members))
        print(f"{'member':10} {'home':7} {'ready s':>8} {'reached s':>10}  reach")
        for one in members:
            print(f"{one.daemon.name:10} {one.kind:7} {one.ready_s:8.1f} {one.reached_s:10.1f}  {one.reach}")
        print(
            f"{first_s - members[0].begun_s:.1f} s after the first was started, {first_s - asked_s:.1f} s after all "
            f"were reached, a client in a home of kind {CLIENT} reads, at the {num}. attempt: {text!r}"
        )
        return 0 if text and all(one.reached_s for one in members) else 1


def _begin(town: Lab, people: Swarm) -> Iterator[Member]:
    """The first one is waited for: the others join it."""
    join: tuple[str, ...] = ()
    for name, kind, words in MEMBERS:
        begun_s, place = time.monotonic(), within(town.home(kind).namespace)
        daemon = people.start(name, *words, *join, listen=DEFAULT_LISTEN, within=place)
        join = join or ("--join", daemon.join)
        yield Member(daemon, kind, begun_s)


async def until_reached(members: Sequence[Member]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s and not all(one.reached_s for one in members):
        await _look(members)
        await asyncio.sleep(LOOK_S)


async def _look(members: Sequence[Member]) -> None:
    for one in members:
        await one.look()


def ask(client: Host, join: str, data_dir: Path) -> tuple[str, float]:
    """What comes, and when its first byte was here."""
    words = ("run", "--join", join, "--data-dir", str(data_dir), "--max-tokens", "48", PROMPT)
    process = client.popen(*COMMAND, *words, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"})
    assert process.stdout is not None
    first = process.stdout.read(1)
    first_s = time.monotonic()
    return (first + process.stdout.read()).decode(errors="replace").strip(), first_s

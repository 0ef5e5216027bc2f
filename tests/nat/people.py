"""Real daemons of a lab, each on a host of its own, and clients that ask: where each is reached, and by which way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdnode.addresses import is_ip, parse_address
from dsdnode.cli import control
from dsdnode.config import DEFAULT_LISTEN
from dsdnode.errors import DsdError
from dsdnode.node.status import NodeStatus
from dsdnode.swarm.info import ModelInfo
from dsdnode.swarm.reach import Verdict
from dsdnode.wire.joins import parse_join
from tests.nat.lab import Host
from tests.nat.namespaces import within
from tests.node.mutation import ROOT
from tests.node.processes import COMMAND, Daemon, Swarm

PROMPT = "Anna has 3 apples and buys 4 more. How many apples does she have?"
LOOK_S = 0.1
ASK_S = 60.0


@dataclass
class Member:
    """`reached_s`, `met_s`: after its start it was reached, and knew `num_others`; 0 not yet. `reach`: as `status` has
    it."""

    daemon: Daemon
    host: Host
    begun_s: float
    reached_s: float = 0.0
    reach: str = "(no answer)"
    addresses: tuple[str, ...] = ()
    num_others: int = 0
    met_s: float = 0.0

    @property
    def name(self) -> str:
        return self.daemon.name

    async def look(self) -> None:
        try:
            status = await control.ask(self.daemon.data_dir, "status", NodeStatus)
        except DsdError:
            return
        after_s = time.monotonic() - self.begun_s
        self.reach, self.addresses = status.reach, parse_join(status.join).addresses
        if self.reach.startswith(Verdict.REACHED.value):
            self.reached_s = self.reached_s or after_s
        if status.known_peers >= self.num_others:
            self.met_s = self.met_s or after_s

    @property
    def is_settled(self) -> bool:
        return bool(self.reached_s and self.met_s)

    def way(self, address: str) -> str:
        """How one gets to it there: to a host of its own, to a port of its router, or to a relay."""
        host, _ = parse_address(address)
        if host in (self.host.ip, self.host.ip6) or not is_ip(host):
            return "direct"
        return "mapped" if host == self.host.public_ip else "relayed"

    @property
    def path(self) -> str:
        """By which ways others reach it, as it says itself."""
        told = self.reach.partition(";")[0].replace(",", " ").split()
        ways = [self.way(word) for word in told if word.startswith("tcp://")]
        return "+".join(dict.fromkeys(ways)) if self.reached_s else "-"

    @property
    def last_words(self) -> str:
        """Of its log."""
        return "\n".join(self.daemon.log.read_text(errors="replace").splitlines()[-12:])


@dataclass(frozen=True)
class Reply:
    """`first_s`: from the command to its first byte."""

    text: str
    first_s: float
    code: int
    said: str


def begin(people: Swarm, host: Host, name: str, *words: str, listen: str = DEFAULT_LISTEN) -> Member:
    begun_s = time.monotonic()
    return Member(people.start(name, *words, listen=listen, within=within(host.namespace)), host, begun_s)


async def until_reached(members: Sequence[Member], patience_s: float) -> None:
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s and not all(one.is_settled for one in members):
        await asyncio.gather(*(one.look() for one in members))
        await asyncio.sleep(LOOK_S)
    await asyncio.gather(*(one.look() for one in members))


async def until_complete(member: Member, patience_s: float) -> bool:
    """Does it know of a pipeline by then?"""
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        with contextlib.suppress(DsdError):
            models = await control.ask(member.daemon.data_dir, "models", list[ModelInfo])
            if any(one.complete for one in models):
                return True
        await asyncio.sleep(LOOK_S)
    return False


def ask(client: Host, join: str, folder: Path, *more: str, patience_s: float = ASK_S) -> Reply:
    """`dsdnode run` there, with no node of its own."""
    words = ("run", "--join", join, "--data-dir", str(folder), "--max-tokens", "48", "--patience", f"{patience_s:g}")
    environment, began_s = os.environ | {"NO_COLOR": "1"}, time.monotonic()
    with folder.with_suffix(".log").open("w+b") as errors:
        process = client.popen(
            *COMMAND, *words, *more, PROMPT, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment
        )
        assert process.stdout is not None
        first = process.stdout.read(1)
        first_s = time.monotonic() - began_s
        text = (first + process.stdout.read()).decode(errors="replace").strip()
        code = process.wait()
        errors.seek(0)
        return Reply(text, first_s, code, errors.read().decode(errors="replace").strip())


def hops(members: Sequence[Member]) -> list[str]:
    """Which of them have connections with which, and by which way: `drafter>shard direct`."""
    places = {_plain(address): (one, one.way(address)) for one in members for address in one.addresses}
    found: dict[str, None] = {}
    for one in members:
        for place in _connections(one.host):
            other, way = places.get(place, (None, ""))
            if other is not None and other is not one:
                found[f"{one.name}>{other.name} {way}"] = None
    return list(found)


def _plain(address: str) -> str:
    host, port = parse_address(address)
    return f"{host} {port}"


def _connections(host: Host) -> Iterable[str]:
    """Where those of a host lead to."""
    words = [*within(host.namespace), "ss", "-Htn", "state", "established"]
    for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines():
        place, _, port = line.split()[3].rpartition(":")
        yield f"{place.strip('[]').removeprefix('::ffff:')} {port}"

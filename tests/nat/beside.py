"""A relay beside its own work: `python -m tests.nat beside`: how much slower its own replies are while it carries.

A swarm of real daemons on lines without delay, everybody with a public address. The first stage also relays, with its
usual cap: 64 circuits of others, from four networks, who send as much as they may, or nothing. One reply is asked for
beside each, of the same prompt, in turn. Exit code 1: more was carried than the cap allows, or replies are 5 % slower.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.config import RELAY_BITS_PER_S
from dsdnode.models.problems import problems
from dsdnode.wire.joins import parse_join
from tests.nat.lab import Lab, lab
from tests.nat.people import Member, begin, until_complete, until_reached
from tests.node.exactness import rendered, reply
from tests.node.mutation import ROOT
from tests.node.processes import Swarm, swarm

NUM_CALLERS, NUM_CIRCUITS = 4, 16
MAX_TOKENS = 96
REACHED_S = 60.0
SETTLE_S = 1.0
"""Until what was sent before has got through, and the burst is over."""
MOST_SLOWER = MOST_OVER = 1.05
WARM = 2
"""Pairs that do not count."""


class Carried(NamedTuple):
    """Of all circuits; and round trips of one that has little to say."""

    num_bytes: float
    seconds: float
    p50_ms: float
    p99_ms: float


class Circuits:
    """Of others, through the relay of one member."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._read() == "ready", "the circuits do not stand"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def say(self, what: str) -> Carried:
        """What was since the last time."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return Carried(*map(float, self._read().split()))


def main(folder: Path, num_replies: int) -> int:
    with lab() as town, swarm(folder) as people:
        return asyncio.run(_main(town, people, num_replies))


async def _main(town: Lab, people: Swarm, num_replies: int) -> int:
    rose = begin(people, town.home("public"), "rose", "--role", "shard", "--layers", "0:4", "--threads", "1")
    join = ("--join", await asyncio.to_thread(lambda: rose.daemon.join), "--threads", "1")
    members = [
        rose,
        begin(people, town.home("public"), "drafter", "--role", "drafter", *join),
        begin(people, town.home("public"), "shard-4-8", "--role", "shard", "--layers", "4:8", *join),
    ]
    await until_reached(members, REACHED_S)
    assert await until_complete(members[1], REACHED_S), "there is no pipeline"
    port = await _relay_port(rose)
    with town.home("public").inside():
        client = await Client.connect([rose.daemon.join])
    prompts, _ = await rendered([one.question for one in problems(seed=4711, count=num_replies + WARM)])
    try:
        with _circuits(town, rose, port) as circuits:
            return await _measure(client, prompts, circuits, rose)
    finally:
        await client.close()


async def _relay_port(member: Member) -> int:
    """From its log, once it relays."""
    until_s = time.monotonic() + REACHED_S
    while time.monotonic() < until_s:
        for line in member.daemon.log.read_text(errors="replace").splitlines():
            if "a relay for those" in line:
                return int(json.loads(line)["port"])
        await asyncio.sleep(0.1)
    raise AssertionError(f"{member.name} does not relay")


@contextmanager
def _circuits(town: Lab, member: Member, port: int) -> Iterator[Circuits]:
    key = parse_join(member.daemon.join).public_key.hex()
    callee, *callers = [town.home("public").namespace for _ in range(NUM_CALLERS + 1)]
    words = [sys.executable, "-m", "tests.nat.traffic", member.host.public_ip, str(port), key, str(NUM_CIRCUITS)]
    command = [*words, callee, *callers]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Circuits(process)
        finally:
            process.kill()


@dataclass
class Side:
    """Of all replies while the circuits were idle, or busy."""

    tokens_per_s: list[float] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    cpu_s: float = 0.0
    """Of the relaying node's own process."""

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.carried)

    @property
    def num_mb(self) -> float:
        return sum(one.num_bytes for one in self.carried) / 1e6

    def tell(self, name: str) -> None:
        p50_ms, p99_ms = (statistics.median(ones) for ones in zip(*(one[2:] for one in self.carried), strict=True))
        print(
            f"{name}: {len(self.tokens_per_s)} replies, {statistics.median(self.tokens_per_s):.1f} tokens/s (median); "
            f"100 bytes there and back over a circuit {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"
        )


async def _measure(client: Client, prompts: list[tuple[int, ...]], circuits: Circuits, rose: Member) -> int:
    idle, busy = Side(), Side()
    process = psutil.Process(rose.daemon.process.pid)  # `ip netns exec` becomes what it begins
    for number, prompt in enumerate(prompts):
        for side in (idle, busy) if number % 2 else (busy, idle):
            what = "busy" if side is busy else "idle"
            circuits.say(what)
            await asyncio.sleep(SETTLE_S)
            circuits.say(what)
            before_s, began_s = sum(process.cpu_times()[:2]), time.monotonic()
            request = GenerateRequest(prompt_tokens=prompt, max_tokens=MAX_TOKENS, seed=number, temperature=0.8)
            tokens, _, _ = await reply(client, request)
            took_s, carried = time.monotonic() - began_s, circuits.say(what)
            if number >= WARM:
                side.tokens_per_s.append(len(tokens) / took_s)
                side.carried.append(carried)
                side.cpu_s += sum(process.cpu_times()[:2]) - before_s
    return _tell(idle, busy)


def _tell(idle: Side, busy: Side) -> int:
    idle.tell("idle")
    busy.tell("busy")
    slower = statistics.median(a / b for a, b in zip(idle.tokens_per_s, busy.tokens_per_s, strict=True))
    print(f"slower beside {NUM_CALLERS * NUM_CIRCUITS} busy circuits, of each pair: {slower:.3f} (median)")
    rate, cap = busy.num_mb / busy.seconds, RELAY_BITS_PER_S / 8e6
    more_ms = 1e3 * (busy.cpu_s - idle.cpu_s * busy.seconds / idle.seconds) / busy.num_mb
    print(f"carried: {rate:.2f} MB/s of {cap:.2f} that it may; {more_ms:.2f} ms of the processor more a MB")
    return int(slower > MOST_SLOWER or rate > cap * MOST_OVER)

"""What `dsdnode start --dry-run` says, and what is measured once it has been started: `python -m tests.sim.previewed`.

Six swarms of real daemons with emulated links and devices, and a newcomer in each. First it only looks; then the same
command starts it, and replies are asked for at its machine. Tokens per second of a reply, medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from dsdnode.bench.emulator import Emulator
from dsdnode.bench.shape import LinkShape
from dsdnode.cli import control, render
from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.models.problems import problems
from tests.node.processes import Daemon, Swarm, run, swarm

STAGE, DRAFT = ("50", "10"), ("0", "20")
"""ms, and ms a position: slow enough for two cores to play all of them, and to have something else to do."""
REPLIES, TOKENS, PROMPTS_SEED = 4, 64, 977
LISTENS_S, POLL_S = 120.0, 0.02
SETTLE_S = 8.0
"""Until stages have measured their links, and told of them."""


@dataclass(frozen=True)
class Case:
    """`members`: of each its words and its device's pace; `newcomer`: the same."""

    name: str
    latency_ms: float
    members: tuple[tuple[tuple[str, ...], tuple[str, str]], ...]
    newcomer: tuple[tuple[str, ...], tuple[str, str]]


def shard(layers: str, pace: tuple[str, str] = STAGE) -> tuple[tuple[str, ...], tuple[str, str]]:
    return ("--role", "shard", "--layers", layers), pace


DRAFTER = ("--role", "drafter"), DRAFT
AUTO = ("--role", "auto"), STAGE
SLOW = ("200", "20")
CASES = (
    Case("the missing half, 20 ms", 20, (DRAFTER, shard("0:4")), AUTO),
    Case("a drafter of one's own, 80 ms", 80, (DRAFTER, shard("0:4"), shard("4:8")), DRAFTER),
    Case("beside a slow stage, 40 ms", 40, (DRAFTER, shard("0:4"), shard("4:8", SLOW)), shard("4:8")),
    Case("a third copy, 40 ms", 40, (DRAFTER, shard("0:4"), shard("4:8")), AUTO),
    Case("plain decoding, 80 ms", 80, (DRAFTER, shard("0:4"), shard("4:8", SLOW)), (*shard("4:8"),)),
    Case("the last of four, 120 ms", 120, (DRAFTER, shard("0:2"), shard("2:4"), shard("4:6")), AUTO),
)  # fmt: skip
PLAIN = ("--draft-max", "0")


@dataclass(frozen=True)
class Figure:
    name: str
    part: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def row(self) -> tuple[str, ...]:
        off = f"{100 * self.error:+.1f} %"
        return self.name, self.part, f"{self.measured:.3g}", f"{self.predicted:.3g}", off


class Laboratory:
    """One swarm, each of its daemons behind a proxy."""

    def __init__(self, case: Case, made: Swarm, emulator: Emulator) -> None:
        self._case, self._made, self._emulator = case, made, emulator
        self._more = PLAIN if case.name.startswith("plain") else ()
        self._num = 0
        self.join = ""

    def begin(self, words: Sequence[str], pace: tuple[str, str]) -> Daemon:
        port = self._emulator.open()
        told = [*words, "-t", "1", "--emulate-ms", *pace, *self._more, "--advertise", f"tcp://127.0.0.1:{port}"]
        told += ["--join", self.join] if self.join else []
        daemon = self._made.start(f"m{self._num}", *told)
        self._emulator.aim(self._num, listening_port(daemon))
        self._num += 1
        self.join = self.join or daemon.join
        assert daemon.ready
        return daemon

    def figure(self) -> Figure:
        for words, pace in self._case.members:
            self.begin(words, pace)
        words, pace = self._case.newcomer
        self._emulator.shape([LinkShape(self._case.latency_ms / 1e3)] * self._num)
        asyncio.run(asyncio.sleep(SETTLE_S))
        look = (
            "start",
            "--dry-run",
            "--json",
            "--join",
            self.join,
            "-t",
            "1",
            "--emulate-ms",
            *pace,
            *words,
            *self._more,
        )
        said = json.loads(run(*look, "--data-dir", str(self._made.folder / "look"), timeout_s=600).stdout)
        print(json.dumps(said), file=sys.stderr)
        newcomer = self.begin(words, pace)
        self._emulator.shape([LinkShape(self._case.latency_ms / 1e3)] * self._num)
        asyncio.run(asyncio.sleep(SETTLE_S))
        part = "+".join(said["roles"]) + (" {}:{}".format(*said["layers"]) if said["layers"] else "")
        return Figure(self._case.name, part, said["tokens_per_second"], asyncio.run(measured(newcomer)))


def listening_port(daemon: Daemon) -> int:
    """Where it listens itself, as soon as it does."""
    until_s = time.monotonic() + LISTENS_S
    while time.monotonic() < until_s:
        connections = psutil.Process(daemon.process.pid).net_connections(kind="tcp")
        listening = [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]
        if listening:
            return int(listening[0])
        time.sleep(POLL_S)
    raise AssertionError(f"{daemon.name} does not listen:\n{daemon.log.read_text()}")


async def measured(newcomer: Daemon) -> float:
    """Tokens a second of replies that its own user asks for, one after the other."""
    here = await control.ask(newcomer.data_dir, "connection", control.Connection)
    client = await Client.connect((here.join,))
    try:
        speeds = []
        for problem in problems(PROMPTS_SEED, REPLIES):
            request = GenerateRequest(messages=[{"role": "user", "content": problem.question}], max_tokens=TOKENS)
            async for event in client.generate(request):
                if isinstance(event, Finished) and event.stats.tokens_per_second:
                    speeds.append(event.stats.tokens_per_second)
        return statistics.median(speeds)
    finally:
        await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=int, help="numbers, from 0 (all)")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    figures = []
    for number in arguments.cases or range(len(CASES)):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            emulator = stack.enter_context(Emulator(seed=1))
            made = stack.enter_context(swarm(Path(folder)))
            figures.append(Laboratory(CASES[number], made, emulator).figure())
            print("  ".join(figures[-1].row), file=sys.stderr)
    print(render.table(("CASE", "PART", "MEASURED", "PREDICTED", "OFF BY"), [one.row for one in figures]))
    sizes = sorted(abs(one.error) for one in figures)
    print(f"{len(sizes)} figures: median error {100 * statistics.median(sizes):.1f} %, worst {100 * sizes[-1]:.1f} %")


if __name__ == "__main__":
    main()

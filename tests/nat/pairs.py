"""Which links come about between homes of all kinds, how, and how soon: the processes are those of paired.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO

from tests.nat.kinds import KINDS
from tests.nat.lab import Host, Lab, lab
from tests.nat.relayed import PORT
from tests.node.mutation import ROOT

RELAYS = "rose", "ruth"
REACHED = "public", "cone"
RANDOM = "sym", "symf", "cgnsym"
DELAY_MS = 10.0
"""From each home to the middle; of relays half of it."""


def expected(caller: str, callee: str) -> str:
    """As it was measured before any of it was built."""
    if callee in REACHED:
        return "direct"
    if caller in REACHED:
        return "reversed"
    if not {caller, callee} & set(RANDOM):
        return "punched"
    return "punched" if "arc" in (caller, callee) else "relayed"


class Process:
    def __init__(self, host: Host, *words: str, log: TextIO | None = None) -> None:
        self._process = host.popen(
            *(sys.executable, "-m", "tests.nat.paired", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log or subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.where = ""

    def hear(self) -> str:
        return str(self._process.stdout.readline()).strip()

    def begun(self) -> Process:
        self.where = self.hear()
        return self

    def link(self, name: str, where: str) -> str:
        self._process.stdin.write(f"{name} {where}\n")
        self._process.stdin.flush()
        return self.hear()


class Town:
    """A home for each of the callers, and for each of the callees, beside two relays."""

    def __init__(self, town: Lab, callers: Sequence[str], callees: Sequence[str], log: TextIO | None = None) -> None:
        """By their kinds."""
        relays = [Process(town.home("public", delay_ms=DELAY_MS / 2), name, log=log) for name in RELAYS]
        self._relays = ",".join(relay.begun().where for relay in relays)
        self._log = log
        names = [f"caller-{kind}" for kind in callers] + [f"callee-{kind}" for kind in callees]
        self.peers = {name: self._peer(town, name) for name in names}
        for process in self.peers.values():
            process.begun()

    def _peer(self, town: Lab, name: str) -> Process:
        kind = name.partition("-")[2]
        home = town.home(kind, delay_ms=DELAY_MS)
        reached = f"tcp://{home.public_ip}:{PORT}"
        words = ("reached", reached) if kind in REACHED else ("relayed", self._relays)
        return Process(home, name, *words, log=self._log)

    def link(self, caller: str, callee: str) -> str:
        other = f"callee-{callee}"
        return self.peers[f"caller-{caller}"].link(other, self.peers[other].where)


def main(kinds: Sequence[str]) -> int:
    """Exit code 1: a pair is not linked as it should be."""
    with lab() as homes:
        town = Town(homes, kinds[:1] or list(KINDS), kinds[1:] or list(KINDS), sys.stderr if kinds else None)
        found: dict[tuple[str, str], str] = {}
        with ThreadPoolExecutor(len(KINDS)) as pool:
            for pairs in [[(kinds[0], kinds[1])]] if kinds else rounds(list(KINDS)):
                found |= zip(pairs, pool.map(lambda pair: town.link(*pair), pairs), strict=True)
    print("| caller | callee | link | first answer ms | that link ms |\n|---|---|---|---|---|")
    for (caller, callee), said in sorted(found.items(), key=lambda one: [list(KINDS).index(kind) for kind in one[0]]):
        as_it_should = said.split()[0] == expected(caller, callee)
        print(f"| {caller} | {callee} | {' | '.join(said.split(' ', 2))} |" + "" * as_it_should)
        if not as_it_should:
            print(f"{caller} to {callee}: {said}, not {expected(caller, callee)}", file=sys.stderr)
    print(dict(Counter(said.split()[0] for said in found.values())))
    return int(any(said.split()[0] != expected(*pair) for pair, said in found.items()))


def rounds(kinds: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """All pairs, so that everybody is in one at a time."""
    for shift in range(len(kinds)):
        yield [(kind, kinds[(index + shift) % len(kinds)]) for index, kind in enumerate(kinds)]

"""From nothing to being of use: `dsdnode start` on a laptop in each kind of home, with one member named to it.

Another one is there beside it. What is printed is read as a user reads it, with the time; then somebody elsewhere, who
knows that first member alone, asks for a reply, which this laptop gives (it has the whole demo pair): it is usable
indeed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from dsdnode.config import DEFAULT_LISTEN
from dsdnode.swarm.reach import Verdict
from tests.nat.homes import ask
from tests.nat.kinds import KINDS
from tests.nat.lab import Host, Lab, lab
from tests.nat.namespaces import within
from tests.node.mutation import ROOT
from tests.node.processes import COMMAND, STOP_TIMEOUT_S, swarm

PATIENCE_S = 60.0
REST_S = 0.2
"""For the rest of what is said in one breath."""


@dataclass
class Start:
    """`told`: lines with the seconds after the start at which each was read."""

    kind: str
    told: list[tuple[float, str]] = field(default_factory=list)
    answer_s: float = 0.0
    answer: str = ""

    def first_s(self, words: str) -> float:
        """0: that was never said."""
        return next((at_s for at_s, line in self.told if words in line), 0.0)

    @property
    def how(self) -> str:
        """As it said last, in one line."""
        begun = [index for index, (_, line) in enumerate(self.told) if line.startswith("after ")]
        return " ".join(line for _, line in self.told[begun[-1] :]) if begun else "(nothing was said)"

    @property
    def is_usable(self) -> bool:
        return bool(self.answer) and self.first_s(f"s: {Verdict.REACHED.value}") > 0


def main(folder: Path, tells_all: bool) -> int:
    """Exit code 1: some laptop is of no use to others, or said so too soon or never."""
    starts = []
    with lab() as town, swarm(folder) as people:
        carols = within(town.home("public").namespace)
        join = people.start("carol", "--role", "bootstrap", listen=DEFAULT_LISTEN, within=carols).join
        daves = within(town.home("public").namespace)
        people.start("dave", "--role", "bootstrap", "--join", join, listen=DEFAULT_LISTEN, within=daves)
        print(f"{'kind':8} {'ready s':>8} {'usable s':>9} {'answer s':>9}  what was said last")
        elsewhere = town.home("public")
        for kind in KINDS:
            one = _start(town, elsewhere, kind, join, folder)
            starts.append(one)
            times_s = one.first_s("ready"), one.first_s(f"s: {Verdict.REACHED.value}"), one.answer_s
            print(f"{kind:8} {times_s[0]:8.1f} {times_s[1]:9.1f} {times_s[2]:9.1f}  {one.how}", flush=True)
    for one in starts if tells_all else []:
        print(f"\n{one.kind}:")
        for at_s, line in one.told:
            print(f"{at_s:6.1f} s  {line}")
    return 0 if all(one.is_usable for one in starts) else 1


def _start(town: Lab, elsewhere: Host, kind: str, join: str, folder: Path) -> Start:
    begun_s, made = time.monotonic(), Start(kind)
    words = ("start", "--leash", "--data-dir", str(folder / kind), "--join", join, "--threads", "1")
    host = town.home(kind)
    with (folder / f"{kind}.log").open("w") as log:
        process = host.popen(
            *(*COMMAND, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=os.environ | {"NO_COLOR": "1"},
        )
    _read(process, made, begun_s)
    if made.first_s(f"s: {Verdict.REACHED.value}"):
        asked_s = time.monotonic()
        made.answer, first_s = ask(elsewhere, join, folder / f"{kind}-client")
        made.answer_s = first_s - asked_s
    process.terminate()
    process.wait(STOP_TIMEOUT_S)
    return made


def _read(process: subprocess.Popen[str], made: Start, begun_s: float) -> None:
    """Until it says that others reach it, and all of that, or time is up."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip("\n"))

    threading.Thread(target=read, daemon=True).start()
    until_s = begun_s + PATIENCE_S
    with contextlib.suppress(queue.Empty):
        while True:
            line = lines.get(timeout=max(0.0, until_s - time.monotonic()))
            made.told.append((time.monotonic() - begun_s, line))
            if f"s: {Verdict.REACHED.value}" in line:
                until_s = time.monotonic() + REST_S

"""Real daemons for tests and measurements: separate processes, started as a user starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "dsdnode.cli")
STOP_TIMEOUT_S = 20.0


def run(*arguments: str, timeout_s: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One command of the command line, to its end."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=timeout_s)
    assert not check or done.returncode == 0, done.stderr
    return done


@dataclass
class Daemon:
    """`dsdnode start`, begun at once; `ready` waits for its line."""

    name: str
    process: subprocess.Popen[str]
    data_dir: Path
    log: Path
    _ready: dict[str, Any] | None = None

    @property
    def ready(self) -> dict[str, Any]:
        if self._ready is None:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, f"{self.name} did not get ready:\n{self.log.read_text()}"
            self._ready = json.loads(line)
        return self._ready

    @property
    def join(self) -> str:
        return str(self.ready["join"])

    def status(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(run("status", "--json", "--data-dir", str(self.data_dir)).stdout)
        return result

    @property
    def worker_pid(self) -> int:
        return int(self.status()["engines"][0]["worker_pid"])

    def kill(self) -> None:
        """No goodbye. (The worker sees the end of its socket and goes, too.)"""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)


@dataclass
class Swarm:
    """`start` daemons; all end with the context of `swarm`, or with this process, however it ends."""

    folder: Path
    daemons: dict[str, Daemon] = field(default_factory=dict)

    def start(
        self,
        name: str,
        *arguments: str,
        listen: str = "tcp://127.0.0.1:0",
        within: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
    ) -> Daemon:
        """`within`: what its command begins with (tests/nat/namespaces.py); `command`: that takes the place of ours."""
        data_dir, log = self.folder / name, self.folder / f"{name}.log"
        start = [*within, *command, "start", "--json", "--leash", "--data-dir", str(data_dir)]
        start += ["--on-battery", "--on-metered"] if command is COMMAND else []
        words = [*start, "--listen", listen, *arguments]
        environment = os.environ | {"NO_COLOR": "1"}
        with log.open("w") as errors:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self.daemons[name] = Daemon(name, process, data_dir, log)
        return self.daemons[name]

    def start_ring(self, ranges: Sequence[str], *arguments: str) -> str:
        """A bootstrap, a drafter, one shard peer a range ("0:4"), all ready; the bootstrap's join string."""
        join = self.start("boot", "--role", "bootstrap").join
        common = ("--join", join, "--threads", "1", *arguments)
        self.start("drafter", "--role", "drafter", *common)
        for i, layers in enumerate(ranges):
            self.start(f"shard{i}", "--role", "shard", "--layers", layers, *common)
        for daemon in self.daemons.values():
            assert daemon.ready
        return join


@contextlib.contextmanager
def swarm(folder: Path) -> Iterator[Swarm]:
    made = Swarm(folder)
    try:
        yield made
    finally:
        for daemon in made.daemons.values():
            daemon.process.terminate()
        for daemon in made.daemons.values():
            try:
                daemon.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
            for pipe in (daemon.process.stdin, daemon.process.stdout):
                if pipe is not None:
                    pipe.close()

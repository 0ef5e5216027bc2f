"""The command line as alice types it: `call("run", "hello")`, in this process. Her swarm is scripted, or real."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dsdnode.cli import main
from dsdnode.errors import DsdError
from dsdnode.identity import ANYBODY, PeerChoice
from dsdnode.swarm.info import ModelInfo, PeerInfo
from tests.cli.known import MODELS, PEERS

ROOT = Path(__file__).resolve().parents[2]
KEY = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
JOIN = f"dsd://127.0.0.1:29170/{KEY}"
CTRL_C = object()
"""In a script: alice loses patience."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings and without a daemon."""
    for name in [name for name in os.environ if name.startswith("DSDNODE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def run(*argv: object, stdin: str | bytes = "") -> Result:
        said = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(said), "utf-8"))
        capfd.readouterr()
        code = main.call([str(word) for word in argv])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@dataclass
class Swarm:
    """What alice's client finds: for each reply one script of events, an error or CTRL_C to end it."""

    replies: list[list[Any]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    joins: Sequence[str] = ()
    swarm_keys: tuple[str, ...] = ()
    choice: PeerChoice = ANYBODY
    refuses: DsdError | None = None
    closed: int = 0


class Words(str):
    """What the client says that it is waiting for."""


@pytest.fixture
def swarm(monkeypatch: pytest.MonkeyPatch) -> Swarm:
    script = Swarm()

    class ScriptedClient:
        @classmethod
        async def connect(
            cls,
            joins: Sequence[str],
            swarm_keys: tuple[str, ...] = (),
            patience_s: float = 60,
            told: Any = None,
            identity: Any = None,
        ) -> ScriptedClient:
            if script.refuses is not None:
                raise script.refuses
            script.joins, script.swarm_keys = joins, swarm_keys
            return cls()

        async def generate(self, request: Any, told: Callable[[str], None]) -> AsyncIterator[Any]:
            script.requests.append(request)
            for event in script.replies.pop(0):
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Words):
                    told(event)
                    continue
                if event is CTRL_C:
                    os.kill(os.getpid(), signal.SIGINT)
                    await asyncio.Event().wait()
                yield event

        def restrict(self, choice: PeerChoice) -> None:
            script.choice = choice

        async def peers(self) -> list[PeerInfo]:
            return PEERS

        async def models(self) -> list[ModelInfo]:
            return MODELS

        async def close(self) -> None:
            script.closed += 1

    for simulated in ("live", "load", "preview", "world"):  # which take the real one when they are loaded
        importlib.import_module(f"dsdnode.sim.{simulated}")
    monkeypatch.setattr("dsdnode.client.client.Client", ScriptedClient)
    return script


class Daemon:
    """A real `dsdnode start` in a process of its own; with `fake`, around a node that does nothing (fake_node.py)."""

    def __init__(self, data_dir: Path, *words: str, fake: bool = False, **streams: Any) -> None:
        module = "tests.cli.fake_node" if fake else "dsdnode.cli"
        command = [
            sys.executable,
            "-m",
            module,
            "start",
            "--json",
            "--on-battery",
            "--on-metered",
            "--listen",
            "tcp://127.0.0.1:0",
        ]
        roles = () if "--role" in words else ("--role", "bootstrap")
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*command, *roles, "--data-dir", str(data_dir), *words],
            text=True,
            cwd=ROOT,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
        )

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        result: dict[str, Any] = json.loads(line)
        return result

    def log_until(self, pattern: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"the daemon ended without {pattern}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def daemon(home: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons; none outlives the test."""
    started: list[Daemon] = []

    def start(*words: str, name: str = "alice", fake: bool = False, **streams: Any) -> Daemon:
        started.append(Daemon(home / name, *words, fake=fake, **streams))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()

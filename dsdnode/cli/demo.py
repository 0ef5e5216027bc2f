"""What `scripts/demo` runs: a swarm of separate daemons on this machine, a chat with it, and everything down again."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from dsdnode.cli import connect, replying
from dsdnode.cli.chat import converse
from dsdnode.cli.options import common_options, json_option, load
from dsdnode.cli.run import reply_once, text_request
from dsdnode.cli.settings import ENV_PREFIX, Resolved
from dsdnode.errors import BadInput, DsdError, NoPipeline

READY_WITHIN_S = 20.0
STOP_WITHIN_S = 10.0


@click.command(hidden=True, epilog='\b\nExample:\n  scripts/demo --shards 4 --prompt "What is 12 plus 30?"')
@click.option("--shards", default=3, show_default=True, help="Shard peers to split the demo target over.")
@click.option("--prompt", metavar="TEXT", help="Answer this once and leave, in place of a chat.")
@replying.replying_options
@json_option
@common_options
def demo(shards: int, prompt: str | None, as_json: bool, **flags: Any) -> None:
    """Start a bootstrap, shards and a drafter as daemons of their own on the demo models, and talk with them."""
    wanted = replying.take(flags)
    if as_json and prompt is None:
        raise BadInput("--json goes with --prompt")
    temporary = tempfile.TemporaryDirectory(prefix="dsdnode-demo-", ignore_cleanup_errors=True)
    with _signals(), temporary as folder:
        _isolate(Path(folder))
        with _daemons(Path(folder), shards) as join:
            settings = load({**flags, "join": (join,), "swarm_key": None})
            asyncio.run(_wait_complete(settings))
            if prompt is None:
                asyncio.run(converse(settings, wanted))
            else:
                asyncio.run(reply_once(settings, text_request(wanted, prompt, raw=False), as_json))


@contextmanager
def _signals() -> Iterator[None]:
    """Every way of being told to leave is an exception, which takes the daemons down."""
    handlers = {signal.SIGINT: _interrupt, signal.SIGTERM: _leave, signal.SIGHUP: _leave}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """In place of asyncio's handler, which cancels a task: a cancellation that meets a timeout can be lost."""
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _isolate(folder: Path) -> None:
    """The demo shows the built-in settings, whatever this user's own ones are."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")


@contextmanager
def _daemons(folder: Path, num_shards: int) -> Iterator[str]:
    """All daemons, ready; yields how to join them. However it is left, none survives."""
    ranges = _ranges(num_shards)
    running: list[Daemon] = []
    began_s = time.monotonic()
    try:
        running.append(Daemon(folder / "bootstrap", "--role", "bootstrap"))
        join = running[0].ready()["join"]
        for layers in ranges:
            running.append(Daemon(folder / f"shard-{layers.replace(':', '-')}", "--role", "shard", *_to(join, layers)))
        running.append(Daemon(folder / "drafter", "--role", "drafter", "--join", join))
        for daemon in running[1:]:
            daemon.ready()
        took_s = time.monotonic() - began_s
        shards = f"{num_shards} shard{'s' * (num_shards > 1)} (layers {', '.join(ranges)})"
        _tell(f"a bootstrap, {shards} and a drafter, up in {took_s:.1f} s")
        yield join
    finally:
        _take_down(running)


def _to(join: str, layers: str) -> tuple[str, ...]:
    return "--join", join, "--layers", layers


def _ranges(num_shards: int) -> list[str]:
    """The demo target's layers in `num_shards` ranges as even as can be."""
    from dsdnode.engine.gguf import read_manifest
    from dsdnode.models import demo_target

    num_layers = read_manifest(demo_target()).num_layers
    if not 1 <= num_shards <= num_layers:
        raise BadInput(f"the demo target has {num_layers} layers: --shards 1 to {num_layers}, not {num_shards}")
    cuts = [num_layers * i // num_shards for i in range(num_shards + 1)]
    return [f"{start}:{end}" for start, end in itertools.pairwise(cuts)]


class Daemon:
    """One `dsdnode start` on loopback in a process group of its own: the terminal's Ctrl-C is ours alone to obey."""

    def __init__(self, data_dir: Path, *words: str) -> None:
        data_dir.mkdir(mode=0o700)
        self._log = data_dir / "node.log"
        command = [sys.executable, "-m", "dsdnode.cli", "start", "--listen", "tcp://127.0.0.1:0", "--json"]
        # Stages of one reply take turns, and models this small gain nothing from more threads.
        with self._log.open("wb") as log_file:
            self.process = subprocess.Popen(
                [*command, "--threads", "1", "--data-dir", str(data_dir), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                process_group=0,
            )

    def ready(self) -> dict[str, Any]:
        """Its readiness line. Raises DsdError with its own last words when it ends before."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace").splitlines()
            raise DsdError("a daemon of the demo did not start:\n" + "\n".join(said[-10:]))
        ready: dict[str, Any] = json.loads(line)
        return ready


def _take_down(running: list[Daemon]) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for daemon in running:
        daemon.process.terminate()
    deadline_s = time.monotonic() + STOP_WITHIN_S
    for daemon in running:
        try:
            daemon.process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(daemon.process.pid, signal.SIGKILL)
            daemon.process.wait()
    signal.signal(signal.SIGINT, before)


async def _wait_complete(settings: Resolved) -> None:
    """Until the swarm tells that some model is complete and has a drafter. Raises NoPipeline."""
    async with connect.client(settings) as client:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not any(m["complete"] and m["drafters"] for m in await client.models()):  # noqa: ASYNC110 (no event tells it)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise NoPipeline(f"the demo's daemons did not find one another within {READY_WITHIN_S:.0f} s") from None


def _tell(text: str) -> None:
    click.echo(text, err=True)

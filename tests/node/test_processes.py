"""Separate daemons, llama.cpp in their workers, CURVE between them: kill -9 in the middle of replies."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

import dsdnode
from dsdnode.cli import control
from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.config import NodeConfig
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import NoPipeline
from dsdnode.models import demo_target
from dsdnode.node.node import Node
from dsdnode.node.status import NodeStatus
from tests.node.processes import Daemon, Swarm, run, swarm

pytestmark = pytest.mark.slow
SOON = ("--patience", "5")
"""So long a host that was killed is waited for."""

REQUEST = GenerateRequest(
    prompt="Once there was a number", max_tokens=250, temperature=3.0, seed=12, draft_max=2, wire="f32"
)
"""So hot that no reply ends by itself; with this seed no two tokens are so near a tie that rounding decides."""


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Swarm]:
    with swarm(tmp_path) as made:
        yield made


async def reply(join: str, hurt: Callable[[], Awaitable[None]] | None = None) -> tuple[str, Finished]:
    """A whole reply, with `hurt` awaited once in its middle."""
    client = await Client.connect([join])
    text = ""
    try:
        async for event in client.generate(REQUEST):
            if isinstance(event, Finished):
                return text, event
            text += event.text
            if hurt is not None and len(text) > 40:
                await hurt()
                hurt = None
    finally:
        await client.close()
    raise AssertionError("a reply ends with Finished")


def config(data_dir: Path, roles: tuple[str, ...], joins: tuple[str, ...] = ()) -> NodeConfig:
    return NodeConfig(roles=roles, listen="tcp://127.0.0.1:0", joins=joins, data_dir=data_dir, threads=1)


async def status_of(daemon: Daemon) -> NodeStatus:
    return await control.ask(daemon.data_dir, "status", NodeStatus)


async def serving(daemons: Sequence[Daemon]) -> Daemon:
    """Which of these replicas has the session?"""
    for daemon in daemons:
        if (await status_of(daemon)).sessions.shard:
            return daemon
    raise AssertionError("none of them serves")


@pytest.mark.timeout(120)
async def test_a_reply_goes_on_whoever_dies_as_long_as_somebody_has_its_layers(real: Swarm) -> None:
    """A worker; then of two peers with the same layers the one that serves; then the other."""
    join = real.start_ring(["0:4", "4:8", "4:8"], "--patience", "10")
    the_readme_is_right(join)
    expected, finished = await reply(join)
    assert finished.stats.recoveries == 0
    await worker_dies(real.daemons["shard0"], join, expected)
    replicas = [real.daemons["shard1"], real.daemons["shard2"]]

    async def kill() -> None:
        (await serving(replicas)).kill()

    text, finished = await reply(join, kill)
    assert text == expected
    assert finished.stats.recoveries >= 1
    [last] = [one for one in replicas if one.process.poll() is None]
    await last_one_dies(last, join)


def the_readme_is_right(join: str) -> None:
    """Carol copies its lines of Python, with her own swarm in them."""
    page = Path(dsdnode.__file__).parent.parent / "README.md"
    (program,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (place,) = re.findall(r"dsd://[^\"]*", program)
    done = subprocess.run(
        [sys.executable, "-c", program.replace(place, join)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "34 + 25 = 59" in done.stdout and not done.stderr


async def worker_dies(victim: Daemon, join: str, expected: str) -> None:
    """Its daemon starts another one, and says what was."""
    pid = (await status_of(victim)).engines[0].worker_pid
    assert pid is not None

    async def kill() -> None:
        os.kill(pid, signal.SIGKILL)

    text, finished = await reply(join, kill)
    assert text == expected
    assert finished.stats.recoveries >= 1
    assert victim.process.poll() is None
    [engine] = (await status_of(victim)).engines
    assert engine.worker_pid != pid
    assert (engine.num_deaths, engine.quarantined) == (1, "") and "SIGKILL" in engine.last_death
    said = run("status", "--data-dir", str(victim.data_dir)).stdout
    assert "deaths of the shard's worker: 1; the last one: the engine's process was ended by SIGKILL" in said


async def last_one_dies(victim: Daemon, join: str) -> None:
    """Nobody has layers 4:8 any more."""
    client = await Client.connect([join], patience_s=5)
    text = ""
    try:
        with pytest.raises(NoPipeline, match="4:8"):
            async for event in client.generate(REQUEST):
                if isinstance(event, Piece):
                    text += event.text
                if len(text) > 20 and victim.process.poll() is None:
                    victim.kill()
    finally:
        await client.close()
    assert len(text) > 20
    failed = run("run", "--join", join, "--patience", "5", "hello", check=False)
    assert failed.returncode == 4
    assert "4:8" in failed.stderr


async def test_who_is_ready_is_known(tmp_path: Path) -> None:
    alice = await Node.start(config(tmp_path / "alice", roles=("bootstrap",)))
    try:
        bob = await Node.start(config(tmp_path / "bob", roles=("drafter",), joins=(alice.join,)))
        # Nothing is awaited in between: alice knew before bob was said to be ready.
        records = [record for record, _ in alice.discovery.store.get(MODELS_KEY, asyncio.get_running_loop().time())]
        await bob.close()
    finally:
        await alice.close()
    assert [(record.role, record.contact) for record in records] == [("drafter", bob.discovery.contact)]


async def test_a_model_file_is_written_to_in_mid_reply_and_another_peer_goes_on(real: Swarm, tmp_path: Path) -> None:
    """Bob copies another model over his, in place: not one token of it is ever told, and he offers it no more."""
    join = real.start_ring([], *SOON)
    for name in ("bob", "carol"):
        model = tmp_path / f"{name}.gguf"
        model.write_bytes(demo_target().read_bytes())
        real.start(name, "--role", "shard", "--layers", "0:8", "-m", str(model), "--join", join, "--threads", "1")
    peers = [real.daemons["bob"], real.daemons["carol"]]
    assert all(peer.ready for peer in peers)
    expected, _ = await reply(join)
    written: list[Daemon] = []

    async def overwrite() -> None:
        written.append(await serving(peers))
        with (tmp_path / f"{written[0].name}.gguf").open("r+b") as file:
            file.seek(-(1 << 20), os.SEEK_END)
            file.write(bytes(1 << 20))

    text, finished = await reply(join, overwrite)
    assert text == expected and finished.stats.recoveries >= 1
    assert (await reply(join))[0] == expected
    bob, [carol] = written[0], [peer for peer in peers if peer is not written[0]]
    carol.kill()
    failed = run("run", "--join", join, "--patience", "5", "hello", check=False)
    assert failed.returncode == 4 and failed.stdout == "" and str(tmp_path) not in failed.stderr
    assert "the model file was written to" in bob.log.read_text() and bob.process.poll() is None

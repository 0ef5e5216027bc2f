"""How long a reply pauses when something in its pipeline dies: `python -m tests.node.recovery` prints a table.

Real daemons, kill -9 in the middle of a reply, or stopped, as a machine that is gone is for others: nothing is refused,
nothing answered. The pause is the longest silence at the client; the next reply's first token is waited for while what
died is still in the records.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dsdnode.cli import control
from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.errors import DsdError
from dsdnode.node.status import NodeStatus
from tests.node.processes import Daemon, Swarm, swarm

REQUEST = GenerateRequest(prompt="Once there was a number", max_tokens=250, temperature=50.0, draft_max=2)
"""So hot that few replies end by themselves."""
MAX_SEEDS = 50
Hurt = Callable[[Swarm], Awaitable[None]]


@dataclass(frozen=True)
class Told:
    """What a client saw of one reply; `ended` is the reason, or the error in words."""

    text: str
    ended: str
    recoveries: int
    pause_s: float
    first_s: float = 0.0
    """Until the first token."""


async def long_request(join: str) -> tuple[GenerateRequest, Told]:
    """One whose reply does not end by itself, and that reply."""
    for seed in range(MAX_SEEDS):
        request = replace(REQUEST, seed=seed)
        told = await reply(join, request)
        if told.ended == "length":
            return request, told
    raise AssertionError("every reply ends by itself")


async def reply(join: str, request: GenerateRequest, hurt: Callable[[], Awaitable[None]] | None = None) -> Told:
    """One reply, with `hurt` awaited once in its middle."""
    client = await Client.connect([join])
    loop = asyncio.get_running_loop()
    text, pause_s, last_s = "", 0.0, None
    began_s = first_s = loop.time()
    try:
        async for event in client.generate(request):
            now = loop.time()
            pause_s = max(pause_s, now - last_s) if last_s is not None else 0.0
            first_s = first_s if last_s else now
            last_s = now
            if isinstance(event, Finished):
                return Told(text, event.reason, event.stats.recoveries, pause_s, first_s - began_s)
            text += event.text
            if hurt is not None and len(text) > 40:
                await hurt()
                hurt, last_s = None, loop.time()
    except DsdError as error:
        return Told(text, f"exit code {error.exit_code}: {error}", 0, loop.time() - (last_s or 0.0))
    finally:
        await client.close()
    raise AssertionError("a reply ends with Finished")


async def serving(made: Swarm, role: str, prefix: str) -> Daemon:
    """Which of the daemons of that name has the session?"""
    for name, daemon in made.daemons.items():
        if name.startswith(prefix) and daemon.process.poll() is None:
            status = await control.ask(daemon.data_dir, "status", NodeStatus)
            if getattr(status.sessions, role):
                return daemon
    raise AssertionError("none of them serves")


async def kill_stage(made: Swarm) -> None:
    (await serving(made, "shard", "last")).kill()


async def stop_stage(made: Swarm) -> None:
    (await serving(made, "shard", "last")).process.send_signal(signal.SIGSTOP)


async def stop_drafter(made: Swarm) -> None:
    (await serving(made, "drafter", "drafter")).process.send_signal(signal.SIGSTOP)


def go_on(made: Swarm) -> None:
    """All that are stopped."""
    for daemon in made.daemons.values():
        if daemon.process.poll() is None:
            daemon.process.send_signal(signal.SIGCONT)


async def kill_drafter(made: Swarm) -> None:
    (await serving(made, "drafter", "drafter")).kill()


async def kill_worker(made: Swarm) -> None:
    os.kill((await worker_of(made.daemons["first"])), signal.SIGKILL)


async def kill_draft_worker(made: Swarm) -> None:
    os.kill((await worker_of(await serving(made, "drafter", "drafter"))), signal.SIGKILL)


async def worker_of(daemon: Daemon) -> int:
    status = await control.ask(daemon.data_dir, "status", NodeStatus)
    pid = status.engines[0].worker_pid
    assert pid is not None
    return pid


CASES: tuple[tuple[str, Hurt], ...] = (
    ("kill -9 of a stage's worker process", kill_worker),
    ("kill -9 of the draft's worker process", kill_draft_worker),
    ("a shard peer is gone without a word, a replica there", stop_stage),
    ("a drafter peer is gone without a word, another one there", stop_drafter),
    ("kill -9 of a drafter peer, another one there", kill_drafter),
    ("kill -9 of a shard peer, a replica there", kill_stage),
    ("kill -9 of a shard peer, no replica", kill_stage),
)


def start(made: Swarm) -> str:
    join = made.start("boot", "--role", "bootstrap").join
    for name, *arguments in (
        ("drafter0", "--role", "drafter"),
        ("drafter1", "--role", "drafter"),
        ("first", "--role", "shard", "--layers", "0:4"),
        ("last0", "--role", "shard", "--layers", "4:8"),
        ("last1", "--role", "shard", "--layers", "4:8"),
    ):
        made.start(name, *arguments, "--join", join, "--threads", "1")
    for daemon in made.daemons.values():
        assert daemon.ready
    return join


async def measure(made: Swarm, join: str) -> None:
    request, expected = await long_request(join)
    short = replace(request, max_tokens=10)
    print("| what dies | same text | recoveries | pause, s | next reply, first token, s | end |")
    print("|---|---|---|---|---|---|")
    for name, hurt in CASES:
        told = await reply(join, request, partial(hurt, made))
        later = await reply(join, short)
        go_on(made)
        same = "yes" if told.text == expected.text else "a prefix" if expected.text.startswith(told.text) else "NO"
        print(
            f"| {name} | {same} | {told.recoveries} | {told.pause_s:.2f} | {later.first_s:.2f} | {told.ended} |",
            flush=True,
        )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    set_up("warning", "auto")
    with tempfile.TemporaryDirectory() as folder, swarm(Path(folder)) as made:
        asyncio.run(measure(made, start(made)))


if __name__ == "__main__":
    main()

"""Clients that hang up, on real daemons: is every session at every stage gone within a second?

    python -m tests.gateway.hangups --times 100

A gateway, a drafter and two stages of the demo pair, slowed down. By turns a client hangs up at once, while the prompt
is read, in mid-stream, and while it waits for a reply in one piece; politely, or by a reset; with each program's own
request.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from urllib.parse import urlsplit

from dsdnode.cli import control
from dsdnode.node.status import NodeStatus
from tests.node.processes import Swarm, swarm

LIMIT_S = 1.0
LOOK_FOR_S = 1.5
LOOK_S = 0.02
LONG = "Tell me about it. " * 80
SHORT = "Count from one to a thousand, one number a line."
PATHS: dict[str, Callable[[str], dict[str, object]]] = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/completions": lambda text: {"prompt": text},
    "/v1/messages": lambda text: {"messages": [{"role": "user", "content": text}], "model": MODEL},
    "/api/chat": lambda text: {"messages": [{"role": "user", "content": text}], "model": MODEL},
}
MODEL = "dsdnode demo target"
SLOW_MS = ("30", "1")
"""Of a decode, and of each of its positions: replies last until they are hung up on."""
WAYS = ("at once", "prompt", "stream", "whole")


class Person:
    """One request on a connection of its own."""

    def __init__(self, url: str, path: str, text: str, stream: bool) -> None:
        where = urlsplit(url)
        body = json.dumps(PATHS[path](text) | {"stream": stream, "max_tokens": 600}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
        self.socket = socket.create_connection((where.hostname, where.port), timeout=10)
        self.socket.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def read(self, num_bytes: int) -> None:
        while num_bytes > 0:
            part = self.socket.recv(4096)
            if not part:
                return
            num_bytes -= len(part)

    def hang_up(self, rudely: bool) -> None:
        if rudely:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def ask(url: str, path: str, way: str, rng: Random) -> Person:
    person = Person(url, path, LONG if way == "prompt" else SHORT, way != "whole")
    if way == "prompt":
        time.sleep(rng.uniform(0.0, 0.2))
    elif way == "stream":
        person.read(rng.randrange(200, 800))
    elif way == "whole":
        time.sleep(rng.uniform(0.05, 0.3))
    return person


async def num_sessions(made: Swarm) -> int:
    asked = (control.ask(one.data_dir, "status", NodeStatus) for one in made.daemons.values())
    return sum(one.sessions.shard + one.sessions.drafter for one in await asyncio.gather(*asked))


@dataclass
class HangUp:
    was_served: bool
    """It had sessions when it hung up."""
    last_s: float
    """Since then, when the last of them was seen: they are looked for until long after the limit."""


async def hang_up(made: Swarm, url: str, path: str, way: str, rng: Random) -> HangUp:
    person = await asyncio.to_thread(ask, url, path, way, rng)
    was_served = way != "at once" and await num_sessions(made) > 0
    person.hang_up(rng.random() < 0.5)
    begun_s, last_s = time.monotonic(), 0.0
    while (now_s := time.monotonic() - begun_s) < LOOK_FOR_S:
        last_s = now_s if await num_sessions(made) else last_s
        await asyncio.sleep(LOOK_S)
    return HangUp(was_served, last_s)


async def measure(made: Swarm, url: str, times: int, seed: int) -> dict[str, list[HangUp]]:
    rng, seen = Random(seed), {way: list[HangUp]() for way in WAYS}
    for way, path in itertools.islice(itertools.cycle(itertools.product(WAYS, PATHS)), times):
        seen[way].append(await hang_up(made, url, path, way, rng))
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, swarm(Path(folder)) as made:
        join = made.start_ring(["0:4", "4:8"], "--emulate-ms", *SLOW_MS)
        roles = ("--role", "bootstrap", "--role", "gateway", "--api-port", "0")
        url = made.start("gateway", *roles, "--join", join).ready["api"]
        seen = asyncio.run(measure(made, url, options.times, options.seed))
    for way, each in seen.items():
        last_ms = sorted(1000 * one.last_s for one in each)
        print(
            f"{way:8} {len(each):4} times, {sum(one.was_served for one in each):3} with sessions   "
            f"last seen: p50 {median(last_ms):5.0f} ms, most {last_ms[-1]:5.0f} ms"
        )
    return int(any(one.last_s > LIMIT_S for each in seen.values() for one in each))


if __name__ == "__main__":
    sys.exit(main())

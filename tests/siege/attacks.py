"""What one hostile peer does who has as many identities as she likes: `python -m tests.siege.attacks NAME`.

She goes on until her input ends, new identities all the while, at a low priority; then she prints what she did: how
often, in how many seconds, with how much of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from dsdnode.cli.logs import set_up
from dsdnode.errors import DsdError
from dsdnode.net.port import Priority
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body
from dsdnode.wire.messages import Block, Message, Open, Opened, Pong, Trace, Traced
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.records import ProviderRecord
from dsdnode.wire.tensors import pack_states
from tests.siege.floods import connections, frames, ghosts, hellos, pings, prompts
from tests.siege.mallory import ANSWER_S, Mallory, Siege, digests

NICE = 10
EVERY_S = 5.0
"""So often she comes under another name, where a name is worth something."""
NUM_SILENT = 450
"""Connections to each daemon."""
BLOCK = 256
NUM_BRANCHES, BRANCH = 8, 1024
Response = tuple[Message, Sequence[bytes]]


async def blackholes(siege: Siege) -> None:
    """Stages that cost nothing, take every session, answer every question, and swallow every block."""

    async def opened(peer: bytes, message: Open, buffers: list[bytes]) -> Response:
        siege.num += 1
        return Opened(0), ()

    async def traced(peer: bytes, message: Trace, buffers: list[bytes]) -> Response:
        return Traced(2), ()

    for number in itertools.count():
        mallory = await siege.name()
        mallory.rpc.on_request(Open, opened)
        mallory.rpc.on_request(Trace, traced)
        shards = await mallory.offers("shard")
        await mallory.claims(shards[number % len(shards)])
        if number >= 3:
            siege.begun.set()
            await asyncio.sleep(EVERY_S)


async def squatters(siege: Siege) -> None:
    """Sessions and cells reserved by Opens alone, under one name after the other."""
    while True:
        mallory = await siege.name()
        shards = await mallory.offers("shard")
        for number in range(16):
            shard = shards[number % len(shards)]
            place = await mallory.opens(shard, shard.context_tokens)
            siege.did(isinstance(place.answer, Opened))
        await asyncio.sleep(0.2)


async def branches(siege: Siege) -> None:
    """Cells filled through branches: each session reserves one line of BRANCH positions and writes NUM_BRANCHES."""
    while True:
        mallory = await siege.name()
        for shard in await mallory.offers("shard"):
            place = await mallory.opens(shard, BRANCH + 16)
            if not isinstance(place.answer, Opened):
                continue
            siege.begun.set()
            for epoch in range(1, NUM_BRANCHES + 1):
                for position in range(0, BRANCH, BLOCK):
                    block = Block(place.session, 0, epoch, 0, 0, position, BLOCK, 0, 0)
                    mallory.rpc.notify(shard.peer_id, block, _line(shard, epoch, position), Priority.VERIFY)
                    siege.did(BLOCK)
                    await asyncio.sleep(0.02)


def _line(shard: ProviderRecord, epoch: int, position: int) -> list[bytes]:
    """A block's buffers: for a first stage tokens, for a later one states."""
    if not shard.start:
        return [digests(position, BLOCK), pack_tokens([5 + epoch] * BLOCK)]
    states = np.full((BLOCK, shard.width), epoch / 10, np.float32)
    return [digests(position, BLOCK), pack_tokens([]), pack_states(states, "f32")]


async def drafters(siege: Siege) -> None:
    """Drafters that cost nothing and take every reply: one is silent then, one drips, one has excuses, one is full."""
    for number in itertools.count():
        mallory = await siege.name()
        honest = await mallory.offers("drafter")
        like = honest[number % len(honest)]
        mallory.rpc.transport.introduce(like.contact)
        host = HostileDrafter(siege, mallory, like.peer_id, number % 4)
        mallory.rpc.on_request(replies.Generate, host.generate)
        mallory.rpc.on_notice(replies.Piece, host.hear)
        await mallory.claims(like)
        if number >= 3:
            siege.begun.set()
            await asyncio.sleep(EVERY_S)


@dataclass
class HostileDrafter:
    """`kind`: 0 is silent, 1 drips what an honest drafter tells her, 2 has excuses, 3 is full."""

    siege: Siege
    mallory: Mallory
    honest: bytes
    kind: int
    heard: dict[bytes, list[tuple[replies.Piece, list[bytes]]]] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def generate(self, client: bytes, message: replies.Generate, buffers: list[bytes]) -> Response:
        if not buffers:
            return Pong(), ()
        self.siege.num += 1
        if self.kind == 3:
            return replies.Finished(message.request, "error", "Overloaded", "all places are taken"), ()
        if self.kind == 1:
            return await self._relay(client, message.request, buffers)
        if self.kind == 2:
            self._spawn(self._excuse(client, message.request))
        body = decode_body(buffers[0], replies.GenerateBody)
        return replies.Accepted(message.request, body.model), (pack_tokens([1, 2, 3]),)

    def hear(self, peer: bytes, message: replies.Piece, buffers: list[bytes]) -> None:
        self.heard[message.request].append((message, buffers))

    async def _relay(self, client: bytes, request: bytes, buffers: list[bytes]) -> Response:
        """So every word is right: a drafter's lies about the text are another story."""
        own = os.urandom(16)
        self.heard[own] = []
        answer, prompt = await self.mallory.rpc.request(
            self.honest, replies.Generate(own), buffers, timeout_s=ANSWER_S
        )  # fmt: skip
        if isinstance(answer, replies.Accepted):
            self._spawn(self._drip(client, request, own))
            answer = msgspec.structs.replace(answer, request=request)
        return answer, prompt

    async def _drip(self, client: bytes, request: bytes, own: bytes) -> None:
        """Just before the client would ask after her."""
        while True:
            await asyncio.sleep(1.9)
            if self.heard[own]:
                piece, buffers = self.heard[own].pop(0)
                with contextlib.suppress(DsdError):
                    self.mallory.rpc.notify(client, msgspec.structs.replace(piece, request=request), buffers)

    async def _excuse(self, client: bytes, request: bytes) -> None:
        for number in range(600):
            with contextlib.suppress(DsdError):
                self.mallory.rpc.notify(client, replies.Waiting(request, f"waiting for number {number}"))
            await asyncio.sleep(1.0)

    def _spawn(self, one: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(one)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def silent(siege: Siege) -> None:
    """Connections that say nothing, NUM_SILENT to each daemon, from all her addresses; a new one for each that ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))

    async def hold(number: int, host: str, port: int) -> None:
        source = siege.hosts[number % len(siege.hosts)], 0
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, port, local_addr=source)
                siege.num += 1
                try:
                    while await reader.read(4096):
                        pass
                finally:
                    writer.close()
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as group:
        for host, port in siege.targets:
            for number in range(NUM_SILENT):
                group.create_task(hold(number, host, port))
        await asyncio.sleep(2)
        siege.begun.set()


ATTACKS: dict[str, Callable[[Siege], Awaitable[None]]] = {
    one.__name__: one
    for one in (blackholes, squatters, branches, drafters, silent, ghosts, pings, frames, hellos, connections, prompts)
}


class Done(msgspec.Struct, frozen=True):
    """`core`: the share of a core that she took."""

    num: int
    seconds: float
    core: float

    @property
    def rate(self) -> float:
        """A second."""
        return self.num / self.seconds


async def besiege(attack: Callable[[Siege], Awaitable[None]], siege: Siege) -> Done:
    """To the end of the input; says "begun" when it has."""

    async def go_on() -> None:
        while True:
            with contextlib.suppress(DsdError, OSError):
                await attack(siege)
            await asyncio.sleep(0.5)

    task = asyncio.ensure_future(go_on())
    task.add_done_callback(lambda _: siege.begun.set())
    await asyncio.wait_for(siege.begun.wait(), 60)
    if task.done():
        task.result()
    print("begun", flush=True)
    began_s, began_cpu_s, began_num = time.monotonic(), time.process_time(), siege.num
    await asyncio.to_thread(sys.stdin.read)
    task.cancel()
    seconds = time.monotonic() - began_s
    return Done(siege.num - began_num, seconds, (time.process_time() - began_cpu_s) / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*ATTACKS])
    parser.add_argument("--join", action="append", required=True, metavar="JOIN")
    parser.add_argument("--host", action="append", required=True, metavar="IP", help="an address of hers")
    options = parser.parse_args()
    os.nice(NICE)
    set_up("critical", "json")
    done = asyncio.Runner().run(besiege(ATTACKS[options.name], Siege(options.join, options.host)))
    print(msgspec.json.encode(done).decode(), flush=True)
    os._exit(0)  # her connections break off: nobody is told goodbye


if __name__ == "__main__":
    main()

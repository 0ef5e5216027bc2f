"""What of hostile things is many: records of nobody, and messages, connections and questions as fast as they go."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

import msgspec

from dsdnode.errors import DsdError
from dsdnode.net.port import Priority
from dsdnode.wire import replies
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import PROTOCOL_VERSION, WireSampling
from tests.siege.mallory import Mallory, Siege

NUM_HANDS = 8
"""Of a flood: so much of it is under way at once."""
LONG_PROMPT = "Ben has 34 stickers and gives them away. " * 90
HUGE_PROMPT = "a b " * ((1 << 18) - 1024)


async def ghosts(siege: Siege) -> None:
    """The store of the models' key filled: each identity announces the largest records that it may under every role,
    and is gone; nobody lives where they say."""
    guide = await siege.name()
    like = [(await guide.offers(role))[0] for role in ("shard", "drafter")]
    large = [msgspec.structs.replace(one, model_name="\U0001f47b" * 96) for one in like]

    async def announce() -> None:
        while True:
            mallory = await Mallory.comes(siege.joins)
            ports = [1024 + (siege.num + i) % 60_000 for i in range(4)]
            with contextlib.suppress(DsdError):
                await mallory.claims(*large, addresses=tuple(f"tcp://{siege.hosts[0]}:{port}" for port in ports))
                siege.did()
            await mallory.goes()

    await hands(announce)


async def pings(siege: Siege) -> None:
    """Valid ones, as fast as they are answered."""

    async def ping() -> None:
        mallory = await siege.name()
        while True:
            for victim in mallory.victims:
                with contextlib.suppress(DsdError):
                    await mallory.rpc.ping(victim, timeout_s=5)
                    siege.did()
                await asyncio.sleep(0)

    await hands(ping, NUM_HANDS * 2)


async def frames(siege: Siege) -> None:
    """Frames that are no messages, of peers that have said HELLO: banned for it, she comes again."""

    async def throw() -> None:
        while True:
            mallory = await Mallory.comes(siege.joins)
            with contextlib.suppress(DsdError):
                for victim in mallory.victims:
                    await mallory.rpc.ping(victim, timeout_s=2)
                for number in range(400):
                    noise = [os.urandom(100)] if number % 2 else [b"\x91" * 4096, *[os.urandom(60_000)] * 7]
                    mallory.rpc.transport.send(mallory.victims[number % len(mallory.victims)], noise, Priority.CONTROL)
                    siege.did()
                    await asyncio.sleep(0.001)
            await mallory.goes()

    await hands(throw, 4)


async def hellos(siege: Siege) -> None:
    """HELLOs that are refused: of another version, each under a new name."""

    async def greet() -> None:
        while True:
            mallory = await Mallory.comes(siege.joins, version=PROTOCOL_VERSION + 1)
            greeted = (mallory.rpc.ping(victim, timeout_s=1) for victim in mallory.victims)
            await asyncio.gather(*greeted, return_exceptions=True)
            siege.did(len(mallory.victims))
            await mallory.goes()

    await hands(greet)


async def connections(siege: Siege) -> None:
    """TCP connections that come, say a few bytes of noise, and go."""

    async def connect() -> None:
        number = 0
        while True:
            for host, port in siege.targets:
                number += 1
                source = siege.hosts[number % len(siege.hosts)], 0
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(2):
                        _, writer = await asyncio.open_connection(host, port, local_addr=source)
                    writer.write(os.urandom(number % 512))
                    writer.transport.abort()
                    siege.did()

    await hands(connect, NUM_HANDS * 4)


async def prompts(siege: Siege) -> None:
    """Long questions, and huge ones, to every drafter; nobody reads the answers."""

    async def ask() -> None:
        while True:
            mallory = await siege.name()
            for number in range(16):
                with contextlib.suppress(DsdError):
                    honest = await mallory.offers("drafter")
                    drafter = honest[number % len(honest)]
                    shards = await mallory.offers("shard")
                    text = LONG_PROMPT if number % 4 else HUGE_PROMPT
                    body = replies.GenerateBody(
                        (), text, (), (), shards[0].model_id, WireSampling(), 512, (), -1, ignore_eos=True
                    )  # fmt: skip
                    message = replies.Generate(os.urandom(16))
                    await mallory.rpc.request(drafter.peer_id, message, (encode_body(body),), timeout_s=5)
                siege.did()

    await hands(ask, 4)


async def hands(one: Callable[[], Awaitable[None]], num: int = NUM_HANDS) -> None:
    async def steady() -> None:
        while True:
            with contextlib.suppress(DsdError):
                await one()
            await asyncio.sleep(0.1)

    await asyncio.gather(*(steady() for _ in range(num)))

"""Bytes through a proxy: all of them, in order, late. (How exactly late is measured by tests/bench/accuracy.py.)"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest

from dsdnode.bench import proxy as room
from dsdnode.bench.proxy import Proxy
from dsdnode.bench.shape import LinkShape
from dsdnode.engine.slow import Punctuality

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def link(shape: LinkShape) -> AsyncIterator[tuple[Proxy, Streams, Streams]]:
    """Alice dials Bob through a proxy: the proxy, her end and his."""
    proxy = Proxy(Random(7), Punctuality(), shape)
    bobs: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *streams: bobs.set_result(streams), "127.0.0.1", 0)
    proxy.aim(server.sockets[0].getsockname()[1])
    alice = await asyncio.open_connection("127.0.0.1", proxy.port)
    bob = await bobs
    try:
        yield proxy, alice, bob
    finally:
        for _, writer in (alice, bob):
            writer.close()
        server.close()
        proxy.close()


async def test_what_is_said_arrives_both_ways_in_order_whatever_the_jitter() -> None:
    async with link(LinkShape(0.002, jitter_s=0.002)) as (proxy, alice, bob):
        said = [bytes([i]) * (1 + i * 37 % 500) for i in range(60)]
        for (_, writer), (reader, _) in ((alice, bob), (bob, alice)):
            for words in said:
                writer.write(words)
                await asyncio.sleep(0)
            assert await reader.readexactly(sum(map(len, said))) == b"".join(said)
        assert proxy.counts.num_bytes == 2 * sum(map(len, said))


async def test_it_takes_the_latency_each_way() -> None:
    async with link(LinkShape(0.05)) as (_, alice, bob):
        began_s = asyncio.get_running_loop().time()
        alice[1].write(b"?")
        await bob[0].readexactly(1)
        bob[1].write(b"!")
        await alice[0].readexactly(1)
        assert asyncio.get_running_loop().time() - began_s >= 0.095  # it may be a moment early, never much


async def test_a_slow_reader_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than all buffers hold: the proxy stops reading, and goes on when there is room."""
    monkeypatch.setattr(room, "MAX_UNDERWAY_BYTES", 300_000)
    data = Random(5).randbytes(12_000_000)
    async with link(LinkShape(0.001)) as (proxy, alice, bob):
        alice[1].write(data)
        while not await _stuck(proxy):
            pass
        assert proxy.counts.num_bytes < len(data)
        assert await bob[0].readexactly(len(data)) == data


async def _stuck(proxy: Proxy) -> bool:
    before = proxy.counts.num_bytes
    await asyncio.sleep(0.05)
    return proxy.counts.num_bytes == before


async def test_goodbye_comes_behind_the_last_word() -> None:
    async with link(LinkShape(0.01)) as (proxy, alice, bob):
        alice[1].write(b"and that is all")
        alice[1].close()
        assert await bob[0].read() == b"and that is all"
        assert not proxy.links


async def test_who_comes_too_early_waits() -> None:
    proxy = Proxy(Random(7), Punctuality())
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"anybody there?")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(14) == b"anybody there?"
        writer.write(b"yes")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        proxy.aim(server.sockets[0].getsockname()[1])
        assert await reader.readexactly(3) == b"yes"
        writer.close()
        proxy.close()


async def test_nobody_behind_it_closes_the_connection() -> None:
    proxy = Proxy(Random(7), Punctuality())
    server = await asyncio.start_server(lambda *streams: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    proxy.aim(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    proxy.close()


async def test_lost_segments_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsdnode.bench.shape.MIN_RESEND_S", 0.001)
    async with link(LinkShape(0.0, loss=0.3)) as (proxy, alice, bob):
        for i in range(40):
            alice[1].write(bytes([i]))
            assert await bob[0].readexactly(1) == bytes([i])
        assert 3 <= proxy.counts.num_lost <= 40

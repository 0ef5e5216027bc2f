"""The link emulator as a process: asked through a pipe, gone with whoever asked."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from dsdnode.bench.emulator import Emulator
from dsdnode.bench.shape import LinkShape
from dsdnode.errors import DsdError


async def test_it_passes_counts_and_is_gone_with_its_owner() -> None:
    with Emulator(seed=1) as emulator:
        (child,) = [one for one in psutil.Process().children() if "dsdnode.bench.emulator" in one.cmdline()]

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            ports = [emulator.open(), emulator.open()]
            for i in range(2):
                emulator.aim(i, server.sockets[0].getsockname()[1])
            emulator.shape([LinkShape(0.001, 0.0, 100.0, 0.0), LinkShape()])
            for port in ports:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
            assert emulator.counts().num_bytes == 20
        emulator.close()
        assert emulator.counts().num_bytes == 0
    assert not child.is_running()


def test_one_that_died_is_told() -> None:
    with Emulator(seed=1) as emulator:
        for one in psutil.Process().children():
            if "dsdnode.bench.emulator" in one.cmdline():
                one.kill()
        with pytest.raises(DsdError, match="emulator has ended"):
            emulator.open()

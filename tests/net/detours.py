"""A detour between two transports of one machine: who is called that way takes it for a relay's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from random import Random

from dsdnode.addresses import parse_address
from dsdnode.net.port import Transport
from dsdnode.net.relays import Circuits
from dsdnode.net.router import Router
from dsdnode.net.zmq import ZmqTransport


class Detour:
    """A way to whoever listens at `address`, who takes it for a relay's; all that passes takes its time, in order."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.address, self.circuits = "", Circuits()
        self.caller = "127.0.0.1"
        """Where whoever comes this way is believed to be."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_open = 0
        self.news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[str]:
        """The address to call in place of `address`."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far = socket.socket()
            far.setblocking(False)
            far.bind(("127.0.0.1", 0))
            self.circuits._callers[far.getsockname()[1]] = self.caller
            await asyncio.get_running_loop().sock_connect(far, parse_address(self.address))
            far_reader, far_writer = await asyncio.open_connection(sock=far)
            self.num_open += 1
            tasks = {asyncio.create_task(self._carry(*ends)) for ends in ((reader, far_writer), (far_reader, writer))}
            self._tasks |= tasks
            await asyncio.wait(tasks)
            self.num_open -= 1
            self.news.set()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in self._tasks:
            task.cancel()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while piece := await reader.read(1 << self._rng.randint(8, 16)):
                if self._rng.random() < 0.3:
                    await asyncio.sleep(self._rng.uniform(0, 0.01))
                writer.write(piece)
                await writer.drain()


def router_of(transport: Transport) -> Router:
    assert isinstance(transport, ZmqTransport) and transport._router is not None
    return transport._router

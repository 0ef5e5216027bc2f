"""One worker process, seen from the daemon's event loop: requests in order, replies by id, death told at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec
import structlog

from dsdnode.engine.cage import environment
from dsdnode.engine.ipc import PREFIX, SOCKET_BUFFER_BYTES, Buffer, Packet, Response, pack, read_response, sizes
from dsdnode.errors import EngineLost, Overloaded, WorkerDied

log = structlog.get_logger(__name__)

OnDeath = Callable[[str, Packet | None], None]
Reply = tuple[Response, bytes]

MAX_PENDING = 256
MAX_STDERR_TAIL_BYTES = 4096
WORKER_MODULE = "dsdnode.engine.worker"
SILENT = "did not answer within"
"""In the words of an error: it was ended because it said nothing in time."""
EXIT_S = 2.0
"""A worker may take so long to end after its stream ended; then it is killed."""


class NoProcess(EngineLost):
    """The system has no descriptor, memory or thread for one more process just now: nobody died of anything."""


class WorkerLink(asyncio.Protocol):
    """From spawn to death. `on_death` is called once, unless `close` came first: with the reason in words, and with
    what the worker was doing (None: nothing)."""

    def __init__(self, process: asyncio.subprocess.Process, on_death: OnDeath) -> None:
        """Use `spawn`."""
        self._process = process
        self.pid = process.pid
        self._on_death = on_death
        self._pending: dict[int, tuple[Packet, asyncio.Future[Reply]]] = {}
        """In the order in which the worker does it: what it died of is the first."""
        self._died_of = -1
        self._next_id = 0
        self._received = bytearray()
        self._stderr_tail = b""
        self._stderr_task = asyncio.create_task(self._read_stderr(), name="worker stderr")
        self._closing = False
        self._dead = asyncio.Event()

    @staticmethod
    async def spawn(on_death: OnDeath) -> WorkerLink:
        """Start a worker; it has loaded nothing yet. Raises NoProcess."""
        try:
            with contextlib.ExitStack() as stack:
                ours, theirs = map(stack.enter_context, socket.socketpair())
                link = WorkerLink(await _start(theirs), on_death)
                theirs.close()
                ours.setblocking(False)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
                await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
                stack.pop_all()
        except (OSError, MemoryError, RuntimeError) as error:  # descriptors, memory, threads
            raise NoProcess(f"no process can be had for the engine ({error})") from None
        return link

    async def request(self, packet: Packet, *bodies: Buffer, timeout_s: float) -> tuple[Response, bytes]:
        """One reply and its body. Raises EngineLost (death, silence), Overloaded (too many requests wait), WorkerDied
        when it died of this very request."""
        if self._transport.is_closing():
            raise EngineLost("the engine's process has ended")
        if len(self._pending) >= MAX_PENDING:
            raise Overloaded("too many requests wait for the engine")
        number = self._next_id = (self._next_id + 1) % (1 << 32)
        buffers = pack(number, packet, *bodies)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[number] = packet, future
        self._transport.writelines(buffers)
        timer = asyncio.get_running_loop().call_later(timeout_s, _give_up, future)
        try:
            return await future
        except TimeoutError:  # nobody knows what state it is in
            self.kill()
            await self._dead.wait()
            kind = WorkerDied if self._died_of == number else EngineLost
            raise kind(f"the engine's process {SILENT} {timeout_s:g} s") from None
        finally:
            timer.cancel()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def close(self) -> None:
        """End the worker, by force after EXIT_S."""
        self._closing = True
        self._transport.close()
        await self._end()

    # --- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            while self._take_frame():
                pass
        except (ValueError, msgspec.DecodeError) as error:
            log.error("worker sent garbage", pid=self.pid, error=str(error))
            self.kill()
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._reaper = asyncio.create_task(self._reap(), name="worker reaper")

    # --- the rest -------------------------------------------------------------------------------------------------

    def _take_frame(self) -> bool:
        if len(self._received) < PREFIX.size:
            return False
        request_id, header_bytes, body_bytes = sizes(self._received[: PREFIX.size])
        body_start = PREFIX.size + header_bytes
        end = body_start + body_bytes
        if len(self._received) < end:
            return False
        reply = read_response(self._received[PREFIX.size : body_start])
        body = bytes(memoryview(self._received)[body_start:end])
        del self._received[:end]
        _, future = self._pending.pop(request_id, (None, None))
        if future is not None and not future.done():
            future.set_result((reply, body))
        return True

    async def _reap(self) -> None:
        await self._end()
        reason = self._reason()
        pending, self._pending = self._pending, {}
        self._died_of = next(iter(pending), -1)
        if not self._closing:
            self._on_death(reason, pending[self._died_of][0] if pending else None)
        for number, (_, future) in pending.items():
            if not future.done():
                future.set_exception((WorkerDied if number == self._died_of else EngineLost)(reason))
        self._dead.set()

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(EXIT_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        await self._stderr_task

    def _reason(self) -> str:
        code = self._process.returncode or 0
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        lines = self._stderr_tail.decode("utf-8", "replace").strip().splitlines()
        if lines and not self._closing:  # these may name local paths, and the reason goes to strangers
            log.warning("last words of an engine's process", pid=self.pid, said=lines[-1][:300])
        return f"the engine's process {how}"

    async def _read_stderr(self) -> None:
        """llama.cpp says there why it aborts. It never prints text or tokens."""
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(MAX_STDERR_TAIL_BYTES):
            self._stderr_tail = (self._stderr_tail + data)[-MAX_STDERR_TAIL_BYTES:]
            log.debug("worker", pid=self.pid, stderr=data.decode("utf-8", "replace").rstrip())


def _give_up(future: asyncio.Future[Reply]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


async def _start(theirs: socket.socket) -> asyncio.subprocess.Process:
    """The process, at its end of the socket pair."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-Pm",
        WORKER_MODULE,
        str(theirs.fileno()),
        pass_fds=(theirs.fileno(),),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={
            **environment(os.environ),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        },
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

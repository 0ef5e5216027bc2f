"""A TCP proxy in front of one daemon: every byte of either direction arrives as late as the link's shape says.

A connection passes one proxy, that of the daemon which was dialled, so each of its two directions is delayed once.
Accuracy is everything here: plain non-blocking sockets, one timer a direction, and a loop with fine timers
(`engine/slow.py`), in a process of its own (emulator.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from dataclasses import dataclass
from random import Random

from dsdnode.bench.shape import DelayLine, LinkShape
from dsdnode.engine.slow import Punctuality

RECEIVE_BYTES = 256 * 1024
MAX_UNDERWAY_BYTES = 16 * 1024 * 1024
"""In one direction. Beyond it nothing is read: the sender's own buffer fills, as it would before a slow link."""
BACKLOG = 256


@dataclass(slots=True)
class Counts:
    """Of both directions of all connections so far; `num_lost` segments were sent again."""

    num_bytes: int = 0
    num_lost: int = 0


class Direction:
    """One direction: reads from `source`, keeps, writes to `target`."""

    def __init__(self, source: socket.socket, target: socket.socket, link: Connection) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._target, self._link = source, target, link
        self._line = DelayLine(link.proxy.rng)
        self._punctuality = link.proxy.punctuality
        self._underway: deque[tuple[float, bytes]] = deque()
        self._underway_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = self._blocked = False
        self._resume()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)

    def _resume(self) -> None:
        if not self._reading and self._underway_bytes < MAX_UNDERWAY_BYTES:
            self._reading = True
            self._loop.add_reader(self._source, self._read)

    def _pause(self) -> None:
        self._reading = False
        self._loop.remove_reader(self._source)

    def _read(self) -> None:
        now = self._loop.time()
        try:
            data = self._source.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._link.close()
            return
        self._take(now, data)

    def _take(self, now: float, data: bytes) -> None:
        """An end of the stream (no data) travels like everything else, behind what went before it."""
        lost = self._line.num_lost
        due_s = self._line.due_s(self._link.proxy.shape, now, len(data))
        self._link.proxy.counts.num_bytes += len(data)
        self._link.proxy.counts.num_lost += self._line.num_lost - lost
        self._underway.append((due_s, data))
        self._underway_bytes += len(data)
        if not data or self._underway_bytes >= MAX_UNDERWAY_BYTES:
            self._pause()
        if self._timer is None and not self._blocked:
            self._deliver()

    @property
    def _lead_s(self) -> float:
        """A chunk that comes in is noticed as late as a timer goes off: both are made up for here."""
        return min(2 * self._punctuality.late_s, self._link.proxy.shape.latency_s)

    def _arm(self) -> None:
        when_s = self._underway[0][0] - self._lead_s
        self._timer = self._loop.call_at(when_s, self._due, when_s)

    def _due(self, when_s: float) -> None:
        self._timer = None
        self._punctuality.woken(when_s, self._loop.time())
        self._deliver()

    def _deliver(self) -> None:
        horizon_s = self._loop.time() + self._lead_s
        try:
            while self._underway and self._underway[0][0] <= horizon_s:
                if not self._send():
                    return
        except OSError:
            self._link.close()
            return
        if self._underway:
            self._arm()

    def _writable(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._target)
        self._deliver()

    def _send(self) -> bool:
        """The first chunk; False when something of it must wait."""
        due_s, data = self._underway.popleft()
        if not data:
            self._link.close()
            return False
        try:
            num_sent = self._target.send(data)
        except BlockingIOError:
            num_sent = 0
        self._underway_bytes -= num_sent
        self._resume()
        if num_sent == len(data):
            return True
        self._underway.appendleft((due_s, data[num_sent:]))
        self._blocked = True
        self._loop.add_writer(self._target, self._writable)
        return False


class Connection:
    """One connection through a proxy."""

    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket) -> None:
        self.proxy = proxy
        self._sockets = near, far
        self._flows: tuple[Direction, ...] = ()
        self._flows = (Direction(near, far, self), Direction(far, near, self))
        proxy.links[self] = None

    def close(self) -> None:
        if self in self.proxy.links:
            del self.proxy.links[self]
            for flow in self._flows:
                flow.close()
            for one in self._sockets:
                one.close()


class Proxy:
    """Listens on a free port of loopback; `shape` may change at any time. Who comes before `aim` has to wait."""

    def __init__(self, rng: Random, punctuality: Punctuality, shape: LinkShape | None = None) -> None:
        self.rng = rng
        self.punctuality = punctuality
        self.shape = shape or LinkShape()
        self.counts = Counts()
        self.links: dict[Connection, None] = {}
        self._target_port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._loop = asyncio.get_running_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def aim(self, target_port: int) -> None:
        """Where on loopback connections are passed to."""
        self._target_port.set_result(target_port)

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        for link in list(self.links):
            link.close()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            near, _ = self._listener.accept()
            task = self._loop.create_task(self._connect(near))
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)

    async def _connect(self, near: socket.socket) -> None:
        far = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            for one in (near, far):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(far, ("127.0.0.1", await asyncio.shield(self._target_port)))
            Connection(self, near, far)
        except OSError:
            near.close()
            far.close()
        except asyncio.CancelledError:
            near.close()
            far.close()
            raise

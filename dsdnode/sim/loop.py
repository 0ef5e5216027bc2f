"""An event loop whose clock jumps to the next timer: an hour of a swarm's life in moments, the same each time.

It runs what asyncio runs, tasks and timers, but has no selector and no threads: whatever reaches for the outside world
(sockets, executors, subprocesses) raises Unreal, and so does waiting for ever. Timers of one moment run in the order in
which they were made.

Each node may have a clock of its own: inside `clock(offset_s)` the loop's time, and all that is started there, is off
by so much, as no two machines' clocks agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar
from heapq import heapify, heappop, heappush
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_OFFSET_S: ContextVar[float] = ContextVar("offset_s", default=0.0)
_NOBODYS = Context()


class Unreal(RuntimeError):
    """Something in a simulation waits for a world that is not there."""


class JumpingLoop(asyncio.BaseEventLoop):
    """`now`: true time in seconds, from 0; `limit_s`: a simulation that runs beyond it raises Unreal."""

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self, limit_s: float = float("inf")) -> None:
        super().__init__()
        self.now = 0.0
        self.limit_s = limit_s
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._num_timers = 0
        self._num_cancelled = 0

    def time(self) -> float:
        return self.now + _OFFSET_S.get()

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._push(when - _OFFSET_S.get(), asyncio.TimerHandle(when, callback, args, self, context))

    def at(self, when_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """For the world itself: at the true time `when_s`, by nobody's clock."""
        return self._push(when_s, asyncio.TimerHandle(when_s, callback, args, self, _NOBODYS))

    def _push(self, when_s: float, handle: asyncio.TimerHandle) -> asyncio.TimerHandle:
        self._num_timers += 1
        handle._scheduled = True  # type: ignore[attr-defined]
        heappush(self._timers, (when_s, self._num_timers, handle))
        return handle

    def _run_once(self) -> None:
        """One turn: everything that is ready; when nothing is, the clock jumps."""
        ready = self._ready
        if not ready and not self._stopping:
            self._jump()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _jump(self) -> None:
        timers, ready = self._timers, self._ready
        while timers and (not ready or timers[0][0] <= self.now):
            when_s, _, handle = heappop(timers)
            handle._scheduled = False  # type: ignore[attr-defined]
            if handle._cancelled:
                self._num_cancelled -= 1
                continue
            self.now = max(self.now, when_s)
            ready.append(handle)
        if not ready:
            raise Unreal("everybody waits for ever")
        if self.now > self.limit_s:
            raise Unreal(f"not over after {self.limit_s:g} simulated seconds")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the heap until its time, unless too many do."""
        if not handle._scheduled:  # type: ignore[attr-defined]
            return
        self._num_cancelled += 1
        if self._num_cancelled > 1000 and 2 * self._num_cancelled > len(self._timers):
            self._timers = [item for item in self._timers if not item[2]._cancelled]
            heapify(self._timers)
            self._num_cancelled = 0

    def _write_to_self(self) -> None:
        """Nobody sleeps here, so nobody must be woken: Ctrl-C is seen in the next turn."""

    def close(self) -> None:
        self._timers.clear()
        super().close()

    def _unreal(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Unreal("a simulated node reaches for a real socket, thread or process")

    run_in_executor = _unreal  # type: ignore[assignment]
    create_connection = create_server = create_datagram_endpoint = _unreal
    create_unix_connection = create_unix_server = _unreal
    add_reader = add_writer = sock_recv = sock_sendall = sock_connect = sock_accept = _unreal  # type: ignore[assignment]
    connect_read_pipe = connect_write_pipe = subprocess_exec = subprocess_shell = _unreal


@contextlib.contextmanager
def clock(offset_s: float) -> Iterator[None]:
    """Whatever is started inside reads a clock that is off by `offset_s`, for as long as it lives."""
    token = _OFFSET_S.set(_OFFSET_S.get() + offset_s)
    try:
        yield
    finally:
        _OFFSET_S.reset(token)


def run(main: Coroutine[Any, Any, T], limit_s: float = float("inf")) -> T:
    """Run `main` to its end in virtual time. Raises Unreal."""
    with _rare_collections(), asyncio.Runner(loop_factory=lambda: JumpingLoop(limit_s)) as runner:
        return runner.run(main)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """A world of nodes is long-lived: to search it for garbage again and again would take a third of the time."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)

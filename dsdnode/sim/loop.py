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
from contextvars import Context, ContextVar, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_OFFSET_S: ContextVar[float] = ContextVar("offset_s", default=0.0)
_NOBODYS = Context()


class Unreal(RuntimeError):
    """Something in a simulation waits for a world that is not there."""


class Call:
    """What runs later: asyncio's Handle and TimerHandle in one, without what only debugging needs. `when_s`: while it
    is among the timers, by the clock of whoever asked; once cancelled it has no callback.
    """

    __slots__ = ("args", "callback", "context", "loop", "when_s")

    def __init__(
        self,
        loop: JumpingLoop,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        when_s: float | None = None,
    ) -> None:
        self.loop = loop
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = copy_context() if context is None else context
        self.when_s = when_s

    def when(self) -> float:
        assert self.when_s is not None
        return self.when_s

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback, self.args = None, ()
            if self.when_s is not None:
                self.loop.timer_cancelled()

    def cancelled(self) -> bool:
        return self.callback is None


class JumpingLoop(asyncio.BaseEventLoop):
    """`now`: true time in seconds, from 0; `limit_s`: a simulation that runs beyond it raises Unreal."""

    _ready: deque[Call]
    _stopping: bool
    _closed: bool

    def __init__(self, limit_s: float = float("inf")) -> None:
        super().__init__()
        self.now = 0.0
        self.limit_s = limit_s
        self._timers: list[tuple[float, int, Call]] = []
        self._num_timers = 0
        self._num_cancelled = 0

    def time(self) -> float:
        return self.now + _OFFSET_S.get()

    def clocked(self, when_s: float) -> float:
        """What `time` says, or said, here at the true time `when_s`."""
        return when_s + _OFFSET_S.get()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        if self._closed:
            self._check_closed()  # type: ignore[attr-defined]
        call = Call(self, callback, args, context)
        self._ready.append(call)
        return call

    call_soon_threadsafe = call_soon  # type: ignore[assignment]
    """Nobody sleeps here, so nobody must be woken: Ctrl-C is seen in the next turn."""

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        return self._push(when - _OFFSET_S.get(), Call(self, callback, args, context, when))

    def at(self, when_s: float, callback: Callable[..., object], *args: Any) -> Call:
        """For the world itself: at the true time `when_s`, by nobody's clock."""
        return self._push(when_s, Call(self, callback, args, _NOBODYS, when_s))

    def _push(self, when_s: float, call: Call) -> Call:
        self._num_timers += 1
        heappush(self._timers, (when_s, self._num_timers, call))
        return call

    def _run_once(self) -> None:
        """Turns of all that is ready, until somebody stops the loop; when nothing is, the clock jumps."""
        ready = self._ready
        while True:
            if not ready and not self._stopping:
                self._jump()
            for _ in range(len(ready)):
                call = ready.popleft()
                if call.callback is None:
                    continue
                try:
                    call.context.run(call.callback, *call.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.call_exception_handler({"message": f"Exception in {call.callback}", "exception": error})
            if self._stopping:
                return

    def _jump(self) -> None:
        timers, ready = self._timers, self._ready
        while timers and (not ready or timers[0][0] <= self.now):
            when_s, _, call = heappop(timers)
            call.when_s = None
            if call.callback is None:
                self._num_cancelled -= 1
                continue
            self.now = max(self.now, when_s)
            ready.append(call)
        if not ready:
            raise Unreal("everybody waits for ever")
        if self.now > self.limit_s:
            raise Unreal(f"not over after {self.limit_s:g} simulated seconds")

    def timer_cancelled(self) -> None:
        """It stays in the heap until its time, unless too many do."""
        self._num_cancelled += 1
        if self._num_cancelled > 1000 and 2 * self._num_cancelled > len(self._timers):
            self._timers[:] = [item for item in self._timers if item[2].callback is not None]
            heapify(self._timers)
            self._num_cancelled = 0

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

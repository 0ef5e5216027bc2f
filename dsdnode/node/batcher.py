"""One engine, many replies: chunks that wait are decoded together, first come first served.

Work of one sequence keeps its order; a chunk that died while it waited (its epoch was closed) is dropped unrun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from dsdnode.engine.port import Chunk, Engine, Output
from dsdnode.errors import DsdError, EngineLost, Overloaded

log = structlog.get_logger(__name__)

MAX_WAITING = 4096
"""Items. Every session bounds what it has in flight, so only a leak gets here."""


@dataclass(slots=True)
class _Run:
    chunk: Chunk
    alive: Callable[[], bool]
    done: Callable[[Output | DsdError | None], None]
    """Called once: the output; an error; or None when the chunk was dropped unrun."""
    life: int


@dataclass(slots=True)
class _Cache:
    sequences: tuple[int, ...]
    call: Callable[[], Awaitable[None]]


class Batcher:
    """Feeds one engine, one decode at a time. `max_batch_positions` bounds one decode."""

    def __init__(self, engine: Engine, max_batch_positions: int = 512) -> None:
        self.engine = engine
        self._max_positions = max_batch_positions
        self._waiting: deque[_Run | _Cache] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._life = 0
        """Of the engine. What was queued in an earlier one speaks of caches that are gone: it must not run in this."""

    def start(self) -> None:
        self.engine.on_lost(lambda: self._fail_all(EngineLost("the worker process died")))
        self._task = asyncio.create_task(self._serve(), name="batcher")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_all(EngineLost("the engine is closing"))

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def run(
        self, chunk: Chunk, done: Callable[[Output | DsdError | None], None], alive: Callable[[], bool] = lambda: True
    ) -> None:
        """Queue one chunk; `done` is called on the loop, later (with Overloaded when far too much waits)."""
        item = _Run(chunk, alive, done, self._life)
        if len(self._waiting) >= MAX_WAITING:
            asyncio.get_running_loop().call_soon(_finish, item, Overloaded("the engine's queue is full"))
        else:
            self._push(item)

    def copy(self, source: int, target: int, position: int) -> None:
        self._operation((source, target), lambda: self.engine.copy(source, target, position))

    def truncate(self, sequence: int, position: int) -> None:
        self._operation((sequence,), lambda: self.engine.truncate(sequence, position))

    def release(self, sequence: int) -> None:
        self._operation((sequence,), lambda: self.engine.release(sequence))

    def _operation(self, sequences: tuple[int, ...], call: Callable[[], Awaitable[None]]) -> None:
        """Never refused: there are a few for each chunk, and whoever asks counts on them."""
        self._push(_Cache(sequences, call))

    def _push(self, item: _Run | _Cache) -> None:
        self._waiting.append(item)
        self._wake.set()

    async def _serve(self) -> None:
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch = await self._next_batch()
            if batch:
                await self._decode(batch)

    async def _next_batch(self) -> list[_Run]:
        """The longest run of waiting chunks of distinct sequences; cache operations of others go first."""
        batch: list[_Run] = []
        used: set[int] = set()
        num_positions = 0
        while self._waiting:
            item = self._waiting[0]
            if isinstance(item, _Cache):
                if used.intersection(item.sequences):
                    break
                self._waiting.popleft()
                await self._operate(item)
                continue
            if not item.alive():
                self._waiting.popleft()
                _finish(item, None)
                continue
            size = len(item.chunk.inputs)
            if item.chunk.sequence in used or (batch and num_positions + size > self._max_positions):
                break
            self._waiting.popleft()
            batch.append(item)
            used.add(item.chunk.sequence)
            num_positions += size
        return batch

    async def _operate(self, item: _Cache) -> None:
        try:
            await item.call()
        except DsdError as error:  # the chunk that needed it will be refused by the engine, and its owner told
            log.warning("cache operation failed", error=str(error))
        except Exception:
            log.exception("bug in a cache operation")

    async def _decode(self, batch: list[_Run]) -> None:
        life = self._life
        for item in batch:
            if item.life != life:
                _finish(item, EngineLost("the worker process died"))
        batch = [item for item in batch if item.life == life]
        result = await self._forward(batch) if batch else []
        if life != self._life and not isinstance(result, DsdError):
            result = EngineLost("the worker process died")
        if not isinstance(result, DsdError):
            for item, output in zip(batch, result, strict=True):
                _finish(item, output)
        elif len(batch) == 1 or isinstance(result, EngineLost):
            for item in batch:
                _finish(item, result)
        else:
            for item in batch:  # one of them does not fit: find out which
                await self._decode([item])

    async def _forward(self, batch: list[_Run]) -> list[Output] | DsdError:
        try:
            return await self.engine.forward([item.chunk for item in batch])
        except DsdError as error:
            return error
        except Exception as bug:  # of one reply's numbers, perhaps: the others must not end with it
            log.exception("bug in a decode")
            return DsdError(f"the engine failed: {bug}")

    def _fail_all(self, error: EngineLost) -> None:
        """What waits speaks of caches that are gone."""
        self._life += 1
        waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            if isinstance(item, _Run):
                _finish(item, error)


def _finish(item: _Run, result: Output | DsdError | None) -> None:
    try:
        item.done(result)
    except Exception:  # a bug in one reply must not end the others
        log.exception("bug in what follows a decode")

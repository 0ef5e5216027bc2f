"""One engine, many replies: runs that wait are decoded together, fairly (scheduler.py).

Whatever concerns one sequence keeps its order. A run that died while it waited (its epoch was closed) is dropped unrun.
What the engine dies of, or cannot do, is put down to whose work it was (culprits.py): the others' goes on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from dsdnode.accounts import NOBODY, Account
from dsdnode.engine.port import Chunk, Engine, Output
from dsdnode.errors import DsdError, EngineLost, Overloaded, PeerMisbehaved, WorkFailed
from dsdnode.node.batching.culprits import Culprits
from dsdnode.node.batching.scheduler import Batch, Done, Owner, Run, Scheduler
from dsdnode.pacing.fits import CostFit, TimeMean
from dsdnode.swarm.queries import wait_until

log = structlog.get_logger(__name__)

MAX_WAITING = 4096
"""Items. Every session bounds what it has in flight, so only a leak gets here."""
COST_KEEP = 0.98
"""Per decode: about the last 50 tell the cost line."""


@dataclass(slots=True, eq=False)
class _Cache:
    sequences: tuple[int, ...]
    call: Callable[[], Awaitable[None]]
    releases: bool = False


class Batcher:
    """Feeds one engine, one decode at a time. `max_batch_positions` bounds one decode."""

    def __init__(self, engine: Engine, max_batch_positions: int = 512) -> None:
        self.engine = engine
        self.cost = CostFit(COST_KEEP, scales=True)
        """What decodes without `extend` cost."""
        self._waiting: list[Run | _Cache] = []
        self._current: Batch = []
        self.scheduler = Scheduler(max_batch_positions)
        self.culprits = Culprits()
        self._owners: dict[int, Owner] = {}
        """Whose work was asked for last in each sequence."""
        self._suspects_turn = False
        self._callbacks: list[Callable[[Owner | None], None]] = []
        self._busy = TimeMean()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.num_decodes = 0
        self.num_positions = 0
        """In all of them."""
        self._num_drops = 0
        """While an operation is carried out others may change what waits."""
        self._life = 0
        """Of the engine. What was queued in an earlier one speaks of caches that are gone: it must not run in this."""

    def start(self) -> None:
        self.engine.on_lost(self._lost)
        self._task = asyncio.create_task(self._serve(), name="batcher")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_all(EngineLost("the engine is closing"))

    def on_lost(self, callback: Callable[[Owner | None], None]) -> None:
        """Have `callback` called whenever the engine has lost all sequences, with whose work it was that did it (None:
        nobody's, or nobody can tell)."""
        self._callbacks.append(callback)

    # --- what replies ask for

    def run(
        self,
        chunk: Chunk,
        done: Done,
        alive: Callable[[], bool] = lambda: True,
        owner: Owner | None = None,
        account: Account = NOBODY,
    ) -> None:
        """Queue one chunk; `done` is called on the loop, later (with Overloaded when far too much waits).

        `owner`: whose turn it takes, charged to `account`; a sequence without one is its own owner.
        """
        item = Run(chunk, chunk.sequence if owner is None else owner, alive, done, self._life, account)
        if len(self._waiting) >= MAX_WAITING:
            asyncio.get_running_loop().call_soon(item.finish, Overloaded("the engine's queue is full"))
            return
        self._owners[chunk.sequence] = item.owner
        self._push(item)
        now = _now()
        self.scheduler.active(item.owner, now, account)
        self._busy.set(now, len(self._working()))

    def copy(self, source: int, target: int, position: int) -> None:
        self._operation((source, target), lambda: self.engine.copy(source, target, position))

    def truncate(self, sequence: int, position: int) -> None:
        self._operation((sequence,), lambda: self.engine.truncate(sequence, position))

    def release(self, sequence: int) -> None:
        last = next((item for item in reversed(self._waiting) if sequence in item.sequences), None)
        if not (isinstance(last, _Cache) and last.releases):  # once is enough, however often it is asked for
            self._push(_Cache((sequence,), lambda: self.engine.release(sequence), releases=True))

    def drop(self, owner: Owner) -> None:
        """What waits of its runs is not wanted any more: their inputs, which may be large, are held no longer. (What is
        being decoded goes on.)"""
        for item in [one for one in self._waiting if isinstance(one, Run) and one.owner == owner]:
            self._waiting.remove(item)
            self._num_drops += 1
            item.finish(None)

    def forget(self, owner: Owner) -> None:
        """It is gone: no prompt is cut for its sake. (In the strict setting the cuts are part of the arithmetic.)"""
        self.scheduler.forget(owner)

    def _operation(self, sequences: tuple[int, ...], call: Callable[[], Awaitable[None]]) -> None:
        """Never refused: there are a few for each chunk, and whoever asks counts on them."""
        self._push(_Cache(sequences, call))

    def _push(self, item: Run | _Cache) -> None:
        self._waiting.append(item)
        self._wake.set()

    # --- how busy it is

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def num_others(self, owner: Owner) -> int:
        """Owners with work here but this one: waiting or, within `done`, in the same decode."""
        working = self._working()
        return len(working) - (owner in working)

    def mean_busy(self) -> float:
        """How many owners had work here, on the average of the last seconds."""
        return self._busy.value(_now())

    def _working(self) -> dict[Owner, Account]:
        working = {item.owner: item.account for item in self._waiting if isinstance(item, Run)}
        for item, _ in self._current:
            working[item.owner] = item.account
        return working

    # --- decoding

    async def _serve(self) -> None:
        while True:
            try:
                await self._serve_next()
            except Exception:  # or nothing would ever be decoded again
                log.exception("bug in the batcher")
                current, self._current = self._current, []
                waiting = [one for one in self._waiting if isinstance(one, Run)]
                for item in waiting:
                    self._waiting.remove(item)
                for item in (*waiting, *(one for one, _ in current)):
                    item.finish(EngineLost("the queue of the engine failed"))
                await asyncio.sleep(0)

    async def _serve_next(self) -> None:
        """A decode, where there is anything to be decoded now."""
        if not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        ready = await self._ready()
        if not ready:
            return
        began_s = _now()
        self._current = self._next_batch(ready, began_s)
        if not self._current:  # only what is to leave time to others
            self._wake.clear()
            await wait_until(self._wake, self.scheduler.wakes_at)
            return
        await self._decode(self._current)
        now = _now()
        self.scheduler.took(now, now - began_s)
        self._current = []
        self._busy.set(now, len(self._working()))

    async def _ready(self) -> list[Run]:
        """Runs that nothing of their sequences is before; cache operations in that position are carried out."""
        ready: list[Run] = []
        blocked: set[int] = set()
        index, state = 0, (self._life, self._num_drops)
        while index < len(self._waiting):
            item = self._waiting[index]
            if not blocked.isdisjoint(item.sequences):
                blocked.update(item.sequences)
                index += 1
            elif isinstance(item, _Cache):
                del self._waiting[index]
                await self._operate(item)
                if state != (self._life, self._num_drops):  # what was waiting may not wait any more
                    ready, index, state = [], 0, (self._life, self._num_drops)
                    blocked.clear()
            elif item.num_done == 0 and not item.alive():
                del self._waiting[index]
                item.finish(None)
            else:
                blocked.update(item.sequences)
                ready.append(item)
                index += 1
        return ready

    def _next_batch(self, ready: Sequence[Run], now: float) -> Batch:
        """A run leaves the queue with its last piece."""
        for owner, account in self._working().items():
            self.scheduler.active(owner, now, account)
        batch = self.scheduler.choose(self._apart(ready, now), now)
        for item, chunk in batch:
            if item.num_done + len(chunk.inputs) == len(item.chunk.inputs):
                self._waiting.remove(item)
        return batch

    def _apart(self, ready: Sequence[Run], now: float) -> Sequence[Run]:
        """Those whose work may be what the engine died of run alone, in turn with all the others."""
        if not self.culprits.has_marks:
            self._suspects_turn = False
            return ready
        suspects = [run for run in ready if self.culprits.is_marked(run.owner, now)]
        rest = [run for run in ready if run not in suspects]
        self._suspects_turn = bool(suspects) and not (rest and self._suspects_turn)
        return [run for run in suspects if run.owner == suspects[0].owner] if self._suspects_turn else rest

    async def _operate(self, item: _Cache) -> None:
        try:
            await item.call()
        except DsdError as error:  # the chunk that needed it will be refused by the engine, and its owner told
            log.warning("cache operation failed", error=str(error))
        except Exception:
            log.exception("bug in a cache operation")

    async def _decode(self, batch: Batch) -> None:
        life = self._life
        result = await self._forward([chunk for _, chunk in batch])
        if life != self._life and not isinstance(result, DsdError):
            result = EngineLost("the worker process died")
        if not isinstance(result, DsdError):
            self._decoded(batch, result)
        elif len(batch) == 1 or isinstance(result, EngineLost):
            for item, _ in batch:
                self._failed(item, result)
        else:
            for pair in batch:  # one of them does not fit: find out which
                if pair[0].life == self._life:
                    await self._decode([pair])
                else:
                    pair[0].finish(EngineLost("the worker process died"))

    def _decoded(self, batch: Batch, outputs: Sequence[Output]) -> None:
        self.num_decodes += 1
        for (item, chunk), output in zip(batch, outputs, strict=True):
            self.num_positions += len(chunk.inputs)
            item.add(output, len(chunk.inputs))
        if not any(chunk.extend for _, chunk in batch):
            self.cost.add(sum(len(chunk.inputs) for _, chunk in batch), outputs[0].compute_s)
        for item, _ in batch:
            if item.num_done == len(item.chunk.inputs):
                self.culprits.passed(item.owner, item.end)
                item.finish(item.whole())

    def _failed(self, item: Run, error: DsdError) -> None:
        if item in self._waiting:
            self._waiting.remove(item)
        if isinstance(error, WorkFailed | PeerMisbehaved):
            self.culprits.mark({item.owner: item.end}, _now())
        item.finish(error)

    async def _forward(self, chunks: Sequence[Chunk]) -> list[Output] | DsdError:
        try:
            return await self.engine.forward(chunks)
        except DsdError as error:
            return error
        except Exception as bug:  # of one reply's numbers, perhaps: the others must not end with it
            log.exception("bug in a decode")
            return WorkFailed(f"the engine failed: {bug}")

    def _lost(self, ran: frozenset[int]) -> None:
        """All sequences are gone, of what was done in these. (What is no decode has no end to get beyond.)"""
        ends: dict[Owner, int] = {}
        for item, chunk in self._current:
            if chunk.sequence in ran:
                ends[item.owner] = max(item.end, ends.get(item.owner, 0))
        for sequence in sorted(ran.intersection(self._owners)):
            ends.setdefault(self._owners[sequence], sys.maxsize)
        culprit = self.culprits.mark(ends, _now())
        self._fail_all(EngineLost("the worker process died"))
        for callback in self._callbacks:
            callback(culprit)

    def _fail_all(self, error: EngineLost) -> None:
        """What waits speaks of caches that are gone."""
        self._life += 1
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            if isinstance(item, Run):
                item.finish(error)


def _now() -> float:
    return asyncio.get_running_loop().time()

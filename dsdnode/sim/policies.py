"""Simpler ways to choose a pipeline and to share an engine out, to compare the node's own with (DSD-Sim's list)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Literal

from dsdnode.errors import NoPipeline
from dsdnode.node.batching.scheduler import Batch, Run, Scheduler
from dsdnode.placement.pipelines import Chooser, PipelineStage, View, choose_pipeline
from dsdnode.wire.records import ProviderRecord

Routing = Literal["fastest", "random", "round-robin", "shortest-queue"]
Batching = Literal["fair", "fifo", "length-aware"]
MAX_BATCH_POSITIONS = 512
_Pick = Callable[[list[ProviderRecord], View], ProviderRecord]


def chooser(routing: Routing, rng: Random) -> Chooser:
    """fastest: the node's own, by predicted speed; the others pick one replica of each range, whatever its speed."""
    if routing == "fastest":
        return choose_pipeline
    pick: _Pick
    if routing == "random":
        pick = lambda replicas, view: rng.choice(replicas)  # noqa: E731
    elif routing == "round-robin":
        pick = _round_robin()
    else:
        pick = lambda replicas, view: min(replicas, key=lambda one: _queue(one, view))  # noqa: E731
    return _picking(pick)


def _round_robin() -> _Pick:
    turns: dict[tuple[int, int], int] = {}

    def pick(replicas: list[ProviderRecord], view: View) -> ProviderRecord:
        place = replicas[0].start, replicas[0].end
        turns[place] = turns.get(place, -1) + 1
        return replicas[turns[place] % len(replicas)]

    return pick


def _queue(record: ProviderRecord, view: View) -> tuple[float, bytes]:
    return record.queue + view.sessions.get(record.peer_id, 0), record.peer_id


def _picking(pick: _Pick) -> Chooser:
    def choose(
        records: Sequence[ProviderRecord], num_layers: int, view: View, exclude: Collection[bytes], model_name: str
    ) -> tuple[PipelineStage, ...]:
        replicas: dict[tuple[int, int], list[ProviderRecord]] = {}
        for record in sorted(records, key=lambda record: record.peer_id):
            if record.peer_id not in exclude:
                replicas.setdefault((record.start, record.end), []).append(record)
        free = [[one for one in ones if one.free_sessions] or ones for ones in replicas.values()]
        try:
            return choose_pipeline([pick(ones, view) for ones in free], num_layers, view, (), model_name)
        except NoPipeline:
            return choose_pipeline(records, num_layers, view, exclude, model_name)

    return choose


def scheduler_of(batching: Batching) -> Callable[[], Scheduler] | None:
    """fair: the node's own (who was served longest ago, prompts in pieces); fifo: whole runs as they came;
    length-aware: the shortest first, so that like shares a decode with like."""
    if batching == "fair":
        return None
    return lambda: InOrder(by_length=batching == "length-aware")


class InOrder(Scheduler):
    """Whole runs, up to MAX_BATCH_POSITIONS a decode."""

    def __init__(self, *, by_length: bool) -> None:
        super().__init__(MAX_BATCH_POSITIONS)
        self._by_length = by_length

    def choose(self, ready: Sequence[Run], now: float) -> Batch:
        order = sorted(ready, key=lambda run: run.num_left) if self._by_length else ready
        batch: Batch = []
        room = MAX_BATCH_POSITIONS
        for run in order:
            if batch and run.num_left > room:
                break
            batch.append((run, run.piece(run.num_left)))
            room -= run.num_left
        return batch

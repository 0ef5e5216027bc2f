"""One engine for alice and bob: their chunks share decodes, each one's own order is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from dsdnode.engine.fake import FakeEngine, FakeModel
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import DsdError, EngineLost, Overloaded
from dsdnode.node.batching.batcher import Batcher
from dsdnode.speculation.sampling import Sampling

ALICE, BOB = 0, 1


class Watched(FakeEngine):
    """Remembers how large its decodes were."""

    def __init__(self, **options: object) -> None:
        super().__init__(FakeModel(), **options)  # type: ignore[arg-type]
        self.decodes: list[list[int]] = []

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        self.decodes.append([chunk.sequence for chunk in chunks])
        return await super().forward(chunks)


@pytest.fixture
async def engine() -> AsyncIterator[Watched]:
    yield Watched()


@pytest.fixture
async def batcher(engine: Watched) -> AsyncIterator[Batcher]:
    made = Batcher(engine, max_batch_positions=8)
    yield made
    await made.close()


def chunk(sequence: int, position: int, count: int = 2) -> Chunk:
    return Chunk(sequence, position, np.arange(count, dtype=np.int32) % 90 + 1, 1, Sampling())


class Results:
    """Collects what `done` is called with."""

    def __init__(self) -> None:
        self.got: list[Output | DsdError | None] = []
        self.expected = 0
        self.all_in = asyncio.Event()

    def __call__(self, result: Output | DsdError | None) -> None:
        self.got.append(result)
        if len(self.got) == self.expected:
            self.all_in.set()

    async def wait(self, count: int) -> list[Output | DsdError | None]:
        self.expected = count
        if len(self.got) < count:
            async with asyncio.timeout(5):
                await self.all_in.wait()
        return self.got


async def test_two_replies_share_a_decode(engine: Watched, batcher: Batcher) -> None:
    results = Results()
    batcher.run(chunk(ALICE, 0), results)
    batcher.run(chunk(BOB, 0), results)
    batcher.run(chunk(ALICE, 2), results)
    batcher.start()
    assert all(isinstance(result, Output) for result in await results.wait(3))
    assert engine.decodes == [[ALICE, BOB], [ALICE]]


async def test_a_large_chunk_waits_for_the_next_decode(engine: Watched, batcher: Batcher) -> None:
    results = Results()
    batcher.run(chunk(ALICE, 0, 6), results)
    batcher.run(chunk(BOB, 0, 6), results)
    batcher.start()
    await results.wait(2)
    assert engine.decodes == [[ALICE], [BOB]]


async def test_a_truncation_stays_between_the_chunks_around_it(engine: Watched, batcher: Batcher) -> None:
    results = Results()
    batcher.run(chunk(ALICE, 0, 4), results)
    batcher.truncate(ALICE, 1)
    batcher.run(chunk(ALICE, 1, 4), results)
    batcher.start()
    assert all(isinstance(result, Output) for result in await results.wait(2))
    assert engine.length(ALICE) == 5


async def test_what_died_while_it_waited_is_not_run(engine: Watched, batcher: Batcher) -> None:
    results = Results()
    batcher.run(chunk(ALICE, 0), results, alive=lambda: False)
    batcher.run(chunk(BOB, 0), results)
    batcher.start()
    got = await results.wait(2)
    assert got[0] is None and isinstance(got[1], Output)
    assert engine.decodes == [[BOB]]


async def test_one_that_does_not_fit_does_not_take_the_others_down() -> None:
    engine = Watched(context_tokens=6)
    batcher = Batcher(engine)
    results = Results()
    batcher.run(chunk(ALICE, 0, 8), results)
    batcher.run(chunk(BOB, 0, 2), results)
    batcher.start()
    got = await results.wait(2)
    assert isinstance(got[0], Overloaded) and isinstance(got[1], Output)
    await batcher.close()


async def test_everything_that_waits_is_told_when_the_engine_dies(engine: Watched, batcher: Batcher) -> None:
    results = Results()
    batcher.start()
    batcher.run(chunk(ALICE, 0), results)
    batcher.run(chunk(BOB, 0), results)
    engine.die()
    got = await results.wait(2)
    assert all(isinstance(result, EngineLost) for result in got)
    batcher.run(chunk(BOB, 0), results)
    assert isinstance((await results.wait(3))[2], Output)


class Undead(Watched):
    """Its process dies at the end of a decode, whose answer had left it already."""

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        outputs = await super().forward(chunks)
        if len(self.decodes) == 1:
            self.die()
        return outputs


async def test_what_an_engine_said_in_an_earlier_life_does_not_count() -> None:
    """Its cache is gone: alice would go on from positions that the new one has not."""
    engine = Undead()
    batcher, results = Batcher(engine), Results()
    batcher.run(chunk(ALICE, 0), results)
    batcher.start()
    assert isinstance((await results.wait(1))[0], EngineLost)
    again = Results()
    batcher.run(chunk(ALICE, 0), again)
    assert isinstance((await again.wait(1))[0], Output)
    await batcher.close()


class Choosy(Watched):
    """Takes nothing that is shared, and dies while alice is tried alone."""

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        self.decodes.append([chunk.sequence for chunk in chunks])
        if len(chunks) > 1:
            raise Overloaded("one by one, please")
        if len(self.decodes) == 2:
            self.die()
            raise Overloaded("and not this one")
        return await FakeEngine.forward(self, chunks)


async def test_what_was_asked_of_an_earlier_life_is_not_run_in_the_next() -> None:
    engine = Choosy()
    batcher, results = Batcher(engine), Results()
    batcher.run(chunk(ALICE, 0), results)
    batcher.run(chunk(BOB, 0), results)
    batcher.start()
    alices, bobs = await results.wait(2)
    assert isinstance(alices, DsdError) and isinstance(bobs, EngineLost)
    assert engine.decodes == [[ALICE, BOB], [ALICE]]
    await batcher.close()


async def test_what_waits_is_bounded(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsdnode.node.batching.batcher.MAX_WAITING", 3)
    results = Results()
    for number in range(4):
        batcher.run(chunk(number, 0), results)
    assert isinstance((await results.wait(1))[0], Overloaded)
    assert batcher.num_waiting == 3


async def test_the_order_of_a_sequence_is_kept_when_it_goes_to_another_owner(engine: Watched, batcher: Batcher) -> None:
    results = Results()
    batcher.run(chunk(ALICE, 0, 4), results, owner=b"alice")
    batcher.release(ALICE)
    batcher.run(chunk(ALICE, 0, 2), results, owner=b"bob")
    batcher.start()
    assert all(isinstance(result, Output) for result in await results.wait(2))
    assert engine.length(ALICE) == 2


# --- fairness: in virtual time, on an engine with the costs of a CPU volunteer -------------------------------------


class Held(Watched):
    """An operation takes its time, and says in which order all is done."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, int]] = []
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        self.done += [("run", chunk.sequence) for chunk in chunks]
        return await super().forward(chunks)

    async def release(self, sequence: int) -> None:
        self.begun.set()
        await self.let_go.wait()

    async def copy(self, source: int, target: int, position: int) -> None:
        self.done.append(("copy", source))
        await super().copy(source, target, position)


async def test_what_is_dropped_while_something_is_carried_out_leaves_the_others_in_their_order() -> None:
    """Alice's run was ready, and carol's copy is to see what bob's run wrote."""
    engine, dropped, results = Held(), Results(), Results()
    batcher = Batcher(engine, max_batch_positions=8)
    batcher.run(chunk(ALICE, 0), dropped, owner=b"alice")
    batcher.release(9)
    batcher.run(chunk(BOB, 0), results, owner=b"bob")
    batcher.copy(BOB, 5, 2)
    batcher.run(chunk(6, 0), results, owner=b"carol")
    batcher.start()
    async with asyncio.timeout(5):
        await engine.begun.wait()
        batcher.drop(b"alice")
        engine.let_go.set()
        assert all(isinstance(result, Output) for result in await results.wait(2))
        while batcher.num_waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert dropped.got == [None]
    assert [what for what in engine.done if what[1] == BOB] == [("run", BOB), ("copy", BOB)]
    await batcher.close()


@pytest.mark.parametrize("where", ["choose", "took"])
async def test_after_a_bug_others_are_served(
    engine: Watched, batcher: Batcher, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Before a decode, or amid what follows it."""
    right, calls = getattr(batcher.scheduler, where), 0

    def badly(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("a bug")
        return right(*arguments)

    monkeypatch.setattr(batcher.scheduler, where, badly)
    alice, bob = Results(), Results()
    batcher.run(chunk(ALICE, 0), alice)
    batcher.start()
    assert isinstance((await alice.wait(1))[0], EngineLost if where == "choose" else Output)
    batcher.run(chunk(BOB, 0), bob)
    assert isinstance((await bob.wait(1))[0], Output)


async def test_where_an_engine_gives_too_few_outputs_nobody_waits_for_ever(
    engine: Watched, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, results = engine.forward, Results()

    async def too_few(chunks: Sequence[Chunk]) -> list[Output]:
        return (await forward(chunks))[:-1]

    monkeypatch.setattr(engine, "forward", too_few)
    batcher.run(chunk(ALICE, 0), results)
    batcher.run(chunk(BOB, 0), results)
    batcher.start()
    assert [isinstance(one, EngineLost) for one in await results.wait(2)] in ([False, True], [True, True])

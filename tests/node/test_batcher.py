"""One engine for alice and bob: their chunks share decodes, each one's own order is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dsdnode.accounts import NOBODY, Account
from dsdnode.engine.fake import FakeEngine, FakeModel
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import DsdError, EngineLost, Overloaded
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.batching.scheduler import PIECE_POSITIONS, Run, Scheduler
from dsdnode.pacing.fits import SHARED_POSITIONS
from dsdnode.speculation.sampling import Sampling
from tests.node import jumping

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


def cost(num_positions: int) -> float:
    return 0.014 + 0.006 * num_positions


ONE_DECODE_S = cost(SHARED_POSITIONS)


class Talker:
    """Runs `sizes` one after the other, each when the one before is done and `pause_s` later; `waits` of each."""

    def __init__(
        self,
        batcher: Batcher,
        sequence: int,
        sizes: Sequence[int],
        pause_s: float = 0.0,
        account: Account = NOBODY,
    ) -> None:
        self._account = account
        self._batcher, self._sequence, self._sizes, self._pause_s = batcher, sequence, sizes, pause_s
        self.waits: list[float] = []
        self.outputs: list[Output] = []
        self.others: list[int] = []

    async def talk(self) -> None:
        loop = asyncio.get_running_loop()
        position = 0
        for size in self._sizes:
            done: asyncio.Future[Output | DsdError | None] = loop.create_future()

            def finish(result: Output | DsdError | None, done: asyncio.Future[Any] = done) -> None:
                self.others.append(self._batcher.num_others(self._sequence))
                if not done.done():
                    done.set_result(result)

            begun = loop.time()
            asked = chunk(self._sequence, position, size)
            last = self._batcher.engine.shard.last
            asked = asked if last else replace(asked, num_draws=0, sampling=None)
            self._batcher.run(asked, finish, account=self._account)
            output = await done
            assert isinstance(output, Output)
            self.waits.append(loop.time() - begun)
            self.outputs.append(output)
            position += size
            await asyncio.sleep(self._pause_s)


def talk(*talkers: Callable[[Batcher], Talker], engine: FakeEngine | None = None) -> list[Talker]:
    async def story() -> list[Talker]:
        batcher = Batcher(engine or FakeEngine(FakeModel(), cost=cost, context_tokens=8192))
        batcher.start()
        made = [make(batcher) for make in talkers]
        await asyncio.gather(*(talker.talk() for talker in made))
        await batcher.close()
        return made

    return jumping.run(story())


def test_three_who_chat_wait_for_one_decode_at_most_while_a_long_prompt_is_read() -> None:
    chats = [lambda b, i=i: Talker(b, i, [1] * 40, pause_s=0.05 + 0.01 * i) for i in range(3)]
    *chatting, heavy = talk(*chats, lambda b: Talker(b, 3, [250] * 4))
    for talker in chatting:
        assert max(talker.waits) <= 2 * ONE_DECODE_S < 0.6 * cost(250)  # the one in progress, and the own
    alone = 4 * cost(250)
    assert sum(heavy.waits) < 2 * alone


def test_a_prompt_is_read_though_others_fill_every_decode() -> None:
    busy = [lambda b, i=i: Talker(b, i, [8] * 60) for i in range(16)]
    *_, prompt = talk(*busy, lambda b: Talker(b, 16, [512]))
    assert prompt.waits[0] <= (512 / PIECE_POSITIONS + 1) * ONE_DECODE_S


def test_who_is_alone_is_not_cut() -> None:
    [alone] = talk(lambda b: Talker(b, 0, [250, 250]))
    assert alone.waits == pytest.approx([cost(250)] * 2)


def test_who_comes_after_another_is_not_cut_either() -> None:
    async def story() -> None:
        batcher = Batcher(FakeEngine(FakeModel(), cost=cost))
        batcher.start()
        await Talker(batcher, 0, [3]).talk()
        batcher.forget(0)
        after = Talker(batcher, 1, [250])
        await after.talk()
        assert after.waits == pytest.approx([cost(250)])
        await batcher.close()

    jumping.run(story())


def test_a_run_in_pieces_gives_what_it_gives_whole() -> None:
    for end in (2, 4):  # a stage in the middle, the judge
        engine = FakeEngine(FakeModel(), 0, end, cost=cost)
        [whole] = talk(lambda b: Talker(b, 0, [200]), engine=FakeEngine(FakeModel(), 0, end, cost=cost))
        cut, _ = talk(lambda b: Talker(b, 0, [200]), lambda b: Talker(b, 1, [1] * 30), engine=engine)
        assert cut.outputs[0].compute_s > cost(200)
        mine, other = whole.outputs[0], cut.outputs[0]
        if mine.states is None:
            assert mine.tokens is not None and mine.tokens.tolist() == _tokens(other)
        else:
            assert other.states is not None and np.array_equal(mine.states, other.states)


def _tokens(output: Output) -> list[int]:
    assert output.tokens is not None
    return list(output.tokens.tolist())


def test_sixteen_are_served_alike_however_much_each_asks_for() -> None:
    sizes = [1, 2, 4, 8] * 4
    counts: list[int] = []

    async def story() -> None:
        batcher = Batcher(FakeEngine(FakeModel(), cost=cost, context_tokens=1 << 20))
        batcher.start()
        talkers = [Talker(batcher, i, [size] * 10_000) for i, size in enumerate(sizes)]
        tasks = [asyncio.create_task(talker.talk()) for talker in talkers]
        await asyncio.sleep(60)
        counts.extend(len(talker.waits) for talker in talkers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()

    jumping.run(story())
    assert sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts)) > 0.95  # Jain's index
    assert min(counts) > 50


def test_each_is_told_how_many_others_it_shares_the_engine_with() -> None:
    [alone] = talk(lambda b: Talker(b, 0, [1] * 5))
    assert alone.others == [0] * 5
    shared = talk(*(lambda b, i=i: Talker(b, i, [1] * 5) for i in range(3)))
    assert all(set(talker.others) == {2} for talker in shared)


def test_how_busy_it_is_on_the_average() -> None:
    async def story() -> tuple[float, float, float]:
        batcher = Batcher(FakeEngine(FakeModel(), cost=cost, context_tokens=1 << 20))
        batcher.start()
        idle = batcher.mean_busy()
        talkers = [Talker(batcher, i, [8] * 10_000) for i in range(3)]
        tasks = [asyncio.create_task(talker.talk()) for talker in talkers]
        await asyncio.sleep(60)
        busy = batcher.mean_busy()
        for task in tasks:
            task.cancel()
        await asyncio.sleep(60)
        after = batcher.mean_busy()
        await batcher.close()
        return idle, busy, after

    idle, busy, after = jumping.run(story())
    assert idle == 0
    assert busy == pytest.approx(3, rel=0.1)
    assert after < 0.1


def test_many_sessions_of_mallory_get_no_more_turns_than_alice_s_one() -> None:
    """Runs of 30 positions, of which two fit into one decode; carol is next door to mallory."""
    alice, carol = Account(b"alice", "192.0.2.0/24"), Account(b"carol", "198.51.100.0/24")
    mallory = [Account(b"mallory %d" % name, carol.network) for name in range(3)]
    owners: list[tuple[int, Account]] = [
        *((number, mallory[number % 3]) for number in range(12)),
        (12, carol),
        (13, alice),
    ]
    scheduler, turns = Scheduler(512), Counter[bytes]()
    for moment in range(24):
        runs = [
            Run(Chunk(number, 0, np.zeros(30, np.int32)), number, lambda: True, lambda result: None, 0, account)
            for number, account in owners
        ]
        for run in runs:
            scheduler.active(run.owner, 0.01 * moment, run.account)
        turns.update(run.account.owner for run, _ in scheduler.choose(runs, 0.01 * moment))
    assert turns[b"alice"] == 24 and turns[b"carol"] == 6
    assert [turns[one.owner] for one in mallory] == [6, 6, 6]

"""Whose turn it is at one engine: nobody waits for longer than for one decode, whoever else comes with how much."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dsdnode.accounts import NOBODY, Account
from dsdnode.engine.fake import FakeEngine, FakeModel
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import DsdError
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.batching.scheduler import PIECE_POSITIONS, Run, Scheduler
from dsdnode.pacing.fits import SHARED_POSITIONS
from tests.node import jumping
from tests.node.test_batcher import chunk


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


HERS, ELSEWHERE = "198.51.100.0/24", "192.0.2.0/24"


def of(network: str, name: bytes = b"one") -> Account:
    return Account(name, network)


def test_long_runs_of_mallory_take_no_more_of_the_time_than_they_leave_to_alice_s_short_ones() -> None:
    """Alice's next is there a moment after each; of those of her own network no long one waits."""

    def waits(theirs: Account) -> tuple[Talker, Talker]:
        hers = lambda b: Talker(b, 0, [1] * 60, pause_s=0.05, account=of(ELSEWHERE))  # noqa: E731
        alice, mallory = talk(hers, lambda b: Talker(b, 1, [250] * 2, account=theirs))
        return alice, mallory

    beside, long = waits(of(HERS))
    within, usual = waits(of(ELSEWHERE, b"other"))
    assert sum(beside.waits[:6]) < 0.5 * sum(within.waits[:6])
    assert sum(usual.waits) < sum(long.waits) < 2.5 * sum(usual.waits)
    assert max(beside.waits) <= ONE_DECODE_S + 2 * cost(1)


def test_long_runs_of_two_networks_take_no_more_of_it_than_those_of_one() -> None:
    """Mallory asks at two drafters: a piece of the one's comes where the other's has its pause."""

    def waits(*theirs: Account) -> list[float]:
        hers = lambda b: Talker(b, 0, [1] * 60, pause_s=0.05, account=of(ELSEWHERE))  # noqa: E731
        longs = [lambda b, i=i, one=one: Talker(b, 1 + i, [250] * 2, account=one) for i, one in enumerate(theirs)]
        alice, *_ = talk(hers, *longs)
        return alice.waits[:8]

    assert sum(waits(of(HERS), of("third"))) < 1.1 * sum(waits(of(HERS)))


def test_the_prompt_of_a_usual_question_does_not_wait_with_long_texts() -> None:
    """Alice asks her third question while mallory's long texts are read, and bob and carol chat."""
    asks = lambda b: Talker(b, 0, [60] * 6, pause_s=0.3, account=of(ELSEWHERE))  # noqa: E731
    chats = [lambda b, i=i: Talker(b, i, [2] * 60, pause_s=0.05, account=of(str(i))) for i in (1, 2)]
    longs = [lambda b, i=i: Talker(b, i, [600], account=of(HERS, b"%d" % i)) for i in (3, 4)]
    alice, *_ = talk(asks, *chats, *longs)
    assert max(alice.waits) <= 2 * ONE_DECODE_S  # what is in progress, and her two pieces


def test_two_who_read_long_prompts_leave_no_pauses() -> None:
    one, other = talk(*[lambda b, i=i: Talker(b, i, [250], account=of(str(i))) for i in range(2)])
    assert max(one.waits[0], other.waits[0]) <= 2 * (250 / SHARED_POSITIONS + 1) * ONE_DECODE_S


def test_many_names_at_an_address_get_no_more_turns_than_their_neighbour() -> None:
    """Runs of which one fits into a decode."""
    carol = Account(b"carol", "198.51.100.0/24", "198.51.100.7")
    hers = [Account(b"mallory %d" % name, carol.network, "198.51.100.66") for name in range(6)]
    scheduler, turns = Scheduler(512), Counter[str]()
    for moment in range(24):
        runs = [
            Run(Chunk(number, 0, np.zeros(64, np.int32)), number, lambda: True, lambda result: None, 0, account)
            for number, account in enumerate([*hers, carol])
        ]
        for run in runs:
            scheduler.active(run.owner, 0.01 * moment, run.account)
        turns.update(run.account.address for run, _ in scheduler.choose(runs, 0.01 * moment))
    assert turns[carol.address] == 12

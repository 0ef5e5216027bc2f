"""Engines that only take time: what they say follows the trace, and lengths are checked."""

from __future__ import annotations

import asyncio
from random import Random

import numpy as np
import pytest

from dsdnode.cost import CostLine
from dsdnode.engine.port import Chunk, ShardInfo
from dsdnode.errors import EngineLost, Overloaded
from dsdnode.sim.engine import VOCAB_SIZE, WIDTH, DecodeCost, ScriptedEngine, Scripts, prompt_of, token_at
from dsdnode.sim.loop import run
from dsdnode.sim.traces import SyntheticPair, Trace
from dsdnode.speculation.sampling import Sampling

KEY = 7
TRACE = Trace((True, False, False, True), (0.9, 0.3, 0.4, 0.8), (0.1, 0.7, 0.6, 0.2), (False, True, False, False))


def shard(start: int = 0, end: int = 2, context_tokens: int = 100) -> ShardInfo:
    return ShardInfo(
        "0" * 64, "m", "simulated", start, end, 2, WIDTH, VOCAB_SIZE, "1" * 64, context_tokens, 1000, 8, True
    )


def scripts() -> Scripts:
    known = Scripts()
    known.put(KEY, 3, TRACE)
    return known


def chunk(position: int, num: int, draws: int, extend: int = 0, sequence: int = 0) -> Chunk:
    inputs = np.array([token_at(KEY, position + i) for i in range(num)], np.int32)
    return Chunk(sequence, position, inputs, draws, Sampling(seed=KEY), extend=extend, runners_up=True)


def test_the_target_says_the_truth_and_the_draft_what_the_trace_allows() -> None:
    async def story() -> None:
        target = ScriptedEngine(shard(), DecodeCost(), scripts())
        draft = ScriptedEngine(shard(), DecodeCost(), scripts(), drafts=True)
        truth = [token_at(KEY, position) for position in range(3, 8)]
        assert prompt_of(KEY, 3) == tuple(token_at(KEY, position) for position in range(3))
        [judged] = await target.forward([chunk(0, 6, 4)])
        assert judged.tokens is not None and judged.tokens.tolist() == truth[:4]
        [drafted] = await draft.forward([chunk(0, 3, 1, extend=4)])
        assert drafted.tokens is not None and drafted.runners_up is not None and drafted.probabilities is not None
        assert [token == true for token, true in zip(drafted.tokens, truth, strict=True)] == [1, 0, 0, 1, 1]
        assert drafted.probabilities.tolist()[:4] == pytest.approx(TRACE.confidence)
        assert drafted.runners_up[1] == truth[1] and drafted.runners_up[2] != truth[2]
        assert 0 not in drafted.tokens

    run(story())


def test_a_decode_takes_its_time_and_drafts_one_token_after_the_other() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        cost = DecodeCost(CostLine(0.010, 0.001), 0.002)
        engine = ScriptedEngine(shard(), cost, scripts())
        [output, _] = await engine.forward([chunk(0, 5, 1), chunk(0, 3, 0, sequence=1)])
        assert loop.time() == output.compute_s == pytest.approx(0.010 + 8 * 0.001 + 2 * 0.002)
        draft = ScriptedEngine(shard(), cost, scripts(), drafts=True)
        [output] = await draft.forward([chunk(0, 3, 1, extend=2)])
        assert output.compute_s == pytest.approx(0.010 + 3 * 0.001 + 0.002 + 2 * 0.013)
        draft.pace = 3.0
        [output] = await draft.forward([chunk(5, 1, 1)])
        assert output.compute_s == pytest.approx(3 * 0.013)

    run(story())


def test_gaps_and_a_full_cache_are_seen() -> None:
    async def story() -> None:
        engine = ScriptedEngine(shard(), DecodeCost(), scripts())
        await engine.forward([chunk(0, 5, 0)])
        with pytest.raises(AssertionError):
            await engine.forward([chunk(3, 2, 0)])
        await engine.copy(0, 1, 4)
        await engine.truncate(0, 2)
        await engine.forward([chunk(2, 1, 0), chunk(4, 1, 0, sequence=1)])
        with pytest.raises(Overloaded):
            await engine.forward([chunk(3, 95, 0)])

    run(story())


def test_a_worker_that_dies_takes_its_sequences_along() -> None:
    async def story() -> None:
        engine, told = ScriptedEngine(shard(), DecodeCost(CostLine(1.0)), scripts()), []
        engine.on_lost(lambda _: told.append(1))
        running = asyncio.create_task(engine.forward([chunk(0, 5, 0)]))
        await asyncio.sleep(0.5)
        engine.die()
        with pytest.raises(EngineLost):
            await running
        with pytest.raises(EngineLost):
            await engine.forward([chunk(5, 1, 0)])
        assert told == [1]

    run(story())


def test_states_of_a_middle_stage_have_the_right_shape() -> None:
    async def story() -> None:
        engine = ScriptedEngine(shard(0, 1), DecodeCost(), scripts())
        [output] = await engine.forward([chunk(0, 4, 0)])
        assert output.states is not None and output.states.shape == (4, WIDTH) and output.tokens is None

    run(story())


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_a_made_up_pair_accepts_as_often_as_asked_and_knows_how_sure_it_is(spread: float) -> None:
    trace = SyntheticPair(0.7, spread, 0.4).trace(20_000, Random(1))
    assert sum(trace.accepted) / len(trace) == pytest.approx(0.7, abs=0.02)
    sure = [right for right, chance in zip(trace.accepted, trace.confidence, strict=True) if chance > 0.9]
    if spread:
        assert sum(sure) / len(sure) > 0.9

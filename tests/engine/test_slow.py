"""A device that is slower than this machine: by the clock that jumps, to the microsecond."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from dsdnode.cost import CostLine
from dsdnode.engine.fake import FakeModel, FakeTextEngine
from dsdnode.engine.port import Chunk
from dsdnode.engine.slow import Pace, SlowEngine, fine_loop
from dsdnode.speculation.sampling import Sampling
from tests.node.jumping import run

MODEL = FakeModel()


def chunk(sequence: int, num_positions: int, num_draws: int = 0, extend: int = 0) -> Chunk:
    return Chunk(sequence, 0, np.ones(num_positions, np.int32), num_draws, Sampling(), extend=extend)


def took_s(engine: SlowEngine, *chunks: Chunk) -> tuple[float, float]:
    """By the loop's clock, and as the engine reports it."""

    async def forward() -> tuple[float, float]:
        began_s = asyncio.get_running_loop().time()
        outputs = await engine.forward(chunks)
        return asyncio.get_running_loop().time() - began_s, outputs[0].compute_s

    return run(forward())


def slow(pace: Pace, folder: Path, cost_s: float = 0.0) -> SlowEngine:
    return SlowEngine(FakeTextEngine(MODEL, cost=lambda _: cost_s), pace, folder / "slowdown")


def test_a_stage_waits_for_what_is_left_of_its_time(tmp_path: Path) -> None:
    pace = Pace(CostLine(0.014, 0.006))
    assert took_s(slow(pace, tmp_path, cost_s=0.003), chunk(0, 1, 1)) == pytest.approx((0.020, 0.020))
    assert took_s(slow(pace, tmp_path), chunk(0, 4), chunk(1, 5)) == pytest.approx((0.068, 0.068))


def test_an_engine_that_is_slower_itself_is_left_alone(tmp_path: Path) -> None:
    assert took_s(slow(Pace(CostLine(0.001, 0.0)), tmp_path, cost_s=0.5), chunk(0, 1, 1)) == pytest.approx((0.5, 0.5))


def test_a_draft_model_pays_for_what_it_draws_and_little_for_what_it_is_fed(tmp_path: Path) -> None:
    pace = Pace(CostLine(0.0, 0.005), drafts=True)
    assert took_s(slow(pace, tmp_path), chunk(0, 1, 1, extend=3))[0] == pytest.approx(0.020)
    assert took_s(slow(pace, tmp_path), chunk(0, 161, 1))[0] == pytest.approx(0.055)
    assert took_s(slow(pace, tmp_path), chunk(0, 160))[0] == pytest.approx(0.050)


def test_it_becomes_slower_in_mid_reply_and_recovers(tmp_path: Path) -> None:
    engine = slow(Pace(CostLine(0.01, 0.0)), tmp_path)
    for text, expected_s in (("5", 0.05), ("", 0.01), ("1", 0.01)):
        (tmp_path / "slowdown").write_text(text)
        assert took_s(engine, chunk(0, 1, 1))[0] == pytest.approx(expected_s)
        run(engine.release(0))


def test_what_it_says_is_the_engines_own(tmp_path: Path) -> None:
    async def both() -> None:
        plain, slowed = FakeTextEngine(MODEL), slow(Pace(CostLine(0.01, 0.0)), tmp_path)
        one = (await plain.forward([chunk(0, 5, 1, extend=6)]))[0].tokens
        other = (await slowed.forward([chunk(0, 5, 1, extend=6)]))[0].tokens
        assert one is not None and other is not None
        assert one.tolist() == other.tolist()
        assert slowed.shard == plain.shard

    run(both())


def test_the_fine_loop_does_not_round_up_to_milliseconds() -> None:
    """The shortest of fifty naps of 0.2 ms: with the usual loop on Linux even that takes a millisecond."""

    async def doze() -> float:
        best_s = 1.0
        for _ in range(50):
            began_s = time.perf_counter()
            await asyncio.sleep(0.0002)
            best_s = min(best_s, time.perf_counter() - began_s)
        return best_s

    with asyncio.Runner(loop_factory=fine_loop) as runner:
        assert runner.run(doze()) < 0.0009

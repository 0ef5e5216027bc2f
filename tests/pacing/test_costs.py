from __future__ import annotations

from random import Random

import pytest

from dsdnode.pacing.costs import CostFit, Mean, Speed

FIRST = Speed(14.0, 6.0)


def line(speed: Speed, num_positions: int) -> float:
    return speed.of(num_positions) / 1e3


def fed(fit: CostFit, speed: Speed, sizes: list[int], noise: float = 0.0) -> Speed:
    rng = Random(1)
    for size in sizes:
        fit.add(size, line(speed, size) * (1 + noise * rng.uniform(-1, 1)))
    return fit.speed


def test_the_line_follows_a_machine_that_became_slower() -> None:
    slower = Speed(70.0, 12.0)
    found = fed(CostFit(FIRST), slower, [1, 2, 3, 5, 8] * 60, noise=0.1)
    for size in (1, 4, 8):
        assert found.of(size) == pytest.approx(slower.of(size), rel=0.1)
    assert found.differs(FIRST, 0.3)


def test_decodes_of_one_size_scale_the_line_that_was_measured() -> None:
    found = fed(CostFit(FIRST), Speed(28.0, 12.0), [1] * 300)
    assert found.of(1) == pytest.approx(40.0, rel=0.01)
    assert found.of(8) == pytest.approx(124.0, rel=0.05)


def test_a_pause_of_the_machine_is_no_speed() -> None:
    fit = CostFit(FIRST)
    fed(fit, FIRST, [1, 4] * 50)
    fit.add(4, 3.0)
    assert not fit.speed.differs(FIRST, 0.3)


def test_prompts_do_not_count_and_nothing_is_ever_negative() -> None:
    fit = CostFit(FIRST)
    fit.add(256, 0.01)
    assert fit.speed == FIRST
    odd = fed(CostFit(FIRST), FIRST, [8] * 20)
    fit = CostFit(Speed(0.0, 0.0))
    for size, seconds in ((1, 0.09), (16, 0.01), (1, 0.09), (16, 0.01)):
        fit.add(size, seconds)
    for speed in (odd, fit.speed):
        assert speed.fixed_ms >= 0
        assert speed.slope_ms >= 0


def test_a_mean_over_time_not_over_changes() -> None:
    mean = Mean()
    for second in range(100, 200):
        mean.set(second, 1.0)
        mean.set(second + 0.9, 0.0)
    assert mean.value(200.0) == pytest.approx(0.9, abs=0.02)
    assert mean.value(260.0) < 0.01

from __future__ import annotations

from random import Random

import pytest

from dsdnode.cost import UNKNOWN, CostLine
from dsdnode.node.batching.batcher import COST_KEEP
from dsdnode.pacing.fits import CostFit, TimeMean

FIRST = CostLine(0.014, 0.006)


def begun(line: CostLine = FIRST) -> CostFit:
    """As a node begins: with what it measured at its start."""
    fit = CostFit(COST_KEEP, scales=True)
    fit.expect(line, weight=0.0)
    return fit


def fed(fit: CostFit, line: CostLine, sizes: list[int], noise: float = 0.0) -> CostLine:
    rng = Random(1)
    for size in sizes:
        fit.add(size, line.at(size) * (1 + noise * rng.uniform(-1, 1)))
    return fit.line


def test_the_line_follows_a_machine_that_became_slower() -> None:
    slower = CostLine(0.070, 0.012)
    found = fed(begun(), slower, [1, 2, 3, 5, 8] * 60, noise=0.1)
    for size in (1, 4, 8):
        assert found.at(size) == pytest.approx(slower.at(size), rel=0.1)
    assert found.differs(FIRST, 0.3)


@pytest.mark.parametrize("factor", [1.3, 2.0, 5.0])
def test_decodes_of_one_size_scale_the_line_that_was_measured(factor: float) -> None:
    found = fed(begun(), FIRST.times(factor), [1] * 300)
    for size in (1, 8):
        assert found.at(size) == pytest.approx(factor * FIRST.at(size), rel=0.05)


def test_a_link_s_level_moves_alone() -> None:
    fit = CostFit()
    fit.expect(FIRST, weight=0.0)
    found = fed(fit, FIRST.times(1.3), [1] * 300)
    assert found.at(1) == pytest.approx(1.3 * FIRST.at(1), rel=0.01)
    assert found.slope_s == pytest.approx(FIRST.slope_s, rel=0.1)


def test_a_pause_of_the_machine_is_no_speed() -> None:
    fit = begun()
    fed(fit, FIRST, [1, 4] * 50)
    fit.add(4, 3.0)
    assert not fit.line.differs(FIRST, 0.3)


def test_prompts_do_not_count_and_nothing_is_ever_negative() -> None:
    fit = begun()
    before = fit.line
    fit.add(256, 0.01)
    assert fit.line == before
    odd = fed(begun(), FIRST, [8] * 20)
    fit = begun(UNKNOWN)
    for size, seconds in ((1, 0.09), (16, 0.01), (1, 0.09), (16, 0.01)):
        fit.add(size, seconds)
    for line in (odd, fit.line):
        assert line.fixed_s >= 0
        assert line.slope_s >= 0


def test_a_mean_over_time_not_over_changes() -> None:
    mean = TimeMean()
    for second in range(100, 200):
        mean.set(second, 1.0)
        mean.set(second + 0.9, 0.0)
    assert mean.value(200.0) == pytest.approx(0.9, abs=0.02)
    assert mean.value(260.0) < 0.01

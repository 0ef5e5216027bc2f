"""The formulas: speculation section 3's own table, their limits, and the sharper ones against the ring in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing import formulas as speeds
from dsdnode.pacing.formulas import HedgeValue, constant_survival
from dsdnode.pacing.throughput import WORTH_A_DRAFT
from dsdnode.speculation.controller import FixedPlan
from dsdnode.speculation.plan import Mode, Plan
from tests.pacing.toy_stream import Ring, ring, run

pytestmark = pytest.mark.slow

GPU, CPU = (9.7, 0.3, 3.0), (14.0, 6.0, 5.0)


def costs_of(kind: tuple[float, float, float], num_stages: int, latency_ms: float, num_hops: int) -> PipelineCost:
    fixed_ms, slope_ms, draft_ms = kind
    stages = (CostLine.of_ms(fixed_ms, slope_ms),) * num_stages
    return PipelineCost(stages, num_hops * latency_ms / 1000, CostLine.of_ms(0.0, draft_ms))


def costs_of_ring(ring: Ring) -> PipelineCost:
    return replace(ring.costs, draft=CostLine(0.0, ring.draft_s))


@pytest.mark.parametrize(
    ("kind", "num_stages", "latency_ms", "rate", "plain", "rounds", "stream"),
    [
        (GPU, 4, 10, 0.8, 12.5, 38.1, 48.1),
        (GPU, 4, 50, 0.6, 4.2, 9.2, 9.8),
        (GPU, 4, 50, 0.9, 4.2, 27.5, 35.9),
        (CPU, 4, 10, 0.8, 8.3, 14.3, 23.1),
        (CPU, 8, 10, 0.9, 4.2, 9.3, 23.5),
    ],
)
def test_the_table_of_section_3_each_scheme_at_its_own_best(
    kind: tuple[float, float, float],
    num_stages: int,
    latency_ms: float,
    rate: float,
    plain: float,
    rounds: float,
    stream: float,
) -> None:
    costs = costs_of(kind, num_stages, latency_ms, num_hops=num_stages)
    assert speeds.plain_speed(costs) == pytest.approx(plain, abs=0.06)
    assert max(speeds.rounds_speed(costs, rate, k) for k in range(1, 33)) == pytest.approx(rounds, abs=0.06)
    assert max(speeds.stream_speed(costs, rate, b) for b in range(1, 17)) == pytest.approx(stream, abs=0.06)


def test_a_ring_crosses_one_link_more_than_it_has_stages() -> None:
    costs = costs_of(GPU, 4, 10, num_hops=5)
    assert costs.num_hops == 5
    assert costs.pass_s(1) == pytest.approx(0.090)
    assert speeds.plain_speed(costs) == pytest.approx(1 / 0.090)


def test_positions_cost_what_they_weigh_on_every_link() -> None:
    costs = PipelineCost((CostLine(0.010),) * 4, 0.050, CostLine(0.0, 0.001), payload_s=0.004)
    assert costs.pass_s(3) == pytest.approx(0.040 + 0.050 + 5 * 3 * 0.004)
    assert speeds.bottleneck_s(costs, 4) == pytest.approx(0.016)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 0.99])
def test_nothing_passes_the_ceiling_of_a_single_line_of_draft_tokens(rate: float) -> None:
    costs = costs_of(GPU, 4, 50, num_hops=5)
    for block in range(1, 9):
        assert speeds.stream_speed(costs, rate, block) <= speeds.line_bound(costs, rate)
        covered = speeds.hedged_speed(costs, rate, block, covered_share=0.5, extra_share=0.0)
        assert covered >= speeds.stream_speed(costs, rate, block)
        assert speeds.hedged_speed(costs, rate, block, covered_share=0.0) <= speeds.stream_speed(costs, rate, block)


def test_all_right_streams_at_the_bottleneck() -> None:
    costs = costs_of(CPU, 4, 10, num_hops=5)
    assert speeds.stream_speed(costs, 1.0, 2) == pytest.approx(2 / speeds.bottleneck_s(costs, 2))


@pytest.mark.parametrize("kind", [CPU, GPU, (1.0, 0.1, 0.8)])
@pytest.mark.parametrize(("num_stages", "latency_ms"), [(2, 10.0), (4, 10.0), (4, 50.0), (8, 2.0)])
def test_what_a_plan_will_do_is_what_it_does(
    kind: tuple[float, float, float], num_stages: int, latency_ms: float
) -> None:
    """For the draws that came."""
    errors = []
    for rate in (0.3, 0.8):
        little = ring(num_stages, latency_ms, kind, rate)
        costs = costs_of_ring(little)
        for plan in (Plan("plain", 0, 0), Plan("rounds", 4, 4), Plan("stream", 1, 8), Plan("stream", 2, 16)):
            result = run(little, FixedPlan(plan), 400)
            num_judged = sum(event.num_judged for event in result.events) or 1
            drawn = sum(event.num_accepted for event in result.events) / num_judged
            survival = constant_survival(drawn)
            cycles = {
                "plain": speeds.plain_cycle(costs),
                "rounds": speeds.rounds_cycle(costs, survival, 4),
                "stream": speeds.stream_cycle(costs, survival, max(1, plan.block), plan.window),
            }
            error = cycles[plan.mode].token_s() * result.speed - 1
            assert abs(error) < (0.14 if plan.mode == "stream" else 0.05), (plan, rate, error)
            errors.append(error)
    assert abs(sum(errors) / len(errors)) < 0.05


def test_a_run_takes_what_its_blocks_take() -> None:
    costs = costs_of(CPU, 4, 10, num_hops=5)
    assert costs.pass_s(1) <= speeds.run_s(costs, 0, 2, 16) <= costs.pass_s(1) + 0.026
    assert speeds.run_s(costs, 3, 2, 16) - speeds.run_s(costs, 2, 2, 16) == pytest.approx(0.026)
    times = [speeds.run_s(costs, length, 2, 4) for length in range(40)]
    assert times == sorted(times)
    assert times[-1] > speeds.run_s(costs, 39, 2, 32), "a small window has to wait for verdicts"


def fastest(
    costs: PipelineCost, rate: float, modes: Sequence[Mode] = ("plain", "rounds", "stream"), num_others: float = 0.0
) -> tuple[Plan, float]:
    """And its tokens per second."""
    found = speeds.options(costs, constant_survival(rate), modes, range(1, 9))
    plan, cycle = min(found, key=lambda option: option[1].token_s(num_others))
    return plan, 1 / cycle.token_s(num_others)


def test_others_who_wait_make_deep_draft_tokens_dear() -> None:
    costs = costs_of(CPU, 4, 10, num_hops=5)
    alone, _ = fastest(costs, 0.6)
    crowded, _ = fastest(costs, 0.6, num_others=4.0)
    assert alone.mode == "stream"
    assert crowded.mode == "plain" or crowded.window < alone.window


def test_the_fastest_option_knows_a_hopeless_draft_and_a_good_one() -> None:
    cpu = costs_of(CPU, 2, 0, num_hops=3)
    assert fastest(cpu, 0.02)[1] < speeds.plain_speed(cpu) / WORTH_A_DRAFT
    assert fastest(cpu, 0.0, ("plain", "rounds"))[0].mode == "plain"
    plan, speed = fastest(costs_of(GPU, 4, 50, num_hops=5), 0.9)
    assert plan.mode == "stream" and speed > 4 * speeds.plain_speed(costs_of(GPU, 4, 50, num_hops=5))
    rounds, slower = fastest(costs_of(GPU, 4, 50, num_hops=5), 0.9, ("plain", "rounds"))
    assert rounds.block == rounds.window > 4 and slower < speed


def test_a_window_covers_a_pass_but_not_more_than_runs_last() -> None:
    costs = costs_of(GPU, 4, 50, num_hops=5)
    assert speeds.stream_window(costs, constant_survival(0.3), 2) < speeds.stream_window(
        costs, constant_survival(0.9), 2
    )
    for block in range(1, 9):
        window = speeds.stream_window(costs, constant_survival(0.95), block)
        assert window % block == 0 and 2 * block <= window <= speeds.MAX_WINDOW


def test_a_hedge_is_worth_what_it_covers_less_what_it_costs() -> None:
    costs, survival = costs_of(GPU, 4, 50, num_hops=5), constant_survival(0.6)
    stream = speeds.stream_cycle(costs, survival, 2, 16).token_s()
    assert speeds.stream_cycle(costs, survival, 2, 16, HedgeValue(0.4, 1.3), 1).token_s() < 0.9 * stream
    assert speeds.stream_cycle(costs, survival, 2, 16, HedgeValue(0.0, 1.3), 1).token_s() > stream

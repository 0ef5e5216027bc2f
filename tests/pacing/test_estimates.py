"""What a controller learns, and how fast it forgets."""

from __future__ import annotations

import random
from dataclasses import astuple, replace

import pytest

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.estimates import AcceptanceEstimate, PipelineEstimate, links_share
from dsdnode.pacing.fits import CostFit, Ratio
from dsdnode.pacing.formulas import drafting_s, round_s
from dsdnode.speculation.events import PassEvent

RECORDS = PipelineCost(
    (
        CostLine(0.014, 0.006),
        CostLine(0.020, 0.001),
    ),
    0.030,
)


def passed(positions: int, stage_s: tuple[float, ...], network_s: float, **more: object) -> PassEvent:
    event = PassEvent(1, 0, positions, 0, 0, 1, 5.0, 5.0 + sum(stage_s) + network_s, stage_s, (0.0,) * len(stage_s))
    return replace(event, **more)  # type: ignore[arg-type]


def stages_s(positions: int) -> tuple[float, float]:
    return 0.014 + 0.006 * positions, 0.020 + 0.001 * positions


# --- acceptance ---------------------------------------------------------------------------------------------------


def test_a_draft_model_is_trusted_at_first_and_not_for_long() -> None:
    alice = AcceptanceEstimate()
    assert alice.rate == pytest.approx(0.75)
    for _ in range(10):
        alice.judged(0, 1, 0)
    assert alice.rate < 0.25
    assert alice.survival()[1] < 0.25


def test_a_rate_is_found_and_followed_when_the_draft_turns_bad() -> None:
    rng, alice = random.Random(1), AcceptanceEstimate()
    for _ in range(200):
        alice.judged(0, 1, int(rng.random() < 0.8))
    assert alice.rate == pytest.approx(0.8, abs=0.12)
    for _ in range(30):
        alice.judged(0, 1, 0)
    assert alice.rate < 0.3, "thirty wrong draft tokens outweigh two hundred"


def test_a_draft_that_turns_good_is_believed_as_soon() -> None:
    alice = AcceptanceEstimate()
    for _ in range(100):
        alice.judged(0, 1, 0)
    for depth in range(20):
        alice.judged(depth, 1, 1)
    assert alice.rate > 0.6


def test_acceptance_has_a_shape_by_depth() -> None:
    alice = AcceptanceEstimate()
    for _ in range(60):  # the first two draft tokens hold, the third never
        alice.judged(0, 3, 2)
    chances = alice.survival()
    assert chances[2] > 0.8 * chances[1] > 0.6
    assert chances[3] < 0.5 * chances[2]
    assert chances == sorted(chances, reverse=True) and chances[0] == 1.0


def test_another_reply_begins_half_way_back_to_the_prior() -> None:
    alice = AcceptanceEstimate()
    for _ in range(200):
        alice.judged(0, 1, 0)
    before = alice.rate
    alice.begin_reply()
    assert before < alice.rate < 0.4


# --- lines --------------------------------------------------------------------------------------------------------


def test_a_cost_line_is_fitted_from_blocks_of_different_sizes() -> None:
    fit = CostFit()
    for positions in (1, 3, 1, 5, 3, 9, 1, 3):
        fit.add(positions, 0.014 + 0.006 * positions)
    assert fit.line.fixed_s == pytest.approx(0.014, abs=0.001)
    assert fit.line.slope_s == pytest.approx(0.006, abs=0.0003)


def test_a_slope_outlives_blocks_of_one_size_and_the_level_follows() -> None:
    fit = CostFit()
    fit.expect(CostLine(0.010, 0.004))
    for _ in range(100):
        fit.add(3, 0.044)
    assert fit.line.at(3) == pytest.approx(0.044, abs=0.001)
    assert fit.line.slope_s == pytest.approx(0.004, rel=0.6)
    assert fit.line.slope_s > 0 and fit.line.fixed_s > 0


def test_a_stage_five_times_slower_is_believed_within_five_passes() -> None:
    fit = CostFit()
    fit.expect(CostLine(0.010, 0.002))
    for positions in (1, 3, 3, 1, 3, 1, 3, 3):
        fit.add(positions, 0.010 + 0.002 * positions)
    for positions in (3, 1, 3, 3, 1):
        fit.add(positions, 5 * (0.010 + 0.002 * positions))
    assert fit.line.at(3) == pytest.approx(0.080, rel=0.15)


def test_one_hiccup_changes_little() -> None:
    fit = CostFit()
    for _ in range(30):
        fit.add(2, 0.020)
    fit.add(2, 0.200)
    assert fit.line.at(2) < 0.035


def test_a_prior_of_records_gives_way_to_what_is_measured() -> None:
    costs = PipelineEstimate(RECORDS)
    assert astuple(costs.costs().stages[0]) == pytest.approx((0.014, 0.006))
    for positions in (1, 3, 1, 3, 5, 1, 3, 1, 3, 1):
        costs.passed(passed(positions, (0.030 + 0.010 * positions, 0.021), 0.030))
    assert costs.costs().stages[0].fixed_s == pytest.approx(0.030, rel=0.2)


# --- pipelines ----------------------------------------------------------------------------------------------------


def test_the_network_is_what_is_left_of_a_pass_and_its_slope_is_bandwidth() -> None:
    costs = PipelineEstimate()
    for positions in (1, 4, 1, 8, 4, 1, 8, 4, 8, 1, 4, 8):
        costs.passed(passed(positions, stages_s(positions), 0.060 + 0.009 * positions))
    found = costs.costs()
    assert found.network_s == pytest.approx(0.060, abs=0.012)
    assert found.payload_s == pytest.approx(0.003, abs=0.001), "three links"


def test_jitter_is_not_taken_for_bandwidth() -> None:
    rng, costs = random.Random(2), PipelineEstimate(PipelineCost((CostLine(0.01, 0.001),) * 4, 0.05))
    for _ in range(80):
        positions = rng.choice((1, 2, 2, 3))
        network_s = 0.05 + sum(rng.random() * 0.03 for _ in range(5))
        costs.passed(passed(positions, (0.01 + 0.001 * positions,) * 4, network_s))
    found = costs.costs()
    assert found.network_s + 10 * found.payload_s == pytest.approx(0.125, rel=0.2)
    assert found.payload_s < 0.003
    assert 0.005 < costs.jitter.spread < 0.04


def test_prefill_and_silent_stages_tell_nothing() -> None:
    costs = PipelineEstimate(RECORDS)
    before = costs.costs()
    costs.passed(passed(256, (3.0, 2.0), 1.0))
    costs.passed(passed(1, (), 9.0))
    assert costs.costs() == before


def test_waits_count_as_others_only_where_the_own_stream_is_not_in_the_way() -> None:
    own, others = PipelineEstimate(RECORDS), PipelineEstimate(RECORDS)
    for _ in range(20):
        event = passed(1, stages_s(1), 0.050, waited_s=(0.010, 0.010), mode="stream", queue=(0, 0))
        own.passed(event)
        others.passed(replace(event, queue=(2, 1)))
    assert own.costs().network_s == pytest.approx(0.030, abs=0.003)
    assert others.costs().network_s == pytest.approx(0.050, abs=0.003)
    assert others.others.value == pytest.approx(2.0) and own.others.value == 0.0


def test_a_draft_engine_that_never_answers_in_time_is_known_to_be_slow() -> None:
    costs = PipelineEstimate(RECORDS)
    for _ in range(12):
        costs.passed(passed(1, stages_s(1), 0.030, mode="stream"))
    assert costs.draft.line.at(1) > 0.05 and costs.draft.line.at(8) > 0.12
    for _ in range(30):
        costs.drafted(2, 0.004)
    assert costs.draft.line.at(2) < 0.006


def test_a_draft_engines_call_costs_something_before_its_first_token() -> None:
    """So one call of eight tokens is not eight calls of one."""
    costs = PipelineEstimate(RECORDS)
    for num_tokens in (1, 8, 1, 4, 8, 1, 4, 1, 8, 1):
        costs.drafted(num_tokens, 0.004 + 0.001 * num_tokens)
    found = costs.costs()
    assert found.draft.fixed_s == pytest.approx(0.004, abs=0.0006) and found.draft.slope_s == pytest.approx(
        0.001, abs=0.0002
    )
    assert drafting_s(found, 4) > 4 * 0.004 > round_s(found, 8) - found.pass_s(9)


def test_hiccups_of_the_network_are_not_its_latency() -> None:
    costs = PipelineEstimate(
        PipelineCost(
            (
                CostLine(0.001, 0.0001),
                CostLine(0.001, 0.0001),
            ),
            0.002,
        )
    )
    for index in range(60):
        costs.passed(passed(1, (0.0011, 0.0011), 0.080 if index % 7 == 3 else 0.002))
    assert costs.costs().network_s < 0.004


def test_a_pipeline_is_known_again_by_what_records_say_of_it() -> None:
    costs = PipelineEstimate(RECORDS)
    assert costs.is_of(RECORDS)
    assert costs.is_of(replace(RECORDS, network_s=0.034)), "pings vary"
    assert not costs.is_of(replace(RECORDS, network_s=0.130))
    assert not costs.is_of(PipelineCost((CostLine(0.014, 0.006),), 0.030))
    assert not PipelineEstimate().is_of(RECORDS)


def test_a_ratio_decays() -> None:
    ratio = Ratio(4.0, 4.0, 0.9)
    for _ in range(60):
        ratio.add(1.0, 2.0)
    assert ratio.value == pytest.approx(0.5, abs=0.01)


# --- links as the limit -------------------------------------------------------------------------------------------


def on_links(rng: random.Random, slope_s: float, jitter_s: float, sizes: tuple[int, ...]) -> float | None:
    """What is said of links that take `slope_s` a position, beside 20 ms and jitter."""
    nets = [(size, 0.02 + slope_s * size + rng.uniform(0, jitter_s)) for size in sizes]
    return links_share([passed(size, stages_s(size), net_s) for size, net_s in nets])


def test_links_that_are_the_limit_are_seen() -> None:
    """A prompt of 60, then single tokens at Alice's, blocks of five at Bob's."""
    rng = random.Random(1)
    alice, bob = on_links(rng, 0.03, 0.01, (60, *[1] * 40)), on_links(rng, 0.03, 0.01, (60, *[5, 4, 5] * 15))
    assert alice == pytest.approx(0.03 * 100 / (60 * 0.037 + 40 * 0.091), abs=0.2)
    assert bob is not None and bob > 0.3


def test_neither_jitter_nor_slow_stages_are_taken_for_narrow_links() -> None:
    rng = random.Random(2)
    for sizes in ((60, *[1] * 40), (9, *[5, 4, 5] * 15), (3, 1, 2, 1, 1)):
        assert (on_links(rng, 0.0, 0.05, sizes) or 0.0) < 0.1


def test_of_passes_of_one_size_nothing_is_said() -> None:
    assert on_links(random.Random(3), 0.03, 0.01, (1,) * 40) is None
    assert links_share([]) is None

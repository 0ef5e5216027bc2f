"""The default policy, on the owner's machine over rings in miniature: fast where it can be, never slower than plain."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from dsdnode.cost import CostLine
from dsdnode.pacing.estimates import Experience
from dsdnode.pacing.formulas import plain_speed
from dsdnode.pacing.policies import Terms, policy_of
from dsdnode.pacing.throughput import Throughput
from dsdnode.pacing.tuning import TUNING
from dsdnode.speculation.controller import FixedPlan
from dsdnode.speculation.plan import Plan
from dsdnode.wire.replies import PlanChange
from tests.pacing.toy_stream import Result, Ring, ring, run

pytestmark = pytest.mark.slow

CPU, GPU, FAST = (14.0, 6.0, 5.0), (10.0, 0.3, 3.0), (1.0, 0.1, 0.8)
PLAIN = Plan("plain", 0, 0)


def plain(ring: Ring) -> float:
    return plain_speed(replace(ring.costs, draft=CostLine(0.0, ring.draft_s)))


def default(ring: Ring, num_tokens: int = 200, seed: int = 0) -> Result:
    return run(ring, Throughput(8), num_tokens, seed)


def blocks(result: Result, mode: str) -> list[int]:
    return [change.block for change in result.plans if change.mode == mode]


def plain_from(result: Result) -> int:
    """The token from which on nothing was drafted, for a while."""
    return next(change.index for change in result.plans if change.mode == "plain")


@pytest.mark.parametrize("kind", [CPU, GPU, FAST], ids=["cpu", "gpu", "fast"])
@pytest.mark.parametrize("num_stages", [2, 4, 8])
@pytest.mark.parametrize("latency_ms", [0.0, 2.0, 10.0, 50.0])
def test_nowhere_slower_than_plain_and_close_to_the_best_plan_there_is(
    kind: tuple[float, float, float], num_stages: int, latency_ms: float
) -> None:
    """Replies of 200 tokens, from the first one on, nothing known of the draft model."""
    for rate in (0.1, 0.6, 0.85):
        little = ring(num_stages, latency_ms, kind, rate)
        speed = default(little).speed
        assert speed >= 0.955 * plain(little), rate
        if rate == 0.85:
            best = max(run(little, FixedPlan(Plan("stream", *sizes)), 200).speed for sizes in ((2, 16), (4, 32)))
            assert (
                speed >= 0.87 * best
            )  # least where a real peer's handling of a block, of which this ring is free, counts


def test_on_a_grid_the_mean_distance_from_plain_is_what_drafts_are_worth() -> None:
    """A hopeless draft costs nothing where links dominate: the correction never waits for it."""
    for num_stages, latency_ms in ((2, 10.0), (4, 10.0), (4, 50.0), (8, 2.0)):
        little = ring(num_stages, latency_ms, CPU, 0.0)
        assert default(little).speed >= 0.985 * plain(little)


def test_a_short_reply_gains_at_once() -> None:
    for kind, latency_ms in ((CPU, 10.0), (GPU, 50.0)):
        little = ring(4, latency_ms, kind, 0.8)
        assert default(little, 64).speed > 2 * plain(little)


def test_without_records_the_first_passes_tell() -> None:
    little = ring(4, 10, CPU, 0.8)
    told, untold = default(little), run(little, Throughput(8), 200, told=False)
    assert untold.speed > 0.9 * told.speed
    assert untold.plans[0] == PlanChange(0, 0.0, "stream", 2, 8, 0, "")


# --- hostile ------------------------------------------------------------------------------------------------------


def test_a_draft_that_is_always_wrong_is_switched_off_with_a_word_and_tried_again_ever_less() -> None:
    little = ring(2, 0, CPU, 0.0)
    result = default(little, 400)
    assert result.speed >= 0.97 * plain(little)
    assert result.speed_of(100, 400) >= 0.98 * plain(little)
    why = [change.reason for change in result.plans if change.mode == "plain"]
    assert "drafts are accepted" in why[0]
    probes = [change.index for change in result.plans if change.reason == "trying drafts again"]
    assert len(probes) >= 2
    gaps = [later - earlier for earlier, later in pairwise(probes)]
    assert gaps == sorted(gaps) and gaps[-1] >= 64


def test_a_draft_that_turns_bad_in_mid_reply_and_one_that_turns_good() -> None:
    base = ring(2, 0, CPU, 0.8)
    bad = default(replace(base, accept=lambda position: 0.9 if position < 100 else 0.0), 300)
    assert bad.speed_of(150, 300) >= 0.95 * plain(base)
    good = default(replace(base, accept=lambda position: 0.0 if position < 60 else 0.9), 300)
    assert good.speed_of(220, 300) >= 1.3 * plain(base)


def test_thirty_milliseconds_of_jitter() -> None:
    for rate in (0.1, 0.8):
        little = replace(ring(4, 10, CPU, rate), jitter_s=0.030)
        slow, fast = run(little, FixedPlan(PLAIN), 200).speed, default(little)
        assert fast.speed >= (0.97 if rate < 0.5 else 2.5) * slow
        assert all(change.window <= 48 for change in fast.plans)


def test_a_stage_becomes_five_times_slower_in_mid_reply() -> None:
    for rate in (0.1, 0.8):
        little = replace(ring(4, 10, CPU, rate), slow=lambda stage, now: 5.0 if stage == 1 and now > 4.0 else 1.0)
        slow, fast = run(little, FixedPlan(PLAIN), 300), default(little, 300)
        assert fast.speed >= 0.97 * slow.speed
        assert fast.speed_of(200, 300) >= (0.97 if rate < 0.5 else 1.4) * slow.speed_of(200, 300)
        if rate > 0.5:
            before = [change for change in fast.plans if change.at_s < 4.0][-1]
            after = [change for change in fast.plans if change.at_s > 6.0]
            assert any(change.window < before.window for change in after), "the slow stage is what limits"


@pytest.mark.parametrize("draft_ms", [60.0, 150.0])
def test_a_drafter_slower_than_the_ring(draft_ms: float) -> None:
    for rate in (0.3, 0.8):
        little = ring(2, 2, (10.0, 1.0, draft_ms), rate)
        result = default(little)
        assert result.speed >= 0.97 * plain(little)
        assert result.plans[-1].mode == "plain", "its energy can be spared"


def test_a_machine_that_drafts_and_serves_at_once_is_judged_by_what_happened() -> None:
    """By the formulas a stream would gain a fifth: they do not know that drafting slows the stages down."""
    little = replace(ring(2, 0, CPU, 0.45), crowding=1.5)
    by_formula = run(replace(little, crowding=1.0), FixedPlan(Plan("stream", 2, 4)), 300).speed
    assert by_formula > 1.03 * plain(little) > run(little, FixedPlan(Plan("stream", 2, 4)), 300).speed
    result = run(little, policy_of("throughput:stream", Terms(8)), 400)
    assert result.speed_of(100, 400) >= 0.95 * plain(little)
    assert any("measuring" in change.reason for change in result.plans)


def test_others_who_wait_are_left_room() -> None:
    alone, crowded = ring(4, 10, CPU, 0.6), replace(ring(4, 10, CPU, 0.6), others=4)
    assert max(change.window for change in default(alone).plans[1:]) > 8
    result = default(crowded)
    assert result.plans[-1].window <= 6 and result.plans[-1].mode != "hedged"
    assert result.speed > 1.5 * run(crowded, FixedPlan(PLAIN), 100).speed, (
        "what is shared must be used well, not shunned"
    )


def test_who_waits_counts_though_they_do_not_delay_us_yet() -> None:
    """The same passes, told twice: once with six replies of others waiting at every stage."""
    events = default(ring(8, 10, CPU, 0.4)).events
    controllers = Throughput(8), Throughput(8)
    for controller, others in zip(controllers, (0, 6), strict=True):
        for event in events:
            controller.on_verdict(replace(event, queue=(others,) * 8))
    alone, polite = (controller.plan() for controller in controllers)
    assert alone.mode in ("stream", "hedged")
    assert polite.window < alone.window


# --- modes --------------------------------------------------------------------------------------------------------


def test_hedges_come_where_they_cover_and_go_where_they_do_not() -> None:
    covering = ring(4, 50, FAST, 0.7, covered_share=0.7)
    hedged, stream = default(covering, 400), run(covering, policy_of("throughput:stream", Terms(8)), 400)
    assert hedged.speed > 1.05 * stream.speed
    assert hedged.plans[-1].mode == "hedged"
    bare = default(ring(4, 50, FAST, 0.7), 400)
    assert bare.plans[-1].mode != "hedged"


def test_rounds_alone_come_close_to_the_best_round() -> None:
    for kind, latency_ms in ((CPU, 10.0), (GPU, 50.0)):
        little = ring(4, latency_ms, kind, 0.8)
        best = max(run(little, FixedPlan(Plan("rounds", k, k)), 200).speed for k in (2, 4, 6, 8))
        assert run(little, policy_of("throughput:rounds", Terms(8)), 200).speed >= 0.93 * best


def test_steps_are_small_and_windows_whole() -> None:
    result = default(ring(4, 50, GPU, 0.9), 300)
    sizes = blocks(result, "stream")
    assert all(abs(later - earlier) <= TUNING.max_step for earlier, later in pairwise(sizes))
    assert all(change.window >= change.block for change in result.plans)
    assert len(result.plans) < 40, "a trace that can be read"


def test_a_lost_pass_is_not_a_slow_one() -> None:
    controller = Throughput(8)
    little = ring(4, 10, CPU, 0.8)
    run(little, controller, 100)
    plan = controller.plan()
    controller.on_failure()
    assert controller.plan() == plan


# --- from reply to reply ------------------------------------------------------------------------------------------


def test_experience_spares_the_next_reply_the_search() -> None:
    little, experience = ring(2, 0, CPU, 0.0), Experience()
    first = run(little, Throughput(8, experience=experience), 100)
    second = run(little, Throughput(8, experience=experience), 100)
    assert plain_from(second) < plain_from(first)
    assert second.speed >= 0.98 * plain(little)


def test_a_new_text_may_suit_the_draft_that_failed_before() -> None:
    experience = Experience()
    run(ring(4, 10, CPU, 0.0), Throughput(8, experience=experience), 100)
    good = ring(4, 10, CPU, 0.85)
    assert run(good, Throughput(8, experience=experience), 200).speed > 2 * plain(good)


def test_hedges_that_brought_nothing_are_tried_again_on_other_texts() -> None:
    experience = Experience()
    run(ring(4, 50, GPU, 0.8, 0.0), Throughput(8, experience=experience), 200)
    good = ring(4, 50, GPU, 0.8, 0.5)
    replies = [run(good, Throughput(8, experience=experience), 64, seed) for seed in range(20)]
    assert sum(any(change.mode == "hedged" for change in reply.plans) for reply in replies) > 15


def test_another_pipelines_costs_are_not_believed() -> None:
    experience = Experience()
    run(ring(4, 50, GPU, 0.8), Throughput(8, experience=experience), 100)
    near = ring(4, 0, CPU, 0.8)
    Throughput(8, experience=experience).on_route(near.costs)
    assert experience.costs.costs().network_s < 0.002, "records say so, before the first pass"
    with_it, without = run(near, Throughput(8, experience=experience), 150), default(near, 150)
    assert with_it.speed > 0.93 * without.speed


def test_same_draws_same_plans() -> None:
    little = ring(4, 10, CPU, 0.6, 0.4)
    assert default(little).plans == default(little).plans

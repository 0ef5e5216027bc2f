"""Draft tokens that cost no time: when the default policy has them sent, and as what."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

import pytest

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.estimates import Experience
from dsdnode.pacing.policies import Terms, policy_of
from dsdnode.pacing.throughput import Throughput
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan

LIKELY, UNLIKELY = 0.9, 0.01


def costs(network_ms: float, fixed_ms: float, slope_ms: float) -> PipelineCost:
    """Two stages."""
    stage = CostLine(fixed_ms / 1000, slope_ms / 1000)
    return PipelineCost((stage, stage), network_ms / 1000, CostLine(0.002, 0.004))


FAR, NEAR = costs(100.0, 1.0, 1.0), costs(0.2, 0.5, 4.0)


def survival(chance: float, num: int = 12) -> list[float]:
    return [*accumulate([chance] * num, mul, initial=1.0)]


def policy(name: str, costs: PipelineCost, *, model: bool = True) -> Throughput:
    made = policy_of(name, Terms(8, Experience(), model=model))
    assert isinstance(made, Throughput)
    made.on_route(costs)
    return made


def plain(costs: PipelineCost) -> Throughput:
    return policy("throughput", costs, model=False)


def test_before_anything_is_known_of_the_pipeline_nothing_is_copied() -> None:
    made = policy_of("throughput", Terms(8, Experience()))
    assert made.copying(survival(LIKELY)) is None


@pytest.mark.parametrize("network_ms", [5.0, 20.0, 100.0])
def test_over_links_likely_ones_are_sent_and_unlikely_ones_are_not(network_ms: float) -> None:
    plan = plain(costs(network_ms, 1.0, 1.0)).copying(survival(LIKELY))
    assert plan is not None and plan.copied and 1 <= plan.block <= 8
    assert plain(costs(network_ms, 1.0, 1.0)).copying(survival(UNLIKELY)) is None


def test_where_a_position_costs_a_pass_hardly_any_gain() -> None:
    assert plain(NEAR).copying(survival(0.2)) is None


def test_a_sure_text_over_a_long_link_is_streamed() -> None:
    plan = plain(FAR).copying(survival(0.995, 60))
    assert plan is not None and plan.mode == "stream" and plan.window > plan.block >= 4


def test_a_draft_model_that_does_better_is_left_at_work() -> None:
    """Whether it is worth it is asked against what the plan gives now."""
    made = policy("throughput", FAR)
    assert made.copying(survival(LIKELY)) is not None
    made._plan = Plan("stream", 4, 32)
    for position in range(0, 600, 6):
        event = PassEvent(0, position, 5, 5, 5, 6, position / 10, position / 10 + 0.1, (0.005, 0.005), num_draft=4,
                          depth=position, mode="stream", alone=False)  # fmt: skip
        made._known.judged(event)
    assert made.copying(survival(0.5, 3)) is None


@pytest.mark.parametrize(("name", "copies"), [("throughput", True), ("throughput:ngrams", True),
                                              ("throughput:model", False), ("throughput:rounds", True)])  # fmt: skip
def test_which_policies_copy(name: str, copies: bool) -> None:
    assert (policy(name, FAR).copying(survival(LIKELY)) is not None) is copies


@pytest.mark.parametrize("name", ["fixed", "awc", "threshold", "stream:2:8"])
def test_plans_for_experiments_are_kept(name: str) -> None:
    made = policy_of(name, Terms(8))
    made.on_route(FAR)
    assert made.copying(survival(LIKELY)) is None


def test_without_a_draft_model_nothing_is_asked_of_it() -> None:
    for name in ("throughput", "throughput:hedged", "throughput:rounds"):
        assert policy(name, FAR, model=False).plan() == Plan("plain", 0, 0)


def test_copies_tell_nothing_of_the_draft_model() -> None:
    made = policy("throughput", FAR)
    before = made._known.acceptance.rate
    event = PassEvent(0, 0, 9, 8, 0, 1, 0.0, 0.1, (0.01, 0.01), num_draft=8, mode="rounds", copied=True, num_copied=8)
    for _ in range(20):
        made.on_verdict(event)
    assert made._known.acceptance.rate == before

"""Alice, among twenty others at one stage: what a place in a shared decode costs them."""

from __future__ import annotations

from itertools import cycle as again

import pytest

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.crowd import Crowd
from dsdnode.pacing.estimates import PipelineEstimate
from dsdnode.pacing.formulas import constant_survival, options
from dsdnode.pacing.throughput import Throughput
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan

RECORDS = PipelineCost((CostLine(0.030, 0.0005),), 0.020)
DECODE_S = 0.060
"""Mostly the others' positions."""


def judged(
    at_s: float, others: int, waited_s: float, decode_s: float = DECODE_S, window: int = 4, num_right: int | None = None
) -> PassEvent:
    """A round of alice's; all but one of her draft tokens were right, if `num_right` does not say."""
    num_right = window - 1 if num_right is None else num_right
    return PassEvent(
        epoch=1,
        position=10,
        num_positions=window + 1,
        num_judged=min(window, num_right + 1),
        num_accepted=num_right,
        num_committed=num_right + 1,
        sent_s=at_s - 0.020 - waited_s - decode_s,
        judged_s=at_s,
        stage_s=(decode_s,),
        waited_s=(waited_s,),
        queue=(others,),
        num_draft=window,
        window=window,
        mode="rounds" if window else "plain",
    )


def told(others: int, waited_s: float, decodes_s: tuple[float, ...] = (DECODE_S,)) -> tuple[Crowd, PipelineEstimate]:
    """What alice knows after twenty rounds."""
    crowd, pipeline = Crowd(), PipelineEstimate(RECORDS)
    for number, decode_s in zip(range(20), again(decodes_s), strict=False):
        event = judged(0.2 * number, others, waited_s, decode_s, window=3 + number % 3)
        pipeline.passed(event)
        crowd.passed(event)
    return crowd, pipeline


def best_window(crowd: Crowd, pipeline: PipelineEstimate, rate: float = 0.75) -> int:
    def token_s(option: tuple[Plan, object]) -> float:
        return crowd.priced(*option).token_s(pipeline.others.value)  # type: ignore[arg-type]

    found = options(crowd.costs(pipeline), constant_survival(rate), ("plain", "rounds"), range(1, 13))
    return min(found, key=token_s)[0].window


def test_who_was_alone_so_far_is_charged_nothing() -> None:
    crowd, pipeline = told(0, 0.050)
    assert crowd.costs(pipeline) == pipeline.costs()
    for plan, cycle in options(pipeline.costs(), constant_survival(0.75), ("plain", "rounds", "stream"), range(1, 5)):
        assert crowd.priced(plan, cycle) == cycle


def test_where_decodes_leave_full_rounds_are_smaller_than_where_there_is_room() -> None:
    """Where everybody finds a place, twenty others are hardly delayed."""
    alone, roomy, full = (best_window(*told(*terms)) for terms in ((0, 0.0), (20, 0.010), (20, 0.120)))
    assert full < roomy <= alone


def test_what_a_place_costs_is_what_the_stage_does_over_who_is_there() -> None:
    crowd, pipeline = told(20, 0.120)
    assert pipeline.others.value == pytest.approx(20)
    rounds = {plan.block: cycle for plan, cycle in options(pipeline.costs(), [1.0] * 97, ("rounds",), (1, 4))}
    more_s = [crowd.priced(Plan("rounds", block, block), rounds[block]).used_s for block in (1, 4)]
    assert more_s[1] - more_s[0] == pytest.approx(3 * (0.180 / 21) / 6, rel=0.05), "4 draft tokens a round, 6 places"


def test_others_positions_do_not_look_like_the_price_of_ones_own() -> None:
    """Longer decodes with shorter rounds of hers, by chance: the records know what a position costs."""
    crowd, pipeline = told(20, 0.030, (0.066, 0.060, 0.054))
    assert pipeline.costs().stages[0].slope_s != pytest.approx(0.0005, rel=0.5)
    [stage] = crowd.costs(pipeline).stages
    assert stage.slope_s == 0.0005 and stage.at(5) == pytest.approx(DECODE_S, rel=0.1)


def test_in_a_crowd_plain_decoding_is_not_tried_for_measurement() -> None:
    def plans(others: int) -> set[str]:
        alice = Throughput(8)
        alice.on_route(RECORDS)
        reasons = set()
        for number in range(100):
            plan = alice.plan()
            alice.on_verdict(
                judged(0.2 * number, others, 0.120, window=plan.block, num_right=min(plan.block, number % 2))
            )
            reasons.add(plan.reason)
        return reasons

    measuring = "measuring what plain decoding costs"
    assert measuring in plans(0)
    assert measuring not in plans(20)

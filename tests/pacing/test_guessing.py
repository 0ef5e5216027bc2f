"""Dora asks sue's judge to guess where that pays, and lets it be where it does not."""

from __future__ import annotations

import pytest

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.formulas import Cycle
from dsdnode.pacing.guessing import PROBE_TOKENS, Guessing
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan

COSTS = PipelineCost((CostLine(0.002, 0.001),) * 2, 0.03)


def alone(plan: Plan, cycle: Cycle) -> float:
    return cycle.token_s(0.0)


def played(rate: float, guess_s: float, num_tokens: int, *, extra_s: float = 0.0) -> list[int]:
    """How many are asked for with each pass. `extra_s`: that a pass with guesses takes, and nobody told of."""
    guessing, now, length, asked, debt = Guessing(), 0.0, 0, list[int](), 0.0
    while length < num_tokens:
        num = guessing.wanted(length, COSTS, alone)
        asked.append(num)
        debt += rate * num
        right = min(num, int(debt))
        debt -= right
        now += COSTS.pass_s(1 + num) + num * guess_s + (extra_s if num else 0.0)
        length += right + 1
        guessing.told(num, num * guess_s)
        judged = min(num, right + 1)
        guessing.passed(
            PassEvent(
                1, length, 1 + num, judged, right, right + 1, now, now, num_guessed=judged, num_guessed_right=right
            )
        )
    return asked


@pytest.mark.parametrize(
    ("rate", "guess_s", "extra_s", "most_ask"),
    [
        (0.8, 0.0005, 0.0, True),
        (0.8, 0.1, 0.0, False),  # dear
        (0.05, 0.002, 0.0, False),  # wrong
        (0.3, 0.0005, 0.1, False),  # what they cost beside shows in the replies alone
    ],
)
def test_they_are_asked_for_where_they_pay(rate: float, guess_s: float, extra_s: float, most_ask: bool) -> None:
    late = played(rate, guess_s, 600, extra_s=extra_s)[-100:]
    share = sum(num > 0 for num in late) / len(late)
    assert share > 0.8 if most_ask else share < 0.2


def test_and_are_tried_again_where_they_did_not() -> None:
    asked = played(0.05, 0.002, 4 * PROBE_TOKENS)
    assert 2 <= sum(num > 0 for num in asked[PROBE_TOKENS:]) <= 24

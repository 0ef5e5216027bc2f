"""`--window` by name."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dsdnode.errors import BadInput
from dsdnode.pacing.awc import AdaptiveWindow, ThresholdWindow
from dsdnode.pacing.policies import ALLOWED, policy_of
from dsdnode.pacing.throughput import Throughput
from dsdnode.speculation.controller import Fixed
from dsdnode.speculation.plan import Plan
from tests.pacing.toy_stream import ring, run

CPU, GPU = (14.0, 6.0, 5.0), (10.0, 0.3, 3.0)


def test_every_name_gives_its_policy() -> None:
    assert isinstance(policy_of("fixed", 8), Fixed)
    assert policy_of("fixed", 5).plan() == Plan("rounds", 5, 5)
    assert isinstance(policy_of("awc", 8), AdaptiveWindow)
    assert isinstance(policy_of("threshold", 8), ThresholdWindow)
    assert all(isinstance(policy_of(name, 8), Throughput) for name in ALLOWED)


def test_plans_for_experiments_are_taken_as_they_are() -> None:
    assert policy_of("stream:2:16", 8).plan() == Plan("stream", 2, 16)
    assert policy_of("hedged:2:24:1", 8).plan() == Plan("hedged", 2, 24, 1)
    assert run(ring(2, 10, CPU, 0.8), policy_of("stream:2:16", 8), 60).plans[-1].mode == "stream"


@pytest.mark.parametrize("name", ["fixed", "threshold", "awc", *ALLOWED, "stream:2:16", "hedged:2:16:1"])
def test_no_draft_is_plain_decoding_whatever_the_name(name: str) -> None:
    result = run(ring(2, 10, CPU, 0.8), policy_of(name, 0), 40)
    assert {event.mode for event in result.events} == {"plain"}
    assert all(event.num_draft == 0 for event in result.events)


@pytest.mark.parametrize(
    "name",
    ["", "fast", "throughput:", "throughput:plain", "stream", "stream:0:4", "stream:4:2", "stream:2:65", "stream:2:4:1",
     "hedged:2:4", "hedged:2:4:0", "hedged:2:4:3", "stream:2:16 ", "stream:-1:4", "x" * 10_000],
)  # fmt: skip
def test_another_name_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        policy_of(name, 8)
    assert "stream" in str(refused.value) or "hedges" in str(refused.value)


@pytest.mark.parametrize("draft_max", [-1, 65])
def test_a_window_out_of_range_is_refused(draft_max: int) -> None:
    with pytest.raises(BadInput, match="0 \\(plain decoding\\) to 64"):
        policy_of("throughput", draft_max)


def test_a_mode_that_is_not_allowed_is_never_planned() -> None:
    for name, modes in ALLOWED.items():
        for rate in (0.0, 0.8):
            result = run(ring(4, 10, CPU, rate, 0.4), policy_of(name, 8), 150)
            assert {change.mode for change in result.plans} <= set(modes), name


def test_draft_max_caps_every_block() -> None:
    for name in ("awc", "threshold", *ALLOWED):
        result = run(ring(4, 50, (10.0, 0.3, 3.0), 0.95, 0.4), policy_of(name, 3), 150)
        assert max(change.block for change in result.plans) <= 3, name


def test_the_threshold_rule_takes_one_step_a_round() -> None:
    windows = [event.window for event in run(ring(2, 10, CPU, 0.8), policy_of("threshold", 6), 120).events]
    assert {abs(after - before) for before, after in pairwise(windows)} <= {0, 1}
    assert max(windows) == 6 and min(windows) >= 1
    hopeless = run(ring(2, 10, CPU, 0.0), policy_of("threshold", 6), 60)
    assert hopeless.plans[-1].window == 1, "it cannot switch off"


def test_without_hedges_throughput_streams_alone() -> None:
    def modes(hedges: bool = True) -> set[str]:
        result = run(ring(4, 50, GPU, 0.7), policy_of("throughput", 8, hedges=hedges), 200)
        return {change.mode for change in result.plans}

    assert "hedged" in modes()
    assert "hedged" not in modes(hedges=False)

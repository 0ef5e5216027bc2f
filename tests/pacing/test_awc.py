"""AWC as published: clamped, smoothed, switched off by two strikes, and back."""

from __future__ import annotations

import pytest

from dsdnode.pacing.awc import RETRY_TOKENS, AdaptiveWindow, Features
from dsdnode.speculation.controller import FixedPlan
from dsdnode.speculation.plan import Plan
from tests.pacing.toy_stream import ring, run

GPU, CPU = (10.0, 0.3, 3.0), (14.0, 6.0, 5.0)


def test_the_window_moves_smoothly_towards_what_is_predicted() -> None:
    result = run(ring(4, 10, GPU, 0.9), AdaptiveWindow(12, lambda features: 12.0), 150)
    windows = [change.window for change in result.plans]
    assert windows[0] == 4 and windows[-1] == 12
    assert windows == sorted(windows) and len(windows) > 3, "an average of 0.4, not a jump"


def test_the_window_can_leave_every_number_though_steps_are_small() -> None:
    """A rounded average of 4 + 0.4 (5 - 4) would be 4 for ever."""
    result = run(ring(4, 10, GPU, 0.9), AdaptiveWindow(12, lambda features: 5.0), 100)
    assert result.plans[-1].window == 5


def test_predictions_are_clamped_to_twelve_and_to_draft_max() -> None:
    for draft_max, largest in ((64, 12), (3, 3)):
        result = run(ring(2, 2, GPU, 0.9), AdaptiveWindow(draft_max, lambda features: 99.0), 200)
        assert max(change.window for change in result.plans) == largest


def test_two_strikes_switch_off_and_it_tries_again() -> None:
    result = run(ring(4, 10, CPU, 0.5), AdaptiveWindow(8, lambda features: 0.0), 140)
    modes = [change.mode for change in result.plans]
    assert modes[:3] == ["rounds", "plain", "rounds"] or modes[:4] == ["rounds", "rounds", "plain", "rounds"]
    off = next(change for change in result.plans if change.mode == "plain")
    back = next(change for change in result.plans if change.mode == "rounds" and change.index > off.index)
    assert "accepted" in off.reason and back.window == 2
    assert back.index - off.index >= RETRY_TOKENS


def test_one_strike_is_none() -> None:
    answers = iter([0.0, 6.0] * 500)
    result = run(ring(4, 10, CPU, 0.5), AdaptiveWindow(8, lambda features: next(answers)), 100)
    assert {change.mode for change in result.plans} == {"rounds"}


def test_the_five_features_are_what_happened() -> None:
    seen: list[Features] = []

    def regressor(features: Features) -> float:
        seen.append(features)
        return 4.0

    result = run(ring(4, 10, CPU, 0.8), AdaptiveWindow(8, regressor), 200)
    last = seen[-1]
    assert last.utilisation == 0.0 and last.window == 4.0
    assert 0.6 < last.acceptance_rate < 0.95
    assert abs(last.round_trip_s - 0.050) < 0.001, "five links, without the stages"
    assert abs(last.token_s * result.speed - 1) < 0.5


@pytest.mark.parametrize(("rate", "latency_ms"), [(0.85, 50), (0.6, 20), (0.9, 2)])
def test_as_shipped_it_comes_close_to_the_best_window(rate: float, latency_ms: float) -> None:
    place = ring(4, latency_ms, GPU, rate)
    adapted = run(place, AdaptiveWindow(12), 300).speed
    assert adapted > 0.85 * max(run(place, FixedPlan(Plan("rounds", k, k)), 300).speed for k in range(2, 13))


def test_as_shipped_it_gives_up_where_drafts_are_worth_nothing() -> None:
    hopeless = run(ring(4, 0, CPU, 0.0), AdaptiveWindow(12), 200)
    assert hopeless.plans[-1].mode == "plain"

"""What made AWC's weights: the crowd of replies, the sweep's lines, the fit."""

from __future__ import annotations

import importlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsdnode.speculation.controller import FixedRounds
from tests.pacing.toy_stream import run

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "fit"


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("fit")


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("sweep")


def test_alone_in_the_crowd_is_the_toy_ring(sweep: Any) -> None:
    alone = replace(sweep.scenario(random.Random(3)), others=0, sequence_ms=0.0)
    world = alone.world(FixedRounds(4))
    assert world.run().done_s == run(world.ring, FixedRounds(4), alone.num_tokens, alone.seed).done_s


def test_who_waits_together_is_decoded_together(sweep: Any) -> None:
    """Ten others cost what their positions cost, not ten decodes; and everybody's large window costs everybody."""
    alone = sweep.Scenario(1, 1.0, 40.0, 0.1, 0.0, 1.0, 0.8, 0, 5)
    crowded = replace(alone, others=10)
    assert crowded.speed(FixedRounds(4)) > 0.4 * alone.speed(FixedRounds(4))
    dear, crowded_dear = replace(alone, slope_ms=10.0), replace(crowded, slope_ms=10.0)
    assert dear.speed(FixedRounds(10)) / dear.speed(FixedRounds(0)) > crowded_dear.speed(
        FixedRounds(10)
    ) / crowded_dear.speed(FixedRounds(0))
    events = crowded.world(FixedRounds(4)).run().events
    assert max(max(event.queue) for event in events) == 10


def test_a_scenario_gives_the_same_line_again(sweep: Any) -> None:
    chosen = replace(sweep.scenario(random.Random(4)), others=2)
    line = sweep.label(7, chosen)
    assert line == sweep.label(7, chosen)
    row = json.loads(line)
    assert len(row["speeds"]) == len(sweep.WINDOWS) == 12 and len(row["lessons"]) == sweep.NUM_LESSONS


def test_slopes_by_hand_are_those_of_the_loss(fit: Any) -> None:
    rng = np.random.default_rng(1)
    rows, costs, best = rng.normal(size=(40, 6)), rng.random((40, 12)), rng.integers(1, 13, 40).astype(float)
    network = fit.first_network(rows, rng)
    for layer, slopes in zip(network.layers, fit.gradients(network, rows, costs, best), strict=True):
        kept = layer[0, 1]
        ends = []
        for step in (1e-6, -1e-6):
            layer[0, 1] = kept + step
            ends.append(fit.loss(network.window(rows), costs, best)[0].mean())
        layer[0, 1] = kept
        assert slopes[0, 1] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_it_learns_what_can_be_learnt(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "EPOCHS", 40)
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(2000, 6))
    best = np.clip(np.round(6 + 3 * rows[:, 1]), 1, 12)
    costs = 0.1 * np.abs(fit.KNOTS - best[:, None])
    network = fit.train(rows, costs, best, seed=1)
    assert np.abs(network.window(rows) - best).mean() < 0.6
    again = fit.train(rows, costs, best, seed=1)
    assert all(np.array_equal(one, other) for one, other in zip(network.layers, again.layers, strict=True))

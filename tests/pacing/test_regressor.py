"""AWC's regressor: what it is fed, how it reckons, and the weights that are shipped."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources

import numpy as np
import pytest

from dsdnode.pacing.awc import MAX_WINDOW, WEIGHTS, Features, fitted_window, inputs, network_of

USUAL = Features(0.0, 0.8, 0.050, 0.040, 4.0)


def test_the_network_reckons_as_it_is_written() -> None:
    """One number in, one block: h = 2 x, then h + 3 relu(h - 1) + 1, then half of it; x = (input - 4) / 2."""
    weights = [[[2, 0]], [[1, -1]], [[3, 1]], [[0.5, 0]]]
    network = network_of({"mean": [4], "scale": [2], "layers": weights})
    assert network.window(np.array([[8.0]])) == pytest.approx([(4 + 3 * 3 + 1) / 2])
    assert network.window(np.array([[4.0]])) == pytest.approx([0.5]), "the relu is shut"


def test_it_is_fed_shares_and_others_whatever_the_features() -> None:
    others, rate, long, share, _, window = inputs(0.75, 0.5, 0.030, 0.040, 1.0)
    assert others == pytest.approx(np.log(4)), "three wait: log(1 + 3)"
    assert share == pytest.approx(0.5), "30 ms of a round of 1.5 tokens"
    assert (rate, window) == (0.5, 1.0) and long == pytest.approx(np.log(2))
    for wild in (Features(1.0, 1.0, 1e9, 0.0, 0.0), Features(0.0, 0.0, 0.0, 1e9, 12.0)):
        assert 0 <= fitted_window()(wild) <= MAX_WINDOW


def test_what_is_shipped_is_small_and_says_how_it_was_made() -> None:
    text = resources.files("dsdnode.pacing").joinpath(WEIGHTS).read_text()
    raw = json.loads(text)
    assert len(text) < 8192
    assert raw["scenarios"] >= 2000 and "scripts/fit" in raw["made_by"]
    assert fitted_window() is fitted_window(), "read once"


def test_better_drafts_and_longer_ways_ask_for_larger_windows() -> None:
    window = fitted_window()
    assert window(USUAL) > window(dataclasses.replace(USUAL, acceptance_rate=0.5))
    assert window(USUAL) > window(dataclasses.replace(USUAL, round_trip_s=0.001))
    assert window(Features(0.0, 0.05, 0.001, 0.040, 4.0)) <= 1, "off"

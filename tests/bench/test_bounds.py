"""The best that could be, for a swarm whose costs are round numbers."""

from __future__ import annotations

from typing import Any

import pytest

from dsdnode.bench.bounds import bound, costs_of
from dsdnode.bench.schemes import parse_schemes
from dsdnode.client.client import ReplyStats
from dsdnode.cost import CostLine
from dsdnode.node.status import EngineStatus, NodeStatus, Sessions
from tests.bench.replies import config

ENGINE = EngineStatus("shard", "m", "", "", None, 4096, fixed_ms=1.0, slope_ms=0.5, queue=0.0)
STATUSES = [NodeStatus(1.0, "", "", "", "", ("shard",), (0, 2), 4, {}, Sessions(), (ENGINE,))] * 5
EMULATED: dict[str, Any] = {"stage_ms": (14.0,), "stage_slope_ms": (6.0,), "draft_ms": 5.0}
STATS = [ReplyStats(completion_tokens=100, judged=100, accepted=80, covered=10)]
PLAIN, ROUNDS, ADAPTIVE, STREAM, HEDGED = parse_schemes("rounds-4,rounds-adaptive,stream,hedged", "f32")
FIXED_STREAM = parse_schemes("stream:2:16", "f32")[1]


def test_costs_are_those_asked_for_or_those_measured() -> None:
    asked = costs_of(config(**EMULATED), 4, (10.0,), "f32", STATUSES, 160)
    assert asked.stages == (CostLine(0.014, 0.006),) * 4
    assert asked.network_s == pytest.approx(0.05)
    assert (asked.draft.at(1), asked.payload_s) == (0.005, 0.0)
    measured = costs_of(config(bandwidth_mbit=(20.0,)), 4, (10.0,), "f16", STATUSES, 160)
    assert measured.stages == (CostLine(0.001, 0.0005),) * 4
    assert measured.draft.at(1) == 0.0015
    assert measured.payload_s == pytest.approx(160 * 2 * 8 / 20e6)


def test_plain_and_rounds_are_the_formulas_of_the_paper() -> None:
    costs = costs_of(config(**EMULATED), 4, (10.0,), "f32", STATUSES, 160)
    assert bound(PLAIN, costs, STATS) == pytest.approx(1 / 0.13)
    expected = (1 - 0.8**5) / 0.2 / (0.02 + 4 * 0.044 + 0.05)
    assert bound(ROUNDS, costs, STATS) == pytest.approx(expected)


def test_whoever_may_choose_is_never_slower() -> None:
    costs = costs_of(config(**EMULATED), 4, (10.0,), "f32", STATUSES, 160)
    rounds, adaptive, stream, hedged = (bound(scheme, costs, STATS) for scheme in (ROUNDS, ADAPTIVE, STREAM, HEDGED))
    assert rounds and adaptive and stream and hedged
    assert rounds <= adaptive < stream <= hedged


def test_a_stream_of_fixed_blocks_is_held_to_its_own_block() -> None:
    costs = costs_of(config(**EMULATED), 4, (10.0,), "f32", STATUSES, 160)
    pass_s = 4 * 0.026 + 0.05
    assert bound(FIXED_STREAM, costs, STATS) == pytest.approx(5 / (0.026 / 0.36 + pass_s))


def test_nothing_was_judged_so_nothing_is_known() -> None:
    costs = costs_of(config(**EMULATED), 4, (10.0,), "f32", STATUSES, 160)
    assert bound(ROUNDS, costs, [ReplyStats(completion_tokens=5)]) is None

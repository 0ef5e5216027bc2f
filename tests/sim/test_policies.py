"""Baselines to compare the node's own choices with, and swarms in which everybody asks his own drafter."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import structlog

from dsdnode.engine.port import Chunk
from dsdnode.errors import NoPipeline
from dsdnode.node.batching.scheduler import Run
from dsdnode.placement.pipelines import View
from dsdnode.sim import world
from dsdnode.sim.policies import InOrder, Routing, chooser
from dsdnode.sim.scenario import Group, LoadTerms, NetworkTerms, Pair, Policies, Scenario
from dsdnode.sim.simulate import simulate
from dsdnode.wire.records import ProviderRecord
from tests.sim.test_plan import record

pytestmark = pytest.mark.slow

VIEW = View.of({})
EDGE = Scenario(
    peers=(
        Group("shard", 3, fixed_ms=10, position_ms=1, sequence_ms=1),
        Group("drafter", 6, fixed_ms=2, private=True, max_sessions=1),
    ),
    links=NetworkTerms(latency_ms=5),
    pair=Pair(layers=4),
    load=LoadTerms(requests=12, users=6, clients=0, prompt_tokens=20, reply_tokens=30),
    policies=Policies(draft_max=4),
)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with structlog.testing.capture_logs() as logs:
        yield
    assert not [entry for entry in logs if entry["log_level"] in ("error", "critical")]


def replicas() -> list[ProviderRecord]:
    return [record(f"peer {i}", "shard", (0, 3)) for i in range(4)] + [record("last", "shard", (3, 6))]


@pytest.mark.parametrize("routing", ["random", "round-robin", "shortest-queue"])
def test_one_replica_of_each_range_is_picked_in_the_way_of_the_policy(routing: Routing) -> None:
    choose = chooser(routing, Random(1))
    records = replicas()
    chosen = Counter(choose(records, 6, VIEW, (), "big")[0].peer for _ in range(100))
    assert all(place.end == 6 for place in [choose(records, 6, VIEW, (), "big")[1]])
    if routing == "random":
        assert len(chosen) == 4 and min(chosen.values()) > 10
    elif routing == "round-robin":
        assert sorted(chosen.values()) == [25] * 4
    else:
        busy = View({}, {}, {records[i].peer_id: 3 - i for i in range(4)})
        assert choose(records, 6, busy, (), "big")[0].peer == records[3].peer_id


def test_whoever_is_excluded_is_not_picked() -> None:
    records = replicas()
    choose = chooser("random", Random(1))
    assert choose(records, 6, VIEW, [one.peer_id for one in records[:3]], "big")[0].peer == records[3].peer_id
    with pytest.raises(NoPipeline, match="layers 3:6"):
        choose(records, 6, VIEW, [records[4].peer_id], "big")


def test_batches_in_order_and_by_length() -> None:
    runs = [
        Run(Chunk(i, 0, np.zeros(num, np.int32)), i, lambda: True, lambda result: None, 0)
        for i, num in enumerate((300, 5, 400, 7))
    ]
    taken = [[run.owner for run, _ in InOrder(by_length=by).choose(runs, 0.0)] for by in (False, True)]
    assert taken == [[0, 1], [1, 3, 0]]


def test_everybody_asks_his_own_drafter() -> None:
    result = simulate(EDGE, 1)
    assert result.completed == 12 and not result.complaints
    assert all(member.decodes for member in result.members if member.layers is None)


@pytest.mark.parametrize("batching", ["fifo", "length-aware"])
@pytest.mark.parametrize("routing", ["random", "shortest-queue"])
def test_other_policies_serve_the_same_replies(routing: str, batching: str) -> None:
    policies = Policies(draft_max=4, routing=routing, batching=batching)  # type: ignore[arg-type]
    result = simulate(replace(EDGE, policies=policies), 1)
    assert result.completed == 12 and not result.wrong_tokens and not result.complaints


def test_a_large_swarm_begins_acquainted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "WARM_FROM", 8)
    result = simulate(EDGE, 1)
    assert result.completed == 12 and not result.complaints

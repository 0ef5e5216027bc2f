"""Whole scenarios: the same seed gives the same bytes, what is predicted is what the formulas say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog

from dsdnode.sim.report import Report, as_json
from dsdnode.sim.scenario import Churn, Group, LoadTerms, NetworkTerms, Pair, Partition, Policies, Scenario
from dsdnode.sim.simulate import simulate
from tests.sim.theory import cpu, measure, schemes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = Scenario(
    peers=(Group("shard", 4, stages=2, fixed_ms=10, position_ms=2), Group("drafter", 2, fixed_ms=3)),
    name="small",
    links=NetworkTerms(latency_ms=10, jitter_ms=3, loss=0.01, bandwidth_mbit=50),
    pair=Pair(layers=8, state_bytes=4096),
    load=LoadTerms(requests=12, users=4, prompt_tokens=(5, 300), reply_tokens=(1, 60), temperature=0.7),
    policies=Policies(draft_max=4),
)


@cache
def small() -> tuple[Report, list[str]]:
    """Played once for all who look at it; and what is told meanwhile."""
    heard: list[str] = []
    return simulate(SMALL, 1, heard.append), heard


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with structlog.testing.capture_logs() as logs:
        yield
    assert not [entry for entry in logs if entry["log_level"] in ("error", "critical")]


def test_every_reply_is_answered_right() -> None:
    result, _ = small()
    assert (result.completed, result.lost, result.stuck, result.wrong_tokens) == (12, 0, 0, 0)
    assert not result.complaints
    assert result.acceptance_rate == pytest.approx(0.8, abs=0.08)
    assert 0 < result.groups[0].utilisation < 1
    assert result.network.verify.bytes > result.tokens * 4096


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    one, other = (_run_in_a_process(1, hash_seed) for hash_seed in ("0", "1"))
    assert one == other != as_json(churned()) + "\n"
    assert json.loads(one)["lost"] == 0


def _run_in_a_process(seed: int, hash_seed: str) -> str:
    code = (
        "import structlog; structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))\n"
        "from tests.sim.test_simulate import SMALL, with_churn; from dsdnode.sim import report, simulate\n"
        f"print(report.as_json(simulate.simulate(with_churn(SMALL), {seed})))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def with_churn(scenario: Scenario) -> Scenario:
    shards, drafters = scenario.peers
    stays = replace(shards, count=6, churn=Churn(mean_s=20, away_s=5))
    return replace(scenario, peers=(stays, drafters))


@cache
def churned() -> Report:
    """Another seed than that of the processes."""
    return simulate(with_churn(SMALL), 3)


def test_members_come_and_go_and_the_text_is_right() -> None:
    result = churned()
    assert not result.stuck and not result.wrong_tokens and not result.complaints
    assert result.completed >= 10
    assert any(not member.up for member in result.members), "somebody left"


def test_what_is_not_over_in_time_is_reported_as_stuck() -> None:
    whole, _ = small()
    result = simulate(replace(SMALL, limit_s=1), 1)
    assert result.completed < 12 and not result.lost and result.stuck == 4, "every user waits for one"
    assert result.simulated_s < whole.simulated_s


def test_a_reply_that_is_over_is_told() -> None:
    result, heard = small()
    assert len(heard) == result.completed == 12
    assert simulate(SMALL, 1) == result, "what was played before leaves nothing behind"


def test_machines_vanish_and_regions_part_and_the_text_is_right() -> None:
    """Each stage has a replica on either side; the users are on this one."""
    regions = ("here", "here", "there", "there")
    shards, drafters = Group("shard", 4, stages=2, regions=regions, fixed_ms=10), Group("drafter", regions=("here",))
    load = replace(SMALL.load, requests=30, users=4, reply_tokens=100, regions=("here",))
    calm = replace(SMALL, peers=(shards, drafters), load=load, policies=Policies(draft_max=4, routing="random"))
    parted = replace(calm, partitions=(Partition(("there",), at_s=2, for_s=60),))
    vanishing = replace(calm, peers=(replace(shards, churn=Churn(20, crashes=1, gone=1, away_s=5)), drafters))
    results = [simulate(scenario, 1) for scenario in (calm, parted, vanishing)]
    for result in results:
        assert not result.stuck and not result.wrong_tokens and not result.complaints
    assert results[0].recoveries == 0 < results[1].recoveries
    assert results[1].lost == 0, "this side has all layers"
    assert results[2].recoveries > 0


def test_drafters_that_vanish_cost_their_users_a_moment_once() -> None:
    """Their records are there for minutes; who is there is asked of several at once."""
    shards, drafters = SMALL.peers
    doomed = replace(drafters, count=4, churn=Churn(1, lives="fixed", crashes=1, gone=1, away_s=0))
    load = replace(SMALL.load, requests=40, users=1, prompt_tokens=8)
    result = simulate(replace(SMALL, peers=(shards, doomed, replace(drafters, count=1)), load=load), 2)
    windows = result.windows
    assert result.completed == 40 and windows.replies
    for plans, num_tokens in zip(windows.replies, windows.reply_tokens, strict=True):
        assert plans[0].index <= plans[-1].index < num_tokens
    waited_s = result.time_to_first_token_s
    assert waited_s.p50 < 0.5
    assert waited_s.p99 < 2


@pytest.mark.parametrize("arrivals", ["poisson", "burst"])
def test_open_loops_ask_on_their_own_schedule(arrivals: str) -> None:
    load = LoadTerms(arrivals=arrivals, requests=100, rate_per_s=4, burst=5, prompt_tokens=8, reply_tokens=8)  # type: ignore[arg-type]
    result = simulate(replace(SMALL, load=load), 1)
    assert result.completed == 100
    assert 3 < 100 / (result.simulated_s - 5) < 5


def test_plain_and_rounds_take_what_the_formulas_say() -> None:
    """Speculation section 3; longer and with the stream: `python -m tests.sim.theory`."""
    row = cpu(4, 10, 0.8, ring=True)
    for scheme in list(schemes(row))[:2]:
        assert measure(row, scheme, 1000, 2) == pytest.approx(scheme.section_3, rel=0.05), scheme.name


def test_recorded_replies_are_replayed_as_they_were(tmp_path: Path) -> None:
    """The first is all right, in the second every other draft token is wrong."""
    replies = [[1] * 30, [1, 0] * 10]
    lines = [json.dumps({"prompt_tokens": 5 + i, "accepted": accepted}) for i, accepted in enumerate(replies)]
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))
    scenario = replace(
        SMALL, pair=Pair(layers=8, trace=str(tmp_path / "trace.jsonl")), load=LoadTerms(requests=2, replay=True)
    )
    result = simulate(scenario, 1)
    assert result.tokens == 50 and not result.wrong_tokens
    first = simulate(replace(scenario, load=LoadTerms(requests=1, replay=True)), 1)
    assert first.acceptance_rate == 1.0 and first.tokens == 30
    assert result.acceptance_rate is not None and result.acceptance_rate < 0.8


def test_nothing_that_is_not_json_is_reported() -> None:
    nobody = replace(SMALL, peers=(Group("shard", layers="0:4"), Group("drafter")))
    result = simulate(nobody, 1)
    assert result.lost == 12 and "layers 4:8" in next(iter(result.errors))
    told = json.loads(as_json(result))
    assert told == json.loads(as_json(simulate(nobody, 1)))
    assert sorted(told["network"]) == ["bulk", "control", "draft", "verify"], "no tokens, so nothing a token"


def test_a_stage_behind_a_relay_is_taken_where_there_is_no_other_and_costs_what_it_costs() -> None:
    """Of two replicas of the second half one is called by way of a relay."""
    links, pair = NetworkTerms(latency_ms=10), Pair(layers=8, state_bytes=8192)
    load = LoadTerms(requests=4, prompt_tokens=(100, 100), reply_tokens=(40, 40))
    first, drafter = Group("shard", layers="0:4", fixed_ms=10), Group("drafter", fixed_ms=3)
    second = Group("shard", layers="4:8", fixed_ms=10, name="direct")
    relayed = replace(second, relay_mbit=10, name="relayed")

    def speed(*peers: Group) -> float:
        report = simulate(Scenario((first, *peers, drafter), links=links, pair=pair, load=load), 1)
        assert report.completed == 4 and report.reply_tokens_per_second is not None
        return report.reply_tokens_per_second.p50

    assert speed(relayed) < 0.8 * speed(second)
    assert speed(relayed, second) > 0.95 * speed(second)

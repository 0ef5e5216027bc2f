"""What Prometheus and Grafana get of a gateway: read by their own parser, and enough for the dashboard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from dsdnode.errors import NoPipeline, PeerMisbehaved
from dsdnode.gateway.metrics import Metrics
from dsdnode.node.status import EngineStatus, NodeStatus, Sessions
from dsdnode.swarm.info import PeerInfo
from tests.gateway.conftest import MODEL, Served, hello

DASHBOARD = Path(__file__).parents[2] / "configs" / "grafana.json"
ENGINE = EngineStatus("shard", "demo", "ef" * 32, "ab" * 32, 1, 2048, 2.0, 0.5, 1.5, num_decodes=4, num_positions=12)
NODE = NodeStatus(
    60.0, "ab" * 32, "alice", "tcp://192.0.2.7:1", "dsd://", ("shard",), (0, 8), 3,
    {"Block": (2, 500), "Weights": (1, 4000), "Ping": (9, 90)}, Sessions(shard=1), (ENGINE,), num_records=7,
)  # fmt: skip


async def families(served: Served, accept: str = "") -> dict[str, Metric]:
    answer = await served.http.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    read = parse_open if "openmetrics" in answer.headers["content-type"] else parse
    return {family.name: family for family in read(answer.text)}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in family.samples if not one.name.endswith("_created")}


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_what_replies_came_to_is_counted(served: Served, accept: str) -> None:
    served.swarm.others = [PeerInfo("ab" * 32, (), ("shard",), (0, 8), "demo", 1, 1.0, link="relayed")]
    await served.http.post("/v1/chat/completions", json=hello())
    served.swarm.script = ["Hel", NoPipeline("nobody hosts layers 4:8")]
    await served.http.post("/v1/messages", json=hello(max_tokens=9, stream=True))
    served.swarm.script = [PeerMisbehaved("nonsense")]
    await served.http.post("/v1/messages", json=hello(max_tokens=9))
    seen = await families(served, accept)
    outcomes = values(seen["dsdnode_replies"])
    assert {key: num for (key,), num in outcomes.items() if num} == {"stop": 1, "no_pipeline": 1, "bad_peer": 1}
    assert outcomes["cancelled",] == 0
    named = {"num_drafts": 2, "num_draft_tokens": 6, "num_accepted_tokens": 4}
    assert all(values(seen[f"dsdnode_spec_decode_{name}"]) == {(): value} for name, value in named.items())
    assert values(seen["dsdnode_generation_tokens"]) == {(): 3}
    first = {one.name: one.value for one in seen["dsdnode_time_to_first_token_seconds"].samples}
    assert first["dsdnode_time_to_first_token_seconds_count"] == 2
    assert values(seen["dsdnode_swarm_link_peers"])["relayed",] == 1


async def test_no_stranger_makes_labels() -> None:
    own = Metrics()
    for number in range(100):
        own.over(f"reason {number}", None, 0.0, 0, None)
    assert {one.labels["outcome"] for one in own.replies.collect()[0].samples} == {
        "stop",
        "length",
        "context",
        "cancelled",
        "other",
    }
    own.seen.peers = [PeerInfo(f"{number:064x}", (), (f"role {number}",), None, f"model {number}", 0, 1.0, name="eve",
                               link=f"way {number}") for number in range(100)]  # fmt: skip
    own.seen.models = [msgspec.structs.replace(MODEL, name=f"model {number}") for number in range(100)]
    labels = {label for family in own.seen.collect() for one in family.samples for label in one.labels.values()}
    assert not any("model" in label or label[-1].isdigit() or label == "eve" for label in labels) and len(labels) < 12


async def test_every_query_of_the_dashboard_is_answered(served: Served) -> None:
    served.here = NODE
    seen = await families(served)
    samples = {one.name: set(one.labels) for family in seen.values() for one in family.samples}
    queries = _queries(msgspec.json.decode(DASHBOARD.read_bytes())["panels"])
    asked = {name for query, _ in queries for name in re.findall(r"dsdnode_\w+", query)}
    assert asked <= samples.keys(), asked - samples.keys()
    shown = [name for name in seen if not name.endswith("_created")]
    assert [name for name in shown if not any(one.startswith(name) for one in asked)] == [], "nobody looks at it"
    for query, legend in queries:
        labels = {*re.findall(r"\{\{(\w+)\}\}", legend), *re.findall(r"by \((\w+)\)", query)}
        assert all(labels <= samples[name] for name in re.findall(r"dsdnode_\w+", query)), query


def _queries(panels: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(target["expr"], target["legendFormat"]) for panel in panels for target in panel["targets"]]


async def test_a_nodes_own_figures(served: Served) -> None:
    served.here = NODE
    seen = await families(served)
    assert values(seen["dsdnode_node_sent_bytes"]) == {("replies",): 500, ("weights",): 4000, ("upkeep",): 90}
    batch = {one.name: one.value for one in seen["dsdnode_engine_batch_positions"].samples}
    assert batch == {"dsdnode_engine_batch_positions_count": 4, "dsdnode_engine_batch_positions_sum": 12}
    assert values(seen["dsdnode_node_table_records"]) == {(): 7}
    assert values(seen["dsdnode_engine_block_seconds"]) == {("shard",): 0.002}

"""What a volunteer types, and is told: pause, resume, what the machine gave, and who may use it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dsdnode.cli import control, volunteering
from dsdnode.cli.report import given_of
from dsdnode.config import NodeConfig
from dsdnode.node.admission import Admission
from dsdnode.node.ledger import Given, GivenInAll
from dsdnode.node.status import NodeStatus, Sessions
from dsdnode.node.volunteering import Volunteering


async def test_alice_pauses_and_resumes_her_node_and_may_do_so_twice(tmp_path: Path) -> None:
    admission, news = Admission(), list[str]()

    def status() -> NodeStatus:
        return NodeStatus(
            1.0, "ab", "", "", "", ("shard",), None, 0, {}, Sessions(shard=1), (), resting=admission.resting
        )

    config = NodeConfig(data_dir=tmp_path)
    own = Volunteering(config, admission, lambda: news.append(admission.resting), Given)
    node: Any = SimpleNamespace(volunteering=own, status=status)
    with control.hold(tmp_path):
        async with control.serve(tmp_path, volunteering.handlers(node)):
            for command, is_paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
                answer = await control.ask(tmp_path, command, NodeStatus)
                assert bool(answer.resting) is is_paused
                assert (admission.refusal(b"") is not None) is is_paused
    assert news == [volunteering.PAUSED, ""]


def test_the_record_is_told_in_three_lines() -> None:
    one, many = Given(1, 1, 999, 1_000_000), Given(12_345, 20, 10**9, 10**10)
    assert given_of(GivenInAll(one, many, many)) == {
        "gave today": "1 reply, 1 token computed, 999 bytes up, 1.0 MB down",
        "in 30 days": "20 replies, 12345 tokens computed, 1.0 GB up, 10.0 GB down",
        "in all": "20 replies, 12345 tokens computed, 1.0 GB up, 10.0 GB down",
    }


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (NodeConfig(), "Anybody who finds it may use it"),
        (NodeConfig(swarm_keys=("open sesame",)), "Whoever has the swarm's key"),
        (NodeConfig(swarm_keys=("open sesame",), allow=(64 * "a",)), "Those may use it that --allow names (1)"),
    ],
)
def test_who_may_use_a_node_and_who_reads_what_is_asked_is_said_in_two_lines(config: NodeConfig, says: str) -> None:
    lines = volunteering.who_may(config)
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith(says)
    assert "sesame" not in "".join(lines)
    assert "drafters read" in lines[1]

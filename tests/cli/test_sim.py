"""`dsdnode sim` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsdnode.identity import Identity
from tests.cli.conftest import Result

pytestmark = pytest.mark.slow

Call = Callable[..., Result]
SCENARIO = """
[load]
requests = 2
prompt_tokens = 4
reply_tokens = 12
[[peers]]
role = "shard"
fixed_ms = 10
[[peers]]
role = "drafter"
fixed_ms = 1
"""
KEYS = {
    "report": [
        "acceptance_rate", "complaints", "completed", "drafted", "errors", "groups", "latency_s", "lost", "members",
        "network", "peers", "recoveries", "reply_tokens_per_second", "requests", "scenario", "seed", "simulated_s",
        "stuck", "time_per_output_token_s", "time_to_first_token_s", "tokens", "tokens_per_pass", "tokens_per_second",
        "wasted_drafts", "windows", "wrong_tokens",
    ],
    "network": [
        "bulk", "control", "draft", "verify", "verify_bytes_per_token", "verify_messages_per_token",
        "verify_wait_s_per_token",
    ],
    "lane": ["bytes", "mean_flight_s", "messages"],
    "spread": ["mean", "p50", "p95", "p99"],
    "windows": ["replies", "reply_tokens", "tokens_by_plan"],
    "plan": ["at_s", "block", "index", "mode", "reason", "window"],
    "group": ["bytes_sent", "group", "members", "messages_sent", "positions_per_decode", "up", "utilisation"],
    "member": ["bytes_sent", "decodes", "layers", "name", "up", "utilisation"],
}  # fmt: skip
"""Of the JSON, sorted."""


def inner(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The report, and of what is in it one of each kind."""
    network, windows = told["network"], told["windows"]
    return {
        "report": told, "network": network, "lane": network["verify"], "spread": told["latency_s"], "windows": windows,
        "plan": windows["replies"][0][0], "group": told["groups"][0], "member": told["members"][0],
    }  # fmt: skip


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO)
    return str(path)


def test_a_run_reports_in_words_and_in_json(call: Call, scenario: str) -> None:
    said = call("sim", "run", scenario)
    assert said.code == 0 and "2 of 2 replies (0 lost, 0 stuck), 24 tokens" in said.out
    told = json.loads(call("sim", "run", scenario, "--json", "--seed", "1").out)
    assert told["completed"] == 2 and told["scenario"] == "tiny"
    assert {name: list(value) for name, value in inner(told).items()} == KEYS


def test_a_mistake_in_the_file_is_named(call: Call, scenario: str) -> None:
    Path(scenario).write_text(SCENARIO.replace("requests", "request"))
    result = call("sim", "run", scenario)
    assert result.code == 2 and "did you mean 'requests'" in result.err
    assert call("sim", "run", scenario + ".not").code == 2


def test_a_sweep_prints_a_row_a_combination(call: Call, scenario: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out.jsonl")
    result = call("sim", "sweep", scenario, "--set", "policies.draft_max=0,4", "--seeds", "2", "--out", out)
    assert result.code == 0
    header, *rows = result.out.splitlines()
    assert header.split()[:2] == ["policies.draft_max", "RUNS"] and [row.split()[:2] for row in rows] == [
        ["0", "2"],
        ["4", "2"],
    ]
    assert len(Path(out).read_text().splitlines()) == 4
    chart = tmp_path / "sweep.svg"
    words = ("--set", "policies.draft_max=0,4", "--set", "policies.window=fixed,throughput", "--plot", str(chart))
    assert call("sim", "sweep", scenario, *words, "--out", out).code == 0
    assert chart.stat().st_size > 1000
    assert call("sim", "sweep", scenario, "--set", "policies.draftmax=0", "--out", out).code == 2


def test_a_plan_says_what_to_expect(call: Call) -> None:
    result = call("sim", "plan", "--stages", "1", "--latency-ms", "20", "--stage-ms", "4", "--draft-ms", "1")
    assert result.code == 0
    assert "tokens a second in a reply" in result.out and "Speculation beats plain decoding" in result.out


def test_a_plan_is_not_told_what_it_looks_for_itself(call: Call) -> None:
    join = f"dsd://192.0.2.7:29170/{Identity(bytes(32)).public_key.hex()}"
    result = call("sim", "plan", "--join", join, "--latency-ms", "20")
    assert result.code == 2 and "leave out --latency-ms" in result.err
    assert call("sim", "plan", "--my-stage-slope-ms", "3").code == 2
    assert call("sim", "plan", "--trace", "/none").code == 2
    for wrong in ("nan", "inf", "-1", "soon"):
        assert call("sim", "plan", "--latency-ms", wrong).code == 2
    assert call("sim", "plan", "--state-bytes", 400 * "9").code == 2


@pytest.mark.parametrize("name", ["chart.svg", "chart.png"])
def test_a_chart_is_drawn(call: Call, scenario: str, tmp_path: Path, name: str) -> None:
    assert call("sim", "run", scenario, "--plot", str(tmp_path / name)).code == 0
    assert (tmp_path / name).stat().st_size > 1000
    refused = call("sim", "run", scenario, "--plot", str(tmp_path / "chart.doc"))
    assert refused.code == 2 and ".svg or .png" in refused.err
    refused = call("sim", "run", scenario, "--plot", str(tmp_path / "none" / name))
    assert refused.code == 2 and "there is no folder" in refused.err

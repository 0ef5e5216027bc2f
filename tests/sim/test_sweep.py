"""Grids: what is varied, what is kept when a sweep is broken off."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from dsdnode.errors import BadInput
from dsdnode.sim import sweep
from dsdnode.sim.sweep import Axis

SCENARIO = """
[load]
requests = 2
prompt_tokens = 4
reply_tokens = 12
[links]
latency_ms = 5
[[peers]]
role = "shard"
fixed_ms = 10
[[peers]]
role = "drafter"
name = "laptop"
fixed_ms = 1
"""
SPREAD = {"mean": 0.5, "p50": 0.5, "p95": 0.5, "p99": 0.75}
KEPT = {
    "completed": 2, "lost": 1, "stuck": 0, "wrong_tokens": 0, "tokens": 24, "tokens_per_second": 3.0,
    "time_to_first_token_s": SPREAD, "time_per_output_token_s": SPREAD, "latency_s": SPREAD,
    "reply_tokens_per_second": None, "acceptance_rate": None, "tokens_per_pass": 1.5, "drafted": 0, "wasted_drafts": 0,
    "recoveries": 0, "simulated_s": 9.25,
}  # fmt: skip
"""Of a report, in a line of results."""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO)
    return path


def test_a_parameter_and_its_values() -> None:
    assert sweep.parse_axis("links.latency_ms=1, 2.5") == Axis("links.latency_ms", (1, 2.5))
    assert sweep.parse_axis("policies.window=fixed,stream:2:8") == Axis("policies.window", ("fixed", "stream:2:8"))
    assert sweep.parse_axis("load.prompt_tokens=[1,2],7") == Axis("load.prompt_tokens", ([1, 2], 7))
    with pytest.raises(BadInput, match="no parameter"):
        sweep.parse_axis("latency")


def test_every_combination_with_every_seed(scenario: Path) -> None:
    axes = [Axis("links.latency_ms", (1, 50)), Axis("peers.laptop.fixed_ms", (1, 2, 3))]
    cells = sweep.cells(scenario, axes, seeds=2)
    assert len({cell.key for cell in cells}) == 12
    assert cells[-1].table["peers"][1]["fixed_ms"] == 3 and cells[-1].table["links"]["latency_ms"] == 50


@pytest.mark.parametrize(
    ("axis", "complaint"),
    [
        (Axis("links.latncy_ms", (1,)), "did you mean 'latency_ms'"),
        (Axis("peers.boss.count", (1,)), "no group of peers"),
        (Axis("peers.count", (1,)), "which group"),
        (Axis("links.latency_ms", (-1,)), "not negative"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_it_runs(scenario: Path, axis: Axis, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        sweep.cells(scenario, [axis], 1)


def test_a_sweep_goes_on_where_it_was_broken_off(scenario: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    told: list[object] = []
    cells = sweep.cells(scenario, [Axis("policies.draft_max", (0, 4))], seeds=2)
    first = list(sweep.run(cells[:2], out, 2, told.append))
    assert len(told) == 2 and all(one.figures and one.figures.completed == 2 for one in first)
    out.write_text(out.read_text() + '{"key": "half a li')
    both = list(sweep.run(cells, out, 2, told.append))
    assert len(told) == len(both) == 4
    assert {json.loads(line)["key"] for line in out.read_text().splitlines()} == {one.key for one in both}
    plain, drafted = ([one for one in both if one.set == {"policies.draft_max": num}] for num in (0, 4))
    assert not plain[0].figures.drafted and drafted[0].figures.drafted


def test_a_full_disk_is_told_by_the_name_of_the_file(scenario: Path, tmp_path: Path) -> None:
    out, cells = tmp_path / "out.jsonl", sweep.cells(scenario, [], seeds=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(BadInput, match=r"out\.jsonl cannot be written"):
            list(sweep.run(cells, out, 1, lambda text: None))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(list(sweep.run(cells, out, 1, lambda text: None))) == len(out.read_text().splitlines()) == 1


def test_lines_are_as_they_always_were() -> None:
    """A sweep that an earlier version began goes on."""
    cell = {"set": {"links.latency_ms": 5}, "seed": 1, "key": "k"}
    lines = [json.dumps(cell | one, sort_keys=True) for one in ({"error": "NoPipeline: nobody"}, KEPT)]
    failed, done = map(sweep.Result.of_line, lines)
    assert [failed.line(), done.line()] == lines
    assert list(done.as_json()) == ["set", "seed", *KEPT]
    [row] = sweep.rows_of([failed, done])
    assert (row.num_runs, row.num_lost, row.latency_p99_s, row.error) == (2, 1, 0.75, "NoPipeline: nobody")


def test_another_file_is_not_taken_for_results(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("milk\nbread\n")
    with pytest.raises(BadInput, match="line 1 is no result"):
        sweep.read_results(path)


@pytest.mark.parametrize("text", ["milk\n", "milk", '{"milk": 2}', "[1, 2]", '{"milk": 2\n'])
def test_a_file_of_one_line_is_not_taken_for_half_a_result(tmp_path: Path, text: str) -> None:
    """It would be thrown away."""
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(BadInput, match="line 1 is no result"):
        list(sweep.run([], path, 1, print))
    assert path.read_text() == text

"""What `bench` prints, and draws."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from dsdnode import pictures
from dsdnode.bench import chart, report, summary
from dsdnode.bench.prompts import Prompt
from dsdnode.bench.run import Cell
from dsdnode.errors import BadInput
from dsdnode.wire.replies import PlanChange
from tests.bench.replies import PLAIN, ROUNDS, config, reply

pytestmark = pytest.mark.slow

KEYS = [
    "scheme", "tokens_per_second", "speedup", "acceptance_rate", "tokens_per_pass", "wasted_share", "cpu_ms_per_token",
    "bytes_per_token", "messages_per_token", "time_to_first_token_s", "bound_tokens_per_second", "of_bound",
    "text_equal", "near_ties",
]  # fmt: skip
DETAILS = [
    "scheme", "num_replies", "num_tokens", "link_bytes_per_token", "worker_cpu_ms_per_token", "speedup_quartiles",
    "end_to_end_tokens_per_second", "late_tokens_per_second", "late_speedup", "relaxed_share", "covered_share",
    "num_differing_replies", "right", "num_known", "recoveries", "plans", "sessions",
]  # fmt: skip
PLANS = (PlanChange(0, 1 / 3, "rounds", 4, 4),)


def cell(num_shards: int = 3, latency_ms: float = 10.0, gap: float | None = None) -> Cell:
    plain = {0: reply(PLAIN, 0, range(10), 10.0)}
    rounds = [reply(ROUNDS, 0, [*range(9), 99 if gap else 9], 30.0, drafted=9, judged=9, accepted=8, plans=PLANS)]
    ties = [summary.NearTie(0, 9, (9, 99), gap)] if gap else []
    results = [summary.result_of(list(plain.values()), plain, 20.0, []), summary.result_of(rounds, plain, 40.0, ties)]
    details = [summary.details_of(one, plain, [], [Prompt("?")]) for one in (list(plain.values()), rounds)]
    return Cell(num_shards, (latency_ms,), tuple(results), tuple(details))


def test_the_json_has_these_keys_in_this_order() -> None:
    shown = json.loads(json.dumps(report.json_of(config(), [cell(gap=0.002)])))
    assert list(shown) == ["config", "schemes", "details"]
    assert [list(scheme) for scheme in shown["schemes"]] == [KEYS, KEYS]
    assert [scheme["scheme"] for scheme in shown["schemes"]] == ["plain", "rounds-4"]
    assert shown["schemes"][1]["near_ties"] == [{"prompt": 0, "position": 9, "tokens": [9, 99], "gap": 0.002}]
    assert shown["schemes"][1]["acceptance_rate"] == 0.8889
    assert [list(one) for one in shown["details"]] == [DETAILS, DETAILS]
    assert shown["details"][1]["plans"] == [
        {"index": 0, "at_s": 0.3333, "mode": "rounds", "block": 4, "window": 4, "hedges": 0, "reason": ""}
    ]


def test_a_grid_has_a_cell_for_each_place() -> None:
    shown = report.json_of(config(), [cell(2, 0.0), cell(4, 50.0)])
    assert [(one["shards"], one["latency_ms"]) for one in shown["cells"]] == [(2, 0.0), (4, 50.0)]
    assert list(shown["cells"][0]["schemes"][0]) == KEYS
    columns, rows = report.grid_rows([cell(2, 0.0), cell(4, 50.0)])
    assert columns == ("SHARDS", "LATENCY MS", "plain", "rounds-4")
    assert rows[1] == (4, "50", "10.0", "30.0 (3.00x)")


@pytest.mark.parametrize(
    ("gap", "says"), [(None, "equal"), (0.002, "1 of 1 differ: near-ties"), (1.5, "1 of 1 DIFFER, gap 1.5")]
)
def test_the_table_says_whether_the_text_is_plains(gap: float | None, says: str) -> None:
    rows = report.rows(cell(gap=gap))
    assert all(len(row) == len(report.COLUMNS) for row in rows)
    assert rows[1][-1] == says


@pytest.mark.parametrize(("name", "begins"), [("one.svg", b"<?xml"), ("one.PNG", b"\x89PNG"), ("one.pdf", b"%PDF")])
def test_a_chart_of_one_cell_and_of_a_grid(tmp_path: Path, name: str, begins: bytes) -> None:
    pictures.check(tmp_path / name)
    for cells in ([cell()], [cell(2, 0.0), cell(2, 10.0), cell(4, 0.0), cell(4, 10.0)]):
        chart.draw(cells, tmp_path / name)
        drawn = (tmp_path / name).read_bytes()
        assert drawn.startswith(begins)
        chart.draw(cells, tmp_path / name)
        assert (tmp_path / name).read_bytes() == drawn


def test_a_chart_that_cannot_be_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"name it \.svg"):
        pictures.check(tmp_path / "one.gif")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(BadInput, match="is a folder"):
        pictures.check(tmp_path / "folder.svg")
    imported = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"pip install 'dsdnode\[plot\]'"):
        pictures.check(tmp_path / "one.svg")

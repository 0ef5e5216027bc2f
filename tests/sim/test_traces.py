"""Trace files, and those that are none."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from dsdnode.errors import BadInput
from dsdnode.sim.traces import read_traces

REPLY = {"prompt_tokens": 7, "accepted": [1, 0, 1], "confidence": [0.9, 0.2, 0.7], "entropy": [0.1, 0.8, 0.2],
         "second": [0, 1, 0]}  # fmt: skip


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_replies_are_read_in_order_and_longer_ones_go_on_with_another(tmp_path: Path) -> None:
    recorded = read_traces(written(tmp_path / "t.jsonl", REPLY, "", {"accepted": [0]}))
    assert [len(trace) for trace in recorded.traces] == [3, 1]
    assert recorded.traces[0].second == (False, True, False) and recorded.traces[0].prompt_tokens == 7
    assert len(recorded.trace(50, Random(1))) >= 50
    assert recorded.acceptance_rate == pytest.approx(2 / 4)
    assert recorded.second_share == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1 is no trace"),
        ("[1, 2]", "line 1 is no trace"),
        ({"confidence": [1]}, "line 1 is no trace"),
        ({"accepted": [1], "confidence": [0.1, 0.2]}, "not of one length"),
        ({"accepted": []}, "no recorded reply"),
        ({"accepted": "yes"}, "line 1 is no trace"),
        ({"accepted": [1], "entropy": [float("nan")]}, "line 1 is no trace"),
        ({"accepted": [1], "prompt_tokens": -5}, "line 1 is no trace"),
        ({"accepted": [1], "prompt_tokens": 10**12}, "line 1 is no trace"),
    ],
)
def test_what_is_no_trace_is_refused(line: object, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=complaint):
        read_traces(written(tmp_path / "t.jsonl", line))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the trace"):
        read_traces(tmp_path / "none")
    with pytest.raises(BadInput, match="cannot read the trace"):
        read_traces(tmp_path / "a\0b")

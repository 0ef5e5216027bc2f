"""What a run is told: numbers for all shards or for each."""

from __future__ import annotations

from typing import Any

import pytest

from dsdnode.bench.config import SlowDown
from dsdnode.bench.shape import LinkShape
from dsdnode.errors import BadInput
from tests.bench.replies import config


def test_one_number_is_every_shards_and_the_drafters() -> None:
    shapes = config(jitter_ms=(2.0,), bandwidth_mbit=(20.0,), loss=(0.01,)).links((10.0,)).shapes(3)
    assert shapes == [LinkShape(0.01, 0.002, 20.0, 0.01)] * 4


def test_a_number_a_shard_and_the_last_one_also_for_the_way_home() -> None:
    shapes = config(shards=(2,)).links((10.0, 50.0)).shapes(2)
    assert [shape.latency_s for shape in shapes] == [0.01, 0.05, 0.05]


def test_emulated_times_of_each_shard() -> None:
    assert config().emulate_ms(2) is None
    assert config(stage_ms=(14.0,), stage_slope_ms=(6.0,)).emulate_ms(2) == [(14.0, 6.0)] * 2
    assert config(shards=(2,), stage_ms=(14.0, 70.0)).emulate_ms(2) == [(14.0, 0.0), (70.0, 0.0)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shards": (2, 3), "jitter_ms": (1.0, 2.0)}, "--jitter-ms has 2 values, one a shard, and --shards is 2, 3"),
        ({"latencies_ms": ((1.0, 2.0),)}, "--latency-ms has 2 values"),
        ({"slow_down": SlowDown(3, 5.0, 10), "stage_ms": (1.0,)}, "shard 3; they are counted from 0"),
        ({"slow_down": SlowDown(0, 5.0, 10)}, "give --stage-ms"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        config(**changes)


def test_the_report_names_what_was_asked_for() -> None:
    said = config(latencies_ms=((0.0,), (10.0,)), stage_ms=(14.0,)).as_json()
    assert said["latency_ms"] == [0.0, 10.0]
    assert (said["shards"], said["stage_ms"], said["stage_slope_ms"]) == (3, 14.0, None)
    assert (said["schemes"], said["wire"], said["prompts"]) == (["plain", "rounds-4"], "f32", "generated")

"""How many layers a newcomer takes, and how fast it says that it is."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest

from dsdnode.config import NodeConfig
from dsdnode.engine.fake import FakeEngine, FakeModel
from dsdnode.engine.gguf import read_manifest
from dsdnode.errors import ModelRefused
from dsdnode.models import demo_target
from dsdnode.node.engines import _capacity_layers, measure


@pytest.mark.parametrize(
    ("max_memory_bytes", "context_tokens", "layers"),
    [(None, 1 << 20, 8), (6_000_000_000, 8192, 8), (450_000_000, 32768, 4), (390_000_000, 32768, 1)],
)
def test_as_many_layers_as_fit_beside_the_process(
    max_memory_bytes: int | None, context_tokens: int, layers: int, tmp_path: Path
) -> None:
    config = NodeConfig(max_memory_bytes=max_memory_bytes, context_tokens=context_tokens)
    path = demo_target()
    assert _capacity_layers(config, read_manifest(path, tmp_path), path) == layers


def test_a_process_that_alone_is_too_big_is_said_in_words(tmp_path: Path) -> None:
    path = demo_target()
    with pytest.raises(ModelRefused, match=r"not one layer .* fits --max-memory: it takes about \d+ MB"):
        _capacity_layers(NodeConfig(max_memory_bytes=100_000_000), read_manifest(path, tmp_path), path)


async def test_the_cost_line_is_measured() -> None:
    for layers in ((0, 2), (2, 4)):
        engine = FakeEngine(FakeModel(), *layers, cost=lambda num_positions: 0.002 + 0.0005 * num_positions)
        assert astuple(await measure(engine)) == pytest.approx((0.002, 0.0005))

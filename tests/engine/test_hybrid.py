"""Layers with running states are taken back as all others are: by copies that were kept, and what was fed since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine.gguf import read_manifest
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.hybrid import MAX_KEPT, HybridEngine
from dsdnode.engine.llama_api import llama_cpp
from dsdnode.engine.port import Chunk
from dsdnode.speculation.sampling import Sampling
from tests.engine.exactness import STRICT
from tests.engine.hybrid_schedules import play
from tests.engine.random_models import make

pytestmark = pytest.mark.slow

TEXT = np.random.default_rng(2).integers(0, 96, 120).astype(np.int32)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[HybridEngine]:
    engine = HybridEngine(make(tmp_path, "qwen35", 4, Type.Q8_0), STRICT)
    yield engine
    engine.close()


def feed(engine: HybridEngine, sequence: int, end: int) -> np.ndarray:
    """TEXT up to `end`; the last row."""
    tokens = TEXT[engine.length(sequence) : end]
    return engine.decode([Chunk(sequence, engine.length(sequence), tokens, 1, Sampling())])[0]


@pytest.mark.parametrize(("name", "seed"), [("qwen35", 1), ("nemotron_h", 4), ("jamba", 2)])
def test_a_random_life_ends_as_a_straight_one(name: str, seed: int, tmp_path: Path) -> None:
    """A sample; `python -m tests.engine.hybrid_schedules` plays 200."""
    assert play(name, seed, tmp_path) == 0


def test_wherever_it_is_cut_back_to_it_goes_on_as_if_nothing_had_been(engine: HybridEngine) -> None:
    straight = {end: feed(engine, 1, end) for end in range(1, 60)}
    engine.release(1)
    for end in (20, 21, 22, 30, 31, 40, 58, 59):
        feed(engine, 0, end)
    for position in (58, 45, 30, 29, 3, 1):
        engine.truncate(0, position)
        assert engine.length(0) == position
        assert np.array_equal(feed(engine, 0, position + 1), straight[position + 1]), position


def test_it_says_that_it_is_recurrent(engine: HybridEngine) -> None:
    """So that no stage lends of it, unasked and uncharged, what would be computed anew."""
    assert engine.shard.is_recurrent and engine.shard.can_truncate


def test_copies_are_few_and_the_sparser_the_older(engine: HybridEngine) -> None:
    for end in range(2, 121, 2):
        feed(engine, 0, end)
    positions = [copy.position for copy in engine._copies[0]]
    assert len(positions) == min(MAX_KEPT, len(engine._all_free())) and positions[-1] == 118 and positions[0] == 2
    gaps = np.diff(positions)
    assert gaps[0] > gaps[-1]


def test_no_copy_outlives_those_that_come_from_it(engine: HybridEngine) -> None:
    for end in (10, 20, 30):
        feed(engine, 0, end)
    num_free = len(engine._free)
    engine.copy(0, 1, 30)
    engine.copy(0, 2, 15)
    engine.release(0)
    assert len(engine._free) == num_free  # bob and carol have them still
    assert engine.length(1) == 30 and engine.length(2) == 15
    engine.truncate(1, 12)
    wanted = feed(engine, 1, 16)
    engine.release(2)
    assert np.array_equal(feed(engine, 3, 16), wanted)
    for sequence in (1, 3):
        engine.release(sequence)
    assert len(engine._free) == len(engine._all_free()) and not any(engine._copies.values())


def test_where_there_is_no_room_for_copies_it_is_slower_and_right(engine: HybridEngine) -> None:
    """Each of four has its own; the one that has most makes room."""
    for end in (6, 12, 18, 24):
        for sequence in range(4):
            feed(engine, sequence, end)
    assert not engine._free and all(engine._copies[sequence] for sequence in range(4))
    engine.truncate(2, 9)
    wanted = feed(engine, 2, 11)
    engine.release(0)
    assert np.allclose(feed(engine, 0, 11), wanted, atol=0.3)  # (flash attention over cells in another order)


@pytest.mark.parametrize("name", ["qwen35", "nemotron_h", "jamba", "mamba2", "lfm2", "kimi-linear"])
def test_what_its_states_take_is_known_before(name: str, tmp_path: Path) -> None:
    """Else more layers are hosted than there is memory for."""
    path = make(tmp_path, name, 8, Type.F32)
    engine = HybridEngine(path, STRICT)
    try:
        feed(engine, 0, 1)
        kept = llama_cpp.llama_state_seq_get_size(engine._context, 0)
        manifest = read_manifest(path)
        told = manifest.state_bytes * manifest.num_layers
        assert 0.9 * told <= kept <= 1.1 * told + 8192  # one position's keys and values are in it, and names
    finally:
        engine.close()

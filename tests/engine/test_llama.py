"""The low-level adapter on the demo target: whole and cut, the rows must be the same to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine.gguf import cut
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine, Rows
from dsdnode.engine.port import Chunk
from dsdnode.errors import ModelRefused, Overloaded, PeerMisbehaved
from dsdnode.speculation.sampling import Sampling, draw_block, probability

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-target.gguf"
OPTIONS = EngineOptions(threads=1, context_tokens=1024, max_sequences=8, batch_tokens=64)
SAMPLING = Sampling(0.8, seed=11)


class Ring:
    """Every stage of a pipeline as one: the same verbs as the whole model."""

    def __init__(self, engines: list[LlamaEngine]) -> None:
        self.engines = engines

    def decode(self, chunks: Sequence[Chunk]) -> list[Rows]:
        rows: list[Rows] = []
        for engine in self.engines:
            parts = [replace(c, inputs=rows[i]) if rows else c for i, c in enumerate(chunks)]
            rows = engine.decode(parts if engine.shard.last else [replace(part, num_draws=0) for part in parts])
        return rows


@pytest.fixture(scope="module")
def whole() -> LlamaEngine:
    return LlamaEngine(DEMO, OPTIONS)


@pytest.fixture(scope="module")
def ring(whole: LlamaEngine, tmp_path_factory: pytest.TempPathFactory) -> Ring:
    folder, layers = tmp_path_factory.mktemp("shards"), whole.shard.num_layers
    bounds = [0, 1, layers // 2, layers]
    engines = []
    for start, end in pairwise(bounds):
        cut(DEMO, start, end, folder / f"{start}.gguf")
        engines.append(LlamaEngine(folder / f"{start}.gguf", OPTIONS))
    return Ring(engines)


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> None:
    engines = [request.getfixturevalue("whole")]
    if "ring" in request.fixturenames:
        engines += request.getfixturevalue("ring").engines
    for engine in engines:
        for sequence in range(engine.shard.max_sequences):
            engine.release(sequence)


def chunk(sequence: int, position: int, count: int, num_draws: int | None = None, extend: int = 0) -> Chunk:
    ids = np.random.default_rng([sequence + 1, position]).integers(5, 1000, count).astype(np.int32)
    return Chunk(sequence, position, ids, count if num_draws is None else num_draws, SAMPLING, extend)


def test_shards_give_the_whole_models_rows(whole: LlamaEngine, ring: Ring) -> None:
    """Prefill longer than a batch, several sequences at once, rollback, a copied branch."""

    def check(*chunks: Chunk) -> None:
        for expected, got in zip(whole.decode(chunks), ring.decode(chunks), strict=True):
            assert np.abs(expected - got).max() == 0.0

    check(chunk(0, 0, 150, 3))
    check(chunk(0, 150, 5), chunk(3, 0, 7, 2), chunk(1, 0, 90, 1))
    for engine in (whole, *ring.engines):
        engine.truncate(0, 152)
        engine.copy(0, 6, 140)
        engine.release(3)
    check(chunk(6, 140, 4), chunk(0, 152, 6), chunk(3, 0, 2))
    assert whole.shard.can_truncate
    assert [engine.shard.end for engine in ring.engines][-1] == whole.shard.num_layers


def test_strict_setting_does_not_see_the_blocks() -> None:
    """dsdnode/engine, "Rounding": random blocks with rollbacks against one token at a time."""
    rng = np.random.default_rng(5)
    text = rng.integers(5, 1000, 120).astype(np.int32)
    single = LlamaEngine(DEMO, EngineOptions.strict(512, 2))
    blocks = LlamaEngine(DEMO, EngineOptions.strict(512, 2))
    for engine in (single, blocks):
        engine.forward([Chunk(0, 0, text[:40])])
    one_by_one = [single.decode([Chunk(0, i, text[i : i + 1], 1, SAMPLING)])[0][0] for i in range(40, 120)]
    position = 40
    while position < 120:
        size = min(int(rng.integers(1, 17)), 120 - position)
        [rows] = blocks.decode([Chunk(0, position, text[position : position + size], size, SAMPLING)])
        assert np.array_equal(rows, one_by_one[position - 40 : position - 40 + size])
        back = int(rng.integers(0, size))
        blocks.truncate(0, position + size - back)
        position += size - back


def test_extension_is_decoding_one_by_one(whole: LlamaEngine) -> None:
    [drafted, other] = whole.forward([chunk(0, 0, 9, 2, extend=5), chunk(1, 0, 4, 1, extend=2)])
    assert drafted.tokens is not None and other.tokens is not None
    assert len(drafted.tokens) == 7 and len(other.tokens) == 3
    assert whole.length(0) == 14 and whole.length(1) == 6
    whole.release(0)
    [step] = whole.forward([chunk(0, 0, 9, 2)])
    tokens = step.tokens.tolist()
    while len(tokens) < 7:
        [step] = whole.forward([Chunk(0, whole.length(0), np.array(tokens[-1:], np.int32), 1, SAMPLING)])
        tokens += step.tokens.tolist()
    assert tokens == drafted.tokens.tolist()
    assert drafted.probabilities is not None
    assert ((drafted.probabilities > 0) & (drafted.probabilities <= 1)).all()


def test_draws_are_keyed_by_the_position_of_the_token_drawn(whole: LlamaEngine) -> None:
    [rows] = whole.decode([chunk(0, 0, 9, 4)])
    whole.release(0)
    [output] = whole.forward([chunk(0, 0, 9, 4)])
    assert output.tokens.tolist() == draw_block(rows, 6, SAMPLING).tolist()
    assert output.tokens.tolist() != draw_block(rows, 5, SAMPLING).tolist()
    chances = [probability(row, token) for row, token in zip(rows, output.tokens.tolist(), strict=True)]
    assert output.probabilities.tolist() == pytest.approx(chances)


def test_second_choices_and_distributions_come_with_every_draw(whole: LlamaEngine) -> None:
    """Two branches in one batch, one of them extended: against plain numpy on the model's own rows."""
    asked = [replace(chunk(0, 0, 9, 2, extend=3), runners_up=True, num_top=8), replace(chunk(1, 0, 7, 1), num_top=3)]
    outputs = whole.forward(asked)
    for sequence in (0, 1):
        whole.truncate(sequence, 0)
    fed = np.concatenate([asked[0].inputs, outputs[0].tokens[1:-1]])
    rows = whole.decode([Chunk(0, 0, fed, 5, SAMPLING), replace(asked[1], num_top=0)])
    for output, logits, first in zip(outputs, rows, (8, 7), strict=True):
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        num_top = output.top.tokens.shape[1]
        assert output.top.tokens.tolist() == np.argsort(-logits, axis=1, kind="stable")[:, :num_top].tolist()
        assert output.top.probabilities == pytest.approx(np.sort(chances, axis=1)[:, : -num_top - 1 : -1], rel=1e-3)
        entropies = -(chances * np.log(chances)).sum(axis=1) / np.log(logits.shape[1])
        assert output.top.entropies == pytest.approx(entropies, rel=1e-3)
        assert output.tokens.tolist() == draw_block(logits, first, SAMPLING).tolist()
    picks = outputs[0].tokens
    without = rows[0].copy()
    without[np.arange(5), picks] = -np.inf
    assert outputs[0].runners_up.tolist() == draw_block(without, 8, SAMPLING).tolist()
    seconds = [probability(row, token) for row, token in zip(rows[0], outputs[0].runners_up.tolist(), strict=True)]
    assert outputs[0].runner_up_probabilities.tolist() == pytest.approx(seconds, rel=1e-3)
    assert outputs[1].runners_up is None


def test_full_cache_is_an_overload_and_changes_nothing(whole: LlamaEngine) -> None:
    """Also when the first of several batches went in already."""
    whole.forward([chunk(0, 0, 700, 0)])
    before = whole.forward([chunk(1, 0, 4, 1)])[0].tokens
    with pytest.raises(Overloaded):
        whole.forward([chunk(2, 0, 600, 1)])
    assert whole.length(2) == 0
    whole.release(1)
    assert whole.forward([chunk(1, 0, 4, 1)])[0].tokens == before
    whole.forward([chunk(2, 0, 300, 1)])


def test_bad_chunks_never_reach_llama(whole: LlamaEngine, ring: Ring) -> None:
    whole.forward([chunk(0, 0, 4)])
    for bad in (chunk(0, 3, 1), chunk(0, 5, 1), chunk(8, 0, 1), chunk(-1, 0, 1), chunk(1, 0, 2, 3), chunk(1, 0, 0)):
        with pytest.raises(ValueError, match=r"\d"):
            whole.forward([bad])
    for ids in ([-1], [whole.shard.vocab_size]):
        with pytest.raises(PeerMisbehaved):
            whole.forward([Chunk(1, 0, np.array(ids, np.int32))])
    middle = ring.engines[1]
    states = np.ones((2, middle.shard.width), np.float32)
    with pytest.raises(ValueError, match="fit"):
        middle.forward([Chunk(0, 0, states[:, :-1])])
    for poison in (np.nan, np.inf):
        states[1, 3] = poison
        with pytest.raises(PeerMisbehaved):
            middle.forward([Chunk(0, 0, states)])
    with pytest.raises(Overloaded):
        whole.forward([chunk(1, 0, 1025, 0)])
    assert whole.length(1) == 0


def test_a_large_state_poisons_nobody_else(ring: Ring) -> None:
    middle = ring.engines[1]
    honest = np.random.default_rng(1).standard_normal((6, middle.shard.width)).astype(np.float32)
    [want] = middle.decode([Chunk(0, 0, honest)])
    middle.release(0)
    middle.decode([Chunk(1, 0, np.full((3, middle.shard.width), 3e38, np.float32))])
    [got] = middle.decode([Chunk(0, 0, honest)])
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() < 1e-3


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    for path in (tmp_path / "none.gguf", tmp_path / "text.gguf"):
        with pytest.raises(ModelRefused, match=path.name):
            LlamaEngine(path, OPTIONS)

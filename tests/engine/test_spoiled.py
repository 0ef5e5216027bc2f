"""Numbers that come to nothing: mallory's work fails, alice's and bob's goes on, on real layers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf import cut
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.port import CacheSpoiled, Chunk
from dsdnode.errors import EngineLost, PeerMisbehaved, WorkFailed
from dsdnode.speculation.sampling import Sampling
from tests.engine.random_models import make

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-draft.gguf"
OPTIONS = EngineOptions(threads=1, context_tokens=512, max_sequences=8)
ALICE, BOB, MALLORY = 0, 1, 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a model that does not norm what goes into its layers: a middle and a last shard, one that does, and one
    that divides by their size."""
    folder, paths = tmp_path_factory.mktemp("models"), {}
    for name, start, end in (("middle", 2, 3), ("last", 2, 4)):
        paths[name] = folder / f"{name}.gguf"
        cut(make(folder, "olmo2", num_layers=4), start, end, paths[name])
    paths["normed"] = folder / "normed.gguf"
    cut(make(folder, "llama", num_layers=4), 2, 4, paths["normed"])
    paths["divides"] = folder / "divides.gguf"
    cut(make(folder, "qwen2vl", num_layers=4), 2, 4, paths["divides"])
    return paths


@pytest.fixture(params=["middle", "last"])
def engine(request: pytest.FixtureRequest, shards: dict[str, Path]) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(shards[request.param], OPTIONS)
    yield engine
    engine.close()


def chunk(engine: LlamaEngine | WorkerEngine, sequence: int, states: np.ndarray, position: int = 0) -> Chunk:
    draws = len(states) if engine.shard.last else 0
    return Chunk(sequence, position, states.astype(np.float32), draws, Sampling() if draws else None)


def honest(engine: LlamaEngine | WorkerEngine, count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, engine.shard.width))


def huge(engine: LlamaEngine | WorkerEngine, size: float, count: int = 3) -> np.ndarray:
    return np.full((count, engine.shard.width), size)


@pytest.mark.parametrize("size", [1e5, 1e12, 3e38, -1e6])
def test_states_out_of_all_proportion_are_refused_in_words(engine: LlamaEngine, size: float) -> None:
    [before] = engine.decode([chunk(engine, ALICE, honest(engine))])
    with pytest.raises(PeerMisbehaved, match="these layers carry them below 1e\\+05"):
        engine.forward([chunk(engine, MALLORY, huge(engine, size))])
    assert engine.length(MALLORY) == 0 and engine.length(ALICE) == 6
    [after] = engine.decode([chunk(engine, BOB, honest(engine))])
    assert np.abs(after - before).max() < 1e-4


def test_layers_that_norm_what_they_are_fed_refuse_nothing(shards: dict[str, Path]) -> None:
    engine = LlamaEngine(shards["normed"], OPTIONS)
    assert engine._max_state == np.inf and engine._min_state == 0.0
    engine.forward([chunk(engine, ALICE, huge(engine, 3e38))])
    engine.close()


@pytest.mark.parametrize("size", [0.0, 1e-30, -1e-38])
def test_states_that_come_to_nothing_are_refused_where_they_would_be_divided_by(
    size: float, shards: dict[str, Path]
) -> None:
    """Mallory's zeros cleared everybody's cache (qwen2vl)."""
    engine = LlamaEngine(shards["divides"], OPTIONS)
    mixed = honest(engine)
    mixed[3] = size
    with pytest.raises(PeerMisbehaved, match="these layers carry none below 1e-"):
        engine.forward([chunk(engine, ALICE, honest(engine)), chunk(engine, MALLORY, mixed)])
    assert engine.length(MALLORY) == 0
    engine.forward([chunk(engine, ALICE, 1e-4 * honest(engine))])
    engine.close()


@pytest.mark.parametrize("size", [9e4, 2e5, 1e20])
@pytest.mark.parametrize("beside", [False, True])
def test_what_is_not_finite_spoils_nobody_else_s_numbers(engine: LlamaEngine, size: float, beside: bool) -> None:
    """As large as no bound lets in, or just below the one that was probed: seen when it comes out, and wiped away."""
    engine._max_state = np.inf
    [before] = engine.decode([chunk(engine, ALICE, honest(engine))])
    others = [chunk(engine, BOB, honest(engine, 2))] if beside else []
    with pytest.raises(CacheSpoiled) as spoiled:
        engine.forward([*others, chunk(engine, MALLORY, huge(engine, size))])
    assert MALLORY in spoiled.value.sequences and ALICE not in spoiled.value.sequences
    assert all(engine.length(sequence) == 0 for sequence in (ALICE, BOB, MALLORY))
    [after] = engine.decode([chunk(engine, ALICE, honest(engine))])
    assert np.array_equal(after, before)


def test_a_prompt_that_nothing_is_drawn_after_is_looked_at_too(shards: dict[str, Path]) -> None:
    """Or bob, who comes next, would be taken for the culprit."""
    engine = LlamaEngine(shards["last"], OPTIONS)
    engine._max_state = np.inf
    with pytest.raises(CacheSpoiled):
        engine.forward([replace(chunk(engine, MALLORY, huge(engine, 1e7)), num_draws=0)])
    [output] = engine.forward([replace(chunk(engine, BOB, honest(engine)), num_draws=0)])
    assert output.tokens is not None and len(output.tokens) == 0
    engine.close()


POISONS = [
    Sampling(float("nan")),
    Sampling(1.0, min_p=2.0),
    Sampling(1e-3, top_k=-(1 << 40), min_p=float("inf")),
    Sampling(-1e300, seed=-1, min_p=9.0),
    Sampling("hot"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("poison", POISONS)
def test_a_chunk_that_cannot_be_drawn_from_changes_nothing(poison: Sampling) -> None:
    engine = LlamaEngine(DEMO, OPTIONS)
    prompt = np.arange(20, dtype=np.int32)
    [want] = engine.forward([Chunk(ALICE, 0, prompt, 1, Sampling(), extend=4)])
    engine.release(ALICE)
    mallory = Chunk(MALLORY, 0, prompt, 1, poison, extend=2)
    try:
        engine.forward([mallory])
    except WorkFailed:
        with pytest.raises(WorkFailed):
            engine.forward([Chunk(ALICE, 0, prompt, 1, Sampling(), extend=4), mallory])
        assert engine.length(ALICE) == engine.length(MALLORY) == 0
    else:
        engine.release(MALLORY)  # greedy, or a filter that says nothing
    [got] = engine.forward([Chunk(ALICE, 0, prompt, 1, Sampling(), extend=4)])
    assert got.tokens is not None and want.tokens is not None and got.tokens.tolist() == want.tokens.tolist()
    engine.close()


@pytest.fixture
async def worker(shards: dict[str, Path]) -> AsyncIterator[WorkerEngine]:
    engine = await WorkerEngine.start(shards["last"], OPTIONS)
    yield engine
    await engine.close()


async def test_the_process_lives_and_says_whose_numbers_they_were(worker: WorkerEngine) -> None:
    lost: list[frozenset[int]] = []
    worker.on_lost(lost.append)
    pid = worker.pid
    [before] = await worker.forward([chunk(worker, ALICE, honest(worker))])
    nonsense = replace(chunk(worker, MALLORY, honest(worker)), sampling=Sampling(float("nan")))
    with pytest.raises(WorkFailed):
        await worker.forward([nonsense])
    with pytest.raises(PeerMisbehaved, match="carry them below"):
        await worker.forward([chunk(worker, MALLORY, huge(worker, 1e30))])
    assert not lost and worker.num_deaths == 0
    with pytest.raises(CacheSpoiled):
        await worker.forward([chunk(worker, MALLORY, huge(worker, 9.9e4))])
    assert lost == [frozenset({MALLORY})]
    with pytest.raises(EngineLost, match="died with its process"):
        await worker.forward([chunk(worker, ALICE, honest(worker), 6)])
    [after] = await worker.forward([chunk(worker, ALICE, honest(worker))])
    assert before.tokens is not None and after.tokens is not None
    assert after.tokens.tolist() == before.tokens.tolist() and worker.pid == pid


async def test_what_comes_out_spoiled_for_everybody_is_the_engine_s_own_fault(worker: WorkerEngine) -> None:
    """Three owners who have nothing in common: a new process, after a rest."""
    for owner in (b"alice", b"bob", b"carol"):
        with pytest.raises(CacheSpoiled):
            await worker.forward([replace(chunk(worker, MALLORY, huge(worker, 9.9e4)), owner=owner)])
    async with asyncio.timeout(5):
        while not worker.quarantined:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert worker.pid is None

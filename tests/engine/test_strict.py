"""`--strict`: what a real worker draws at a position does not depend on the block that the position comes in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.ipc import MAX_SEQUENCES, EngineOptions
from dsdnode.engine.llama import LlamaEngine, Rows
from dsdnode.engine.port import Chunk
from dsdnode.models import demo_draft
from dsdnode.speculation.sampling import Sampling
from tests.engine.loader_models import VOCAB
from tests.engine.random_models import make

pytestmark = pytest.mark.slow

STRICT = EngineOptions.strict(512, 2)
TEXT = np.random.default_rng(3).integers(0, VOCAB, 64).astype(np.int32)
PROMPT = 24
BLOCKS = (1, 16, 3, 1, 9, 10)


async def probabilities(model: Path, options: EngineOptions, sizes: tuple[int, ...]) -> list[float]:
    """Of what is drawn behind each token of TEXT after the prompt, which comes in blocks of these sizes; each block is
    rolled back and run again with its last token alone."""
    engine = await WorkerEngine.start(model, options)
    drawn: list[float] = []
    try:
        await engine.forward([Chunk(0, 0, TEXT[:PROMPT])])
        position = PROMPT
        for size in sizes:
            block = TEXT[position : position + size]
            [output] = await engine.forward([Chunk(0, position, block, size, Sampling(0.8, seed=7))])
            await engine.truncate(0, position + size - 1)
            [again] = await engine.forward([Chunk(0, position + size - 1, block[-1:], 1, Sampling(0.8, seed=7))])
            assert output.probabilities is not None and again.probabilities is not None
            drawn += [*output.probabilities.tolist()[:-1], again.probabilities.tolist()[0]]
            position += size
    finally:
        await engine.close()
    return drawn


@pytest.mark.parametrize(("name", "kind"), [("qwen3moe", Type.Q4_K), ("llama", Type.F16)])
async def test_blocks_of_all_sizes_give_the_same_to_the_last_bit(name: str, kind: Type, tmp_path: Path) -> None:
    """Each of these types is rounded otherwise in some blocks, unless llama.cpp is kept from it."""
    model, singles = make(tmp_path, name, 3, kind), (1,) * sum(BLOCKS)
    assert await probabilities(model, STRICT, BLOCKS) == await probabilities(model, STRICT, singles)
    usual = replace(STRICT, alike=False)
    assert await probabilities(model, usual, BLOCKS) != await probabilities(model, usual, singles)


def test_the_row_of_nothing_changes_no_rotation(tmp_path: Path) -> None:
    """Phi 3 rotates otherwise in contexts beyond those that it was made for first: alice's strict stages gave another
    text than bob's whole model."""
    model, rows = make(tmp_path, "phi3", 2), list[Rows]()
    for alike in (False, True):
        engine = LlamaEngine(model, replace(STRICT, alike=alike))
        rows += engine.decode([Chunk(0, 0, TEXT, len(TEXT), Sampling())])
        assert engine.shard.context_tokens == 256 - alike
        engine.close()
    assert np.abs(rows[0] - rows[1]).max() < 1e-3


def test_the_row_of_nothing_takes_one_of_the_sequences_that_llama_cpp_has() -> None:
    """Bob starts with --strict, and room for as many replies as there may be."""
    engine = LlamaEngine(demo_draft(), EngineOptions.strict(256, MAX_SEQUENCES))
    try:
        assert engine.shard.max_sequences == MAX_SEQUENCES - 1
        [output] = engine.forward([Chunk(MAX_SEQUENCES - 2, 0, TEXT[:1] % 9, 1, Sampling())])
        assert output.tokens is not None
    finally:
        engine.close()

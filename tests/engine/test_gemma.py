"""A real model, in Q4_K_M: its shards give the whole model's logits, and the strict setting is strict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf import cut
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.port import Chunk
from dsdnode.speculation.sampling import Sampling
from tests.engine.exactness import Pair
from tests.engine.gemma import ABSENT, NUM_LAYERS, gemma_path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not gemma_path().exists(), reason=ABSENT)]

TEXT = (651, 9668, 26185, 37826, 573, 18218, 685, 984, 3584, 1163, 731, 573, 3757, 235265)
"""Any tokens will do; these are a sentence."""


def test_shards_give_the_whole_models_logits(tmp_path: Path) -> None:
    """Two shards, one of which ends amid a period of windows: a prompt, a block, a token after a rollback."""
    paths = [tmp_path / "first.gguf", tmp_path / "last.gguf"]
    for path, layers in zip(paths, ((0, 8), (8, NUM_LAYERS)), strict=True):
        cut(gemma_path(), *layers, path, cache_folder=tmp_path)
    options = EngineOptions(threads=1, context_tokens=256, max_sequences=2)
    engines = [LlamaEngine(path, options, tmp_path) for path in (gemma_path(), *paths)]
    try:
        pair = Pair(engines[0], engines[1:])
        pair.feed(0, TEXT)
        pair.feed(0, TEXT[:9])
        pair.truncate(0, len(TEXT) + 2)
        pair.feed(0, TEXT[:1])
        assert pair.max_difference == 0.0
    finally:
        for engine in engines:
            engine.close()


async def test_the_strict_setting_gives_a_position_the_same_in_blocks_of_all_sizes(tmp_path: Path) -> None:
    """Nine positions, as a window of eight has: llama.cpp by itself makes something else of them than one by one."""
    strict = EngineOptions.strict(256, 2)
    engine = await WorkerEngine.start(gemma_path(), strict, cache_folder=tmp_path)
    try:
        chances: list[list[float]] = []
        for sizes in ([9, 4], [1] * 13):
            await engine.release(0)
            found, position = [], 0
            for size in sizes:
                tokens = np.array(TEXT[position : position + size], np.int32)
                [output] = await engine.forward([Chunk(0, position, tokens, size, Sampling())])
                assert output.probabilities is not None
                found += output.probabilities.tolist()
                position += size
            chances.append(found)
        assert chances[0] == chances[1]
    finally:
        await engine.close()

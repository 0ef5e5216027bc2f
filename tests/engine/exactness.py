"""Are shards the whole model? Both are fed the same steps; the answer is the largest difference of any logit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.gguf import cut, fits, read_manifest
from dsdnode.engine.gguf_arch import SUPPORTED
from dsdnode.engine.hybrid import open_engine
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.port import Chunk
from dsdnode.speculation.sampling import Sampling
from tests.engine.loader_models import VOCAB

Rows = NDArray[np.float32]
OPTIONS = EngineOptions(threads=1, context_tokens=256, max_sequences=4, batch_tokens=64)
STRICT = replace(EngineOptions.strict(256, 4), batch_tokens=64)
"""For layers with a running state: what is cut back is computed again, by a shard from the states that it got, in a
block of another size, and so rounded otherwise than in the whole model."""


def ranges(
    num_layers: int, num_shards: int, fit: Callable[[int, int], bool] = lambda *_: True
) -> list[tuple[int, int]]:
    """Neighbouring layer ranges of uneven sizes (cuts should not fall on a period of anything), fewer where they would
    not `fit`."""
    edges = [round(index * num_layers / num_shards) for index in range(num_shards + 1)]
    if 1 < num_shards < num_layers and edges[1] > 1:
        edges[1] -= 1
    kept = [0]
    for edge in edges[1:-1]:
        kept += [end for end in range(edge, num_layers) if end > kept[-1] and fit(kept[-1], end)][:1]
    while len(kept) > 1 and not fit(kept[-1], num_layers):
        kept.pop()
    return list(itertools.pairwise([*kept, num_layers]))


class Pair:
    """Alice has the whole model, Bob's pipeline its shards (others' pipelines, too); every step goes to all."""

    def __init__(self, whole: LlamaEngine, *pipelines: Sequence[LlamaEngine], seed: int = 0) -> None:
        self.whole, self.pipelines = whole, pipelines
        self.max_difference = 0.0
        self._rng = np.random.default_rng(seed)

    def decode(self, *blocks: tuple[int, int], num_draws: int | None = None) -> None:
        """(sequence, number of random tokens) each, in one batch; logits of all positions, or the last `num_draws`."""
        chunks = []
        for sequence, count in blocks:
            tokens = self._rng.integers(0, VOCAB, count).astype(np.int32)
            draws = count if num_draws is None else num_draws
            chunks.append(Chunk(sequence, self.whole.length(sequence), tokens, draws, Sampling()))
        self._run(chunks)

    def feed(self, sequence: int, tokens: Sequence[int]) -> Rows:
        """These tokens, to one sequence; the whole model's rows."""
        position = self.whole.length(sequence)
        return self._run([Chunk(sequence, position, np.array(tokens, np.int32), len(tokens), Sampling())])[0]

    def _run(self, chunks: list[Chunk]) -> list[Rows]:
        wanted = self.whole.decode(chunks)
        for stages in self.pipelines:
            self._compare(stages, chunks, wanted)
        return wanted

    def _compare(self, stages: Sequence[LlamaEngine], chunks: list[Chunk], wanted: list[Rows]) -> None:
        rows: list[Rows] = []
        for stage in stages:
            given = [chunk.inputs for chunk in chunks] if stage.shard.first else rows
            rows = stage.decode(
                [
                    Chunk(chunk.sequence, chunk.position, inputs, chunk.num_draws * stage.shard.last, chunk.sampling)
                    for chunk, inputs in zip(chunks, given, strict=True)
                ]
            )
        for want, row in zip(wanted, rows, strict=True):
            assert want.shape == row.shape and np.isfinite(want).all()
            assert want.std() > 0.01  # zeros would agree too
            self.max_difference = max(self.max_difference, float(np.abs(want - row).max()))

    @property
    def _engines(self) -> Iterator[LlamaEngine]:
        return itertools.chain([self.whole], *self.pipelines)

    def truncate(self, sequence: int, position: int) -> None:
        for engine in self._engines:
            engine.truncate(sequence, position)

    def copy(self, source: int, target: int, position: int) -> None:
        for engine in self._engines:
            engine.copy(source, target, position)

    def release(self, sequence: int) -> None:
        for engine in self._engines:
            engine.release(sequence)


def story(pair: Pair) -> None:
    """A prefill, blocks, rollbacks; then three replies in one batch, a branch, an adopted branch."""
    pair.decode((0, 40))
    pair.decode((0, 6))
    pair.truncate(0, 43)
    pair.decode((0, 4))
    pair.decode((0, 1))
    pair.decode((1, 20), (0, 2))
    pair.copy(0, 2, 45)
    pair.decode((2, 4), (0, 1), (1, 3))
    pair.truncate(0, 30)
    pair.release(1)
    pair.decode((0, 5), (2, 3), num_draws=2)
    pair.decode((1, 70), num_draws=1)


def max_difference(model: Path, num_layers: int, folder: Path, *num_shards: int) -> float:
    """Cut the model into so many shards, or in several ways at once; run the story on the whole and on the shards."""
    fit, cache = fits(model), folder / "cache"
    name = read_manifest(model, cache).architecture
    options = STRICT if SUPPORTED[name].is_recurrent else OPTIONS
    engines: list[LlamaEngine] = []

    def opened(path: Path) -> LlamaEngine:
        engines.append(open_engine(path, options, cache))
        return engines[-1]

    def shard(start: int, end: int) -> LlamaEngine:
        path = folder / f"{start}-{end}.gguf"
        cut(model, start, end, path, cache_folder=cache)
        engine = opened(path)
        path.unlink()
        return engine

    try:
        ways = [ranges(num_layers, count, fit) for count in num_shards]
        pair = Pair(opened(model), *([shard(*layers) for layers in way] for way in ways))
        story(pair)
        return pair.max_difference
    finally:
        for engine in engines:
            engine.close()

"""Blocks that guess at the token after the next: kept behind the last layers, run beside them, never in their way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.hybrid import open_engine
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.mtp import NUM_GUESSES
from dsdnode.engine.port import Chunk, Guesses, Output
from dsdnode.speculation.sampling import Sampling
from tests.engine.exactness import OPTIONS
from tests.engine.knowing import HEADS, write_knowing_model
from tests.engine.loader_models import VOCAB, write_loader_model
from tests.engine.loader_variants import LOADER_VARIANTS

GUESSES = replace(OPTIONS, guesses=True)
NUM_LAYERS, CUT = 8, 4


class Pipeline:
    """Alice has the whole model, without the block; sam and sue its shards, sue with the block. Ann has it all."""

    def __init__(self, folder: Path, architecture: str, *, knows: bool = False) -> None:
        self.model = folder / "whole.gguf"
        if knows:
            write_knowing_model(self.model, architecture, NUM_LAYERS)
        else:
            write_loader_model(self.model, LOADER_VARIANTS[architecture], NUM_LAYERS, keys=HEADS)
        cut(self.model, 0, CUT, folder / "sam.gguf")
        cut(self.model, CUT, NUM_LAYERS, folder / "sue.gguf")
        self.alice, self.sam = open_engine(self.model, OPTIONS), open_engine(folder / "sam.gguf", OPTIONS)
        self.sue, self.ann = open_engine(folder / "sue.gguf", GUESSES), open_engine(self.model, GUESSES)

    @property
    def engines(self) -> list[LlamaEngine]:
        return [self.alice, self.sam, self.sue, self.ann]

    def run(self, sequence: int, tokens: Sequence[int], num_draws: int) -> Output:
        """Sue's, looked at: the draws are alice's, the guesses ann's."""
        position, line = self.alice.length(sequence), np.array(tokens, np.int32)
        states = self.sam.forward([Chunk(sequence, position, line)])[0].states
        assert states is not None
        plain = Chunk(sequence, position, line, num_draws, Sampling())
        asked = replace(plain, line=line, num_guesses=NUM_GUESSES if num_draws else 0)
        sue, ann = self.sue.forward([replace(asked, inputs=states)])[0], self.ann.forward([asked])[0]
        alice = self.alice.forward([plain])[0]
        assert drawn(sue) == drawn(alice)
        assert (sue.guesses is None) == (ann.guesses is None)
        if sue.guesses is not None and ann.guesses is not None:
            assert sue.guesses.position == ann.guesses.position
            num = min(len(sue.guesses.tokens), len(ann.guesses.tokens))  # near the least chance one may go on
            assert sue.guesses.tokens[:num].tolist() == ann.guesses.tokens[:num].tolist()
        return sue

    def truncate(self, sequence: int, position: int) -> None:
        for engine in self.engines:
            engine.truncate(sequence, position)

    def copy(self, source: int, target: int, position: int) -> None:
        for engine in self.engines:
            engine.copy(source, target, position)

    def release(self, sequence: int) -> None:
        for engine in self.engines:
            engine.release(sequence)


@pytest.fixture(params=["qwen35", "glm4moe"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path, request.param)
    yield pipeline
    for engine in pipeline.engines:
        engine.close()


@pytest.fixture(params=["qwen35", "glm4moe"])
def knower(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path, request.param, knows=True)
    yield pipeline
    for engine in pipeline.engines:
        engine.close()


def drawn(output: Output) -> list[int]:
    assert output.tokens is not None
    return [int(token) for token in output.tokens]


def told(output: Output) -> Guesses:
    assert output.guesses is not None
    return output.guesses


def test_the_last_shard_keeps_the_block_and_no_other(pipeline: Pipeline) -> None:
    folder = pipeline.model.parent
    assert [read_manifest(folder / f"{name}.gguf").guesses for name in ("whole", "sam", "sue")] == [True, False, True]
    assert [engine.shard.num_guesses for engine in pipeline.engines] == [0, 0, NUM_GUESSES, NUM_GUESSES]


def test_a_story_of_blocks_rollbacks_and_branches_is_the_whole_models(pipeline: Pipeline) -> None:
    """And after it the guesses are those of who was never told anything wrong."""
    rng = np.random.default_rng(3)
    line = rng.integers(0, VOCAB, 25).tolist()
    pipeline.run(0, line[:20], 1)
    told(pipeline.run(0, [line[20], 7, 8, 9], 4))
    pipeline.truncate(0, 21)
    pipeline.copy(0, 1, 15)
    pipeline.run(1, [3, 4], 2)
    pipeline.run(0, line[21:], 1)
    pipeline.release(1)
    pipeline.truncate(0, 23)
    late = told(pipeline.run(0, [5, 6], 1))
    fresh = told(pipeline.run(1, [*line[:23], 5, 6], 1))
    assert late.position == fresh.position == 26
    assert np.allclose(late.probabilities[:1], fresh.probabilities[:1], atol=1e-4)


def test_guesses_are_behind_the_first_draw_that_the_line_has_not(knower: Pipeline) -> None:
    """And of a block that knows they are what the model draws then."""
    right = [1, 2, 3]
    for _ in range(9):
        right += drawn(knower.run(1, right[-1:] if len(right) > 3 else right, 1))
    knower.run(0, right[:3], 1)
    guesses = told(knower.run(0, [*right[3:5], (right[5] + 1) % VOCAB], 3))
    assert guesses.position == 6 and guesses.tokens.tolist() == right[6 : 6 + len(guesses.tokens)] != []
    knower.truncate(0, 5)
    guesses = told(knower.run(0, right[5:6], 1))
    assert guesses.position == 7 and guesses.tokens.tolist() == right[7 : 7 + len(guesses.tokens)] != []


def test_who_was_not_told_of_the_line_guesses_again_once_told(knower: Pipeline) -> None:
    first = np.array(drawn(knower.run(0, [1, 2, 3], 1)), np.int32)
    states = knower.sam.forward([Chunk(0, 3, first)])[0].states
    assert states is not None
    (untold,) = knower.sue.forward([Chunk(0, 3, states, 1, Sampling())])
    assert untold.guesses is None
    for engine in (knower.alice, knower.ann):
        engine.forward([Chunk(0, 3, first, 1, Sampling())])
    assert len(told(knower.run(0, drawn(untold), 1)).tokens)


def test_a_block_that_fails_takes_nothing_with_it(knower: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    guesser = knower.sue._guesser
    assert guesser is not None
    with monkeypatch.context() as patch:
        patch.setattr(guesser, "_decode", lambda *_: (_ for _ in ()).throw(RuntimeError("llama_decode gave 1")))
        line = np.array([1, 2, 3], np.int32)
        states = knower.sam.forward([Chunk(0, 0, line)])[0].states
        assert states is not None
        (output,) = knower.sue.forward([Chunk(0, 0, states, 1, Sampling(), line=line, num_guesses=2)])
        assert output.guesses is None and knower.sue.length(0) == 3
    for engine in (knower.alice, knower.ann):
        engine.forward([Chunk(0, 0, line, 1, Sampling())])
    assert len(told(knower.run(0, drawn(output), 1)).tokens)

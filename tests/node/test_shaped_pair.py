"""Shaped replies of the demo pair, from real nodes with worker processes, beside the whole model decoded alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.engine.port import Chunk
from dsdnode.models import demo_target
from dsdnode.speculation.sampling import Sampling
from dsdnode.wire.logprobs import SaidPosition
from tests.node.exactness import swarm
from tests.node.reference import WholeModel
from tests.node.shaped import farthest, reply_of

pytestmark = pytest.mark.slow
WINDOWS = ((0, ""), (8, "fixed"), (8, "stream:3:8"))


class Whole:
    def __init__(self) -> None:
        self._engine = WholeModel(demo_target(), strict=True).engine

    def reply(self, request: GenerateRequest) -> tuple[list[int], list[list[float]]]:
        self._engine.release(0)
        return reply_of(self._then, request, ())

    def _then(self, token: int) -> NDArray[np.float32]:
        chunk = Chunk(0, self._engine.length(0), np.array([token], np.int32), 1, Sampling())
        rows: list[NDArray[np.float32]] = self._engine.decode([chunk])
        logits: NDArray[np.float32] = rows[0][-1]
        return logits


async def test_penalties_and_logprobs_are_the_whole_model_s_with_every_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Greedily and not: the text is equal, and every log-probability within 1e-4 (f32)."""
    alone, largest, num_told = Whole(), 0.0, 0
    async with swarm(tmp_path, 2, strict=True) as client:
        for temperature in (0.0, 0.9):
            for window, policy in WINDOWS:
                asked = GenerateRequest(
                    prompt_tokens=(40, 300, 12, 77, 300, 5), max_tokens=40, temperature=temperature, seed=5,
                    draft_max=window, window=policy, ignore_eos=True, presence_penalty=0.7, frequency_penalty=0.4,
                    repetition_penalty=1.3, logit_bias={12: 2.0, 40: -100.0}, logprobs=20,
                )  # fmt: skip
                tokens: list[int] = []
                told: list[SaidPosition] = []
                async for event in client.generate(asked):
                    if isinstance(event, Piece):
                        tokens += event.tokens
                        told += event.logprobs
                    else:
                        assert isinstance(event, Finished) and (event.stats.drafted > 0) == (window > 0)
                expected, logprobs = alone.reply(asked)
                assert tokens == expected
                largest, num_told = max(largest, farthest(told, expected, logprobs, 20)), num_told + len(told) * 21
    with capsys.disabled():
        print(f"\n{num_told} log-probabilities, the farthest {largest:.1e} away")
    assert largest < 1e-4

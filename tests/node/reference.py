"""What a swarm's text is compared with: the whole model, decoded alone by llama.cpp, one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.port import Chunk
from dsdnode.speculation import sampling as noise
from dsdnode.speculation.masks import masked
from dsdnode.speculation.sampling import Sampling

PREFILL_POSITIONS = 256
"""As the drafter chunks a prompt: in the strict setting the chunks are part of the arithmetic."""


@dataclass(frozen=True)
class Alone:
    """`margins[i]`: by how much token i beat the runner-up, in logits at the temperature (noise included)."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...]


class WholeModel:
    def __init__(self, path: Path, *, strict: bool, context_tokens: int = 4096) -> None:
        usual = EngineOptions(threads=1, context_tokens=context_tokens)
        self.engine = LlamaEngine(path, EngineOptions.strict(context_tokens) if strict else usual)

    def decode(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        end_tokens: frozenset[int] = frozenset(),
        mask: Callable[[Sequence[int]], bytes] | None = None,
    ) -> Alone:
        """At most `max_tokens`; the end token itself is not among them. `mask`: of the place behind these tokens."""
        self.engine.release(0)
        tokens: list[int] = []
        margins: list[float] = []
        logits = self._prefill(prompt)
        while len(tokens) < max_tokens:
            position = len(prompt) + len(tokens)
            logits = logits if mask is None else masked(logits, mask(tokens))
            token = noise.draw(logits, position, sampling)
            if token in end_tokens:
                break
            tokens.append(token)
            margins.append(_margin(logits, position, sampling))
            if len(tokens) < max_tokens:
                logits = self._run([token], position)
        return Alone(tuple(tokens), tuple(margins))

    def _prefill(self, prompt: Sequence[int]) -> np.ndarray:
        for start in range(0, len(prompt), PREFILL_POSITIONS):
            logits = self._run(prompt[start : start + PREFILL_POSITIONS], start)
        return logits

    def _run(self, tokens: Sequence[int], position: int) -> np.ndarray:
        chunk = Chunk(0, position, np.asarray(tokens, np.int32), 1, Sampling())
        logits: np.ndarray = self.engine.decode([chunk])[0][-1]
        return logits


def _margin(logits: np.ndarray, position: int, sampling: Sampling) -> float:
    scores = logits.astype(np.float64)
    if sampling.temperature > 0:
        words = noise.noise(sampling.seed, position, np.arange(len(logits)))
        scores = scores / sampling.temperature - np.log(-np.log((words + 0.5) * 2.0**-32))
    top = np.partition(scores, -2)[-2:]
    return float(top[1] - top[0])

"""Logits shaped as a request asks (shaping.py).

A chunk draws several positions at once, and the tokens between them are drafted, or drawn just then. So a `Past` says
what is before the first of them, and a `Shaper` goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsdnode.speculation.shaping import Shaping

Logits = NDArray[np.float32]
Ids = NDArray[np.int32]
_NONE: Ids = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What is before the draws of a chunk, as far as it counts. `tokens`: int32 [n], up to the first draw's position;
    the first `num_prompt` of them are not the reply's own. `then`: the tokens between the draws, where the chunk has
    them: int32 [num_draws - 1]."""

    tokens: Ids = field(default_factory=lambda: _NONE)
    num_prompt: int = 0
    then: Ids = field(default_factory=lambda: _NONE)

    @classmethod
    def of(cls, tokens: Sequence[int] | Ids, num_prompt: int, then: Sequence[int] | Ids = ()) -> Past:
        return cls(np.asarray(tokens, np.int32), max(0, num_prompt), np.asarray(then, np.int32))


class Shaper:
    """Shapes the logits of one position after the other: `shaped`, then `follow` with the token that stands there."""

    def __init__(self, shaping: Shaping, past: Past, vocab_size: int) -> None:
        """Tokens and biases outside of [0, vocab_size) count for nothing."""
        self._shaping = shaping
        self._vocab_size = vocab_size
        self._then = past.then.tolist()
        known = [(token, value) for token, value in shaping.bias if token < vocab_size]
        self._biased = np.array([token for token, _ in known], np.intp)
        self._biases = np.array([value for _, value in known], np.float32)
        self._reply = _Counts(past.tokens[past.num_prompt :] if shaping.counts else _NONE, vocab_size)
        tokens = past.tokens if shaping.looks_back else _NONE
        if shaping.last_tokens >= 0:
            tokens = tokens[max(0, len(tokens) - shaping.last_tokens) :]
        self._line = _Counts(tokens, vocab_size)
        self._window = tokens.tolist() if shaping.last_tokens >= 0 else []

    def shaped(self, logits: Logits) -> Logits:
        """Of the next position; `logits` [vocab_size] stay as they are."""
        shaping, logits = self._shaping, logits.copy()
        if len(self._biased):
            np.add.at(logits, self._biased, self._biases)
        if shaping.looks_back:
            ids = self._line.ids()
            values, by = logits[ids], np.float32(shaping.repetition)
            logits[ids] = np.where(values > 0, values / by, values * by)
        if shaping.counts:
            ids = self._reply.ids()
            times = self._reply.times(ids).astype(np.float32)
            logits[ids] -= np.float32(shaping.frequency) * times + np.float32(shaping.presence)
        return logits

    def follow(self, drawn: int) -> None:
        """Behind the position that was shaped last stands the chunk's own token, or where it has none what was drawn
        there."""
        token = self._then.pop(0) if self._then else drawn
        if self._shaping.counts:
            self._reply.add(token)
        if self._shaping.looks_back:
            self._line.add(token)
            if self._shaping.last_tokens >= 0:
                self._window.append(token)
                while len(self._window) > self._shaping.last_tokens:
                    self._line.remove(self._window.pop(0))


class _Counts:
    """How often each token is there."""

    def __init__(self, tokens: Ids, vocab_size: int) -> None:
        fit = tokens[(tokens >= 0) & (tokens < vocab_size)]
        ids, times = np.unique(fit, return_counts=True)
        self._vocab_size = vocab_size
        self._times: dict[int, int] = dict(zip(ids.tolist(), times.tolist(), strict=True))

    def add(self, token: int) -> None:
        if 0 <= token < self._vocab_size:
            self._times[token] = self._times.get(token, 0) + 1

    def remove(self, token: int) -> None:
        if token in self._times:
            self._times[token] -= 1

    def ids(self) -> NDArray[np.intp]:
        return np.array([token for token, times in self._times.items() if times > 0], np.intp)

    def times(self, ids: NDArray[np.intp]) -> NDArray[np.int64]:
        return np.array([self._times[token] for token in ids.tolist()], np.int64)

"""One reply's sequences in the draft engine: what the owner's machine asks of them, as the engine understands it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import DsdError
from dsdnode.node.batching.batcher import Batcher
from dsdnode.speculation import actions as do
from dsdnode.speculation.sampling import Sampling


class DraftSequences:
    """A conversation's sequences in the draft engine, for one reply; None in their place: plain decoding."""

    def __init__(self, batcher: Batcher, sequences: Sequence[int], sampling: Sampling) -> None:
        """`sequences`: MAX_BRANCHES empty ones."""
        self._batcher = batcher
        self._sequences = tuple(sequences)
        self._sampling = sampling
        self._lengths = [0] * len(self._sequences)

    def follow(self, sampling: Sampling) -> DraftSequences:
        """For the next reply of the same session, with what is cached."""
        next_ = DraftSequences(self._batcher, self._sequences, sampling)
        next_._lengths = self._lengths
        return next_

    @property
    def available(self) -> bool:
        """Is the draft engine there, not restarting?"""
        return self._batcher.engine.available

    def draft(self, action: do.Draft, done: Callable[[Output | DsdError | None], None]) -> None:
        sequence = self._sequences[action.sequence]
        if action.source is not None:
            self._batcher.release(sequence)
            self._batcher.copy(self._sequences[action.source], sequence, action.position)
        elif action.position < self._lengths[action.sequence]:
            self._batcher.truncate(sequence, action.position)
        self._lengths[action.sequence] = action.position + len(action.tokens) + action.count - 1
        inputs = np.asarray(action.tokens, np.int32)
        chunk = Chunk(
            sequence, action.position, inputs, 1, self._sampling, extend=action.count - 1, runners_up=True
        )  # fmt: skip
        self._batcher.run(chunk, done, owner=self._sequences[0])

    def release(self) -> None:
        """Empty them, whatever they hold; of a sequence that died with its worker nothing is left."""
        for index, length in enumerate(self._lengths):
            if length:
                self._batcher.release(self._sequences[index])
        self._lengths = [0] * len(self._sequences)


def guesses_of(output: Output) -> tuple[do.Guess, ...]:
    assert output.tokens is not None and output.probabilities is not None
    assert output.runners_up is not None and output.runner_up_probabilities is not None
    columns = (output.tokens, output.probabilities, output.runners_up, output.runner_up_probabilities)
    return tuple(do.Guess(*row) for row in zip(*(column.tolist() for column in columns), strict=True))

"""What one chunk's positions say, taken row by row: an engine's logits are gone with its next decode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.port import Chunk, Output, Top
from dsdnode.speculation.sampling import Sampling, draw, draw_two, most_likely, probabilities

Row = NDArray[np.float32]


class Draws:
    """The draws of `chunk`, in order of position; of second choices and distributions only what it asks for."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self._sampling = chunk.sampling or Sampling()
        self._chosen: list[tuple[int, ...]] = []
        self._chances: list[tuple[float, ...]] = []
        self._tops: list[tuple[NDArray[np.intp], NDArray[np.float64], float]] = []

    def take(self, logits: Row, position: int) -> int:
        """Draw the token at `position` from the logits [vocab_size] of the position before it; returns it."""
        if self.chunk.runners_up:
            chosen: tuple[int, ...] = draw_two(logits, position, self._sampling)
        else:
            chosen = (draw(logits, position, self._sampling),)
        self._chosen.append(chosen)
        self._chances.append(probabilities(logits, chosen))
        if self.chunk.num_top:
            self._tops.append(most_likely(logits, self.chunk.num_top))
        return chosen[0]

    @property
    def last(self) -> int:
        """The token drawn last."""
        return self._chosen[-1][0]

    def output(self, compute_s: float) -> Output:
        width = 2 if self.chunk.runners_up else 1
        tokens = np.array(self._chosen, np.int32).reshape(-1, width)
        chances = np.array(self._chances, np.float32).reshape(-1, width)
        return Output(
            None,
            tokens[:, 0],
            chances[:, 0],
            compute_s,
            runners_up=tokens[:, 1] if self.chunk.runners_up else None,
            runner_up_probabilities=chances[:, 1] if self.chunk.runners_up else None,
            top=self._top() if self.chunk.num_top else None,
        )

    def _top(self) -> Top:
        shape = (-1, self.chunk.num_top)
        return Top(
            np.array([ids for ids, _, _ in self._tops], np.int32).reshape(shape),
            np.array([chances for _, chances, _ in self._tops], np.float32).reshape(shape),
            np.array([entropy for _, _, entropy in self._tops], np.float32),
        )

"""The draws of one chunk, from rows of logits as they come: what every engine does behind its layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.port import Chunk, Logprobs, Output, Top
from dsdnode.speculation.masks import masked
from dsdnode.speculation.sampling import Sampling, draw, draw_two, log_probabilities, most_likely, probabilities
from dsdnode.speculation.shaper import Past, Shaper


class Draws:
    """The draws of `chunk`, in order of position; of second choices and distributions only what it asks for."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self._sampling = chunk.sampling or Sampling()
        self._chosen: list[tuple[int, ...]] = []
        self._chances: list[tuple[float, ...]] = []
        self._tops: list[tuple[NDArray[np.intp], NDArray[np.float64], float]] = []
        self._logprobs: list[tuple[NDArray[np.intp], NDArray[np.float32]]] = []
        self._shaper: Shaper | None = None

    def take(self, logits: NDArray[np.float32], position: int) -> int:
        """Draw the token at `position` from the logits [vocab_size] of the position before it; returns it.

        Raises ArithmeticError, or whatever else these logits and this sampling come to.
        """
        own = logits
        if not self._sampling.shaping.is_plain:
            if self._shaper is None:
                self._shaper = Shaper(self._sampling.shaping, self.chunk.past or Past(), len(logits))
            logits = self._shaper.shaped(logits)
        if len(self._chosen) < len(self.chunk.masks):
            logits = masked(logits, self.chunk.masks[len(self._chosen)])
        if self.chunk.runners_up:
            chosen: tuple[int, ...] = draw_two(logits, position, self._sampling)
        else:
            chosen = (draw(logits, position, self._sampling),)
        if self._shaper is not None:
            self._shaper.follow(chosen[0])
        self._chosen.append(chosen)
        self._chances.append(probabilities(logits, chosen))
        if self.chunk.num_top:
            self._tops.append(most_likely(logits, self.chunk.num_top))
        if self.chunk.num_logprobs >= 0:
            top = most_likely(own, self.chunk.num_logprobs)[0] if self.chunk.num_logprobs else np.zeros(0, np.intp)
            self._logprobs.append((top, log_probabilities(own, [chosen[0], *top.tolist()])))
        return chosen[0]

    @property
    def tokens(self) -> list[int]:
        """Those drawn so far."""
        return [chosen[0] for chosen in self._chosen]

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
            logprobs=self._told() if self.chunk.num_logprobs >= 0 else None,
        )

    def _told(self) -> Logprobs:
        num, num_top = len(self._logprobs), self.chunk.num_logprobs
        tokens = np.array([tokens for tokens, _ in self._logprobs], np.int32).reshape(num, num_top)
        values = np.array([values for _, values in self._logprobs], np.float32).reshape(num, 1 + num_top)
        return Logprobs(values[:, 0], tokens, values[:, 1:])

    def _top(self) -> Top:
        shape = (-1, self.chunk.num_top)
        return Top(
            np.array([ids for ids, _, _ in self._tops], np.int32).reshape(shape),
            np.array([chances for _, chances, _ in self._tops], np.float32).reshape(shape),
            np.array([entropy for _, _, entropy in self._tops], np.float32),
        )

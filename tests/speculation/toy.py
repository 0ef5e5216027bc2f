"""A toy model, its engines and a small event queue: what a stale cache does to the text shows at once.

The state at each position and stage depends on the input and on everything that this sequence cached before it; the
token drawn after a position depends on the last stage's state. So a cache that is not what it should be gives another
text, and keeps giving one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

VOCABULARY = 17
END_TOKEN = 16
_PRIME = (1 << 61) - 1


def mix(*values: int) -> int:
    result = 88172645463325252
    for value in values:
        result = (result * 6364136223846793005 + value * 1442695040888963407 + 1013904223) % _PRIME
        result ^= result >> 29
    return result


def draw(state: int, position: int, seed: int) -> int:
    """The token at `position` from the last stage's state before it. END_TOKEN is never drawn."""
    return mix(state, position, seed) % (VOCABULARY - 1)


class WrongEngineCall(Exception):
    """What llama.cpp refuses or aborts on: gaps, overlaps, unknown or occupied sequences."""


class ToyEngine:
    """The cache of one peer: cells of many sequences. `stage` stands for the layer range."""

    def __init__(self, stage: int, num_sequences: int) -> None:
        self.stage = stage
        self.cells: list[list[int]] = [[] for _ in range(num_sequences)]

    def run(self, sequence: int, position: int, inputs: tuple[int, ...]) -> tuple[int, ...]:
        cells = self.cells[sequence]
        if position != len(cells):
            raise WrongEngineCall(f"run at {position}, cached {len(cells)}")
        for value in inputs:
            cells.append(mix(self.stage, value, cells[-1] if cells else 0))
        return tuple(cells[position:])

    def copy(self, source: int, target: int, position: int) -> None:
        if self.cells[target] or position > len(self.cells[source]) or source == target:
            raise WrongEngineCall(f"copy to a sequence of {len(self.cells[target])}, {position} positions")
        self.cells[target] = self.cells[source][:position]

    def truncate(self, sequence: int, position: int) -> None:
        if position > len(self.cells[sequence]):
            raise WrongEngineCall(f"truncate to {position}, cached {len(self.cells[sequence])}")
        del self.cells[sequence][position:]

    def release(self, sequence: int) -> None:
        self.cells[sequence] = []

    def lose(self) -> None:
        self.cells = [[] for _ in self.cells]


def reference(prompt: tuple[int, ...], num_tokens: int, num_stages: int, seed: int) -> tuple[int, ...]:
    """The whole model decoding alone, one token at a time: the only right text."""
    engines = [ToyEngine(stage, 1) for stage in range(num_stages)]
    tokens = list(prompt)
    for position in range(len(prompt) + num_tokens - 1):
        values: tuple[int, ...] = (tokens[position],)
        for engine in engines:
            values = engine.run(0, position, values)
        if position >= len(prompt) - 1:
            tokens.append(draw(values[0], position + 1, seed))
    return tuple(tokens)


class Queue:
    """Virtual time. Same seed, same run: ties are broken by order of scheduling."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + delay_s, call, *arguments)

    def at(self, when_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """To the last bit: a timer that is set by `after` may be a rounding error early."""
        self._count += 1
        heapq.heappush(self._heap, (max(self.now, when_s), self._count, call, arguments))

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """False: nothing left to happen, or time is up, before `until` came true."""
        while not until():
            if not self._heap or self._heap[0][0] > limit_s:
                return False
            self.now, _, call, arguments = heapq.heappop(self._heap)
            call(*arguments)
        return True


class Network:
    """Loses, duplicates, delays and (by unequal delays) reorders; `reachable` says who is cut off right now."""

    def __init__(self, queue: Queue, rng: Random, loss: float, duplicates: float, latency_s: float) -> None:
        self._queue, self._rng = queue, rng
        self.loss, self.duplicates, self.latency_s = loss, duplicates, latency_s
        self.stragglers = rng.choice([0.01, 0.05, 0.3])

    def send(self, call: Callable[..., None], *arguments: Any) -> None:
        copies = 0 if self._rng.random() < self.loss else 2 if self._rng.random() < self.duplicates else 1
        for _ in range(copies):
            delay_s = self.latency_s * (0.5 + self._rng.random())
            if self._rng.random() < self.stragglers:
                delay_s += self._rng.random() * 20 * self.latency_s
            if self._rng.random() < 0.003:
                delay_s += self._rng.random() * 60
            self._queue.after(delay_s, call, *arguments)

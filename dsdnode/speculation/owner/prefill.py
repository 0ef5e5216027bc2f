"""How the owner cuts given tokens into blocks: the prompt so that all stages work at once, the rest as it was decoded.

A prompt of M tokens in chunks of c takes sum c_s(c) + (M / c - 1) max c_s(c): large chunks leave all stages but one
idle, small ones pay each stage's fixed time too often. Chunks are powers of two, chosen once a reply, and counted from
where the first of them began: a stage that must be filled again gets the same ones, and rounds as the others did.
What was decoded after the prompt goes out again in blocks that are rounded as single tokens are (engine/__init__.py).
docs/theory.md, section 9.
"""

from __future__ import annotations

import math

from dsdnode.cost import PipelineCost

MIN_CHUNK_POSITIONS = 16
MAX_SINGLES_POSITIONS = 16
"""A block of so many tokens is rounded as they would be one by one; a larger one is not."""
MAX_POSITIONS_IN_FLIGHT = 2048
"""As many as one stage lets wait (StageLimits)."""


class Prefill:
    """`begin_route` before all else."""

    def __init__(self, prompt_length: int, max_chunk_positions: int, *, fixed: bool = False) -> None:
        """`fixed`: chunks as large as may be, whatever the pipeline."""
        self.max_blocks = 1
        """Blocks of given tokens in flight: they need no verdict, so they may fill the pipeline."""
        self._prompt_length = prompt_length
        self._max_chunk = max_chunk_positions
        self._fixed = fixed
        self._chunk = 0
        self._origin = 0

    def begin_route(self, base: int, num_stages: int, costs: PipelineCost | None) -> None:
        """The pipeline has `base` positions already."""
        if self._chunk == 0:
            usable = None if self._fixed else costs
            self._chunk = best_chunk(max(1, self._prompt_length - base), usable, self._max_chunk)
            self._origin = base
        self.max_blocks = num_stages + 2 if costs is None else _num_to_fill(self._chunk, costs)

    def next_size(self, start: int, end: int) -> int:
        """How many of the given tokens [start, end) go into one block."""
        singles = min(end - start, MAX_SINGLES_POSITIONS, self._max_chunk)
        if start >= self._prompt_length or singles == end - start:
            return singles
        size = self._chunk - (start - self._origin) % self._chunk
        return min(size, self._prompt_length - start, end - start)


def best_chunk(num_tokens: int, costs: PipelineCost | None, max_positions: int) -> int:
    """The chunk, `max_positions` or a power of two below, with which so many tokens are through the pipeline first.

    Without costs: `max_positions`.
    """
    if costs is None:
        return max_positions
    powers = [MIN_CHUNK_POSITIONS << shift for shift in range(max_positions.bit_length())]
    sizes = [*(size for size in powers if size < max_positions), max_positions]
    return min(reversed(sizes), key=lambda size: prefill_s(num_tokens, size, costs))


def prefill_s(num_tokens: int, chunk: int, costs: PipelineCost) -> float:
    """Until the judge has seen the last of so many tokens: every chunk passes the slowest stage, one passes all."""
    num_chunks = -(-num_tokens // chunk)
    first, last = min(num_tokens, chunk), num_tokens - (num_chunks - 1) * chunk
    seconds = costs.pass_s(first)
    if num_chunks > 1:
        seconds += (num_chunks - 2) * costs.slowest_s(chunk) + costs.slowest_s(last)
    return seconds


def _num_to_fill(chunk: int, costs: PipelineCost) -> int:
    """Blocks that keep the slowest stage at work: as many as it passes while one is on its way, and two to spare."""
    on_its_way = costs.pass_s(chunk) / max(1e-6, costs.slowest_s(chunk))
    return max(len(costs.stages), math.ceil(min(on_its_way, MAX_POSITIONS_IN_FLIGHT))) + 2

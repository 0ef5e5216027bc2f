"""What must be true of chunks before any engine touches them: a stranger's numbers end here, and so do our own bugs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dsdnode.engine.port import Chunk, ShardInfo
from dsdnode.errors import Overloaded, PeerMisbehaved


def check_chunks(chunks: Sequence[Chunk], shard: ShardInfo, length: Callable[[int], int]) -> None:
    """`length(sequence)`: positions cached. Nothing has changed when this raises.

    Raises PeerMisbehaved for values a peer may have sent (ids out of range, states that are not finite), Overloaded for
    positions beyond the cache, ValueError for what no correct caller asks (gaps, overlaps, shapes).
    """
    if not chunks or len({chunk.sequence for chunk in chunks}) != len(chunks):
        raise ValueError("a batch needs chunks, each of another sequence")
    for chunk in chunks:
        check_sequence(chunk.sequence, shard)
        if chunk.position != length(chunk.sequence):
            have = length(chunk.sequence)
            raise ValueError(f"sequence {chunk.sequence} has {have} positions: no chunk begins at {chunk.position}")
        _check_draws(chunk, shard)
        _check_inputs(chunk, shard)
        if chunk.position + len(chunk.inputs) + chunk.extend > shard.context_tokens:
            raise Overloaded(f"the cache has {shard.context_tokens} cells; the sequence would need more")


def check_sequence(sequence: int, shard: ShardInfo) -> None:
    """Raises ValueError."""
    if not 0 <= sequence < shard.max_sequences:
        raise ValueError(f"sequence {sequence} is not in [0, {shard.max_sequences})")


def _check_draws(chunk: Chunk, shard: ShardInfo) -> None:
    if not 0 <= chunk.num_draws <= len(chunk.inputs) or chunk.extend < 0:
        raise ValueError(f"{chunk.num_draws} draws and {chunk.extend} more from {len(chunk.inputs)} positions")
    if chunk.num_draws and not shard.last:
        raise ValueError("only the last layers' engine draws")
    if chunk.num_draws and chunk.sampling is None:
        raise ValueError("draws need a sampling")
    if not 0 <= chunk.num_top <= shard.vocab_size:
        raise ValueError(f"the {chunk.num_top} most likely of {shard.vocab_size} tokens")
    if chunk.extend and not (chunk.num_draws and shard.first):
        raise ValueError("only a whole model that draws can go on by itself")


def _check_inputs(chunk: Chunk, shard: ShardInfo) -> None:
    inputs = chunk.inputs
    shape = (len(inputs),) if shard.first else (len(inputs), shard.width)
    if len(inputs) == 0 or inputs.shape != shape or inputs.dtype != (np.int32 if shard.first else np.float32):
        raise ValueError(f"inputs {inputs.dtype} {inputs.shape} do not fit the engine: wanted {shape}")
    if shard.first:
        if inputs.min() < 0 or inputs.max() >= shard.vocab_size:
            raise PeerMisbehaved(f"token ids are not all in [0, {shard.vocab_size})")
    elif not np.isfinite(inputs).all():  # in a unified cache one nan poisons every sequence
        raise PeerMisbehaved("hidden states are not all finite")

"""Hidden states and token ids as raw little-endian buffers, checked against what the header claims.

"f32": float32 [n, width]. "f16": one float32 scale a row [n], then float16 [n, width]; value = scale * half. Scales are
powers of two, so that scaling adds no rounding: some models' states exceed the range of float16 (65,504), and small
ones keep their eleven bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsdnode.errors import PeerMisbehaved
from dsdnode.wire.messages import WIRE_TYPES

_TOP_EXPONENT = 15
"""The largest value of a row lands in [2^14, 2^15): within range, with the most room below."""
_MAX_STATE = 1e38
"""Rounded up to a half and scaled back, more could overflow float32."""


def pack_states(states: NDArray[np.float32], wire: str) -> bytes:
    """States, float32 [n, width], in a wire type. Raises ValueError for another type, or for infinities and NaN."""
    if states.dtype != np.float32 or states.ndim != 2:
        raise ValueError(f"states are float32 [n, width], not {states.dtype} {list(states.shape)}")
    largest = np.abs(states).max(axis=1, initial=0.0)
    if not (largest <= _MAX_STATE).all():
        raise ValueError("states that are not finite, or out of all proportion")
    if wire == "f32":
        return states.astype("<f4", copy=False).tobytes()
    if wire != "f16":
        raise ValueError(f"unknown wire type {wire!r}")
    _, exponents = np.frexp(largest)
    # Not below the normal floats: their scale must not vanish (and 0 has exponent 0).
    scales = np.ldexp(np.float32(1), np.maximum(exponents - _TOP_EXPONENT, -126)).astype("<f4")
    halves = (states / scales[:, None]).astype("<f2")
    return b"".join((scales.tobytes(), halves.tobytes()))


def unpack_states(buffer: bytes, num_positions: int, width: int, wire: str) -> NDArray[np.float32]:
    """The states, float32 [num_positions, width] (f32: read-only). Raises PeerMisbehaved: wrong size, not finite."""
    if wire not in WIRE_TYPES:
        raise PeerMisbehaved(f"unknown wire type {wire!r}")
    size_bytes = num_positions * (width * 4 if wire == "f32" else 4 + width * 2)
    if len(buffer) != size_bytes:
        raise PeerMisbehaved(f"{len(buffer)} bytes for states [{num_positions}, {width}] in {wire}, not {size_bytes}")
    if wire == "f32":
        states = np.frombuffer(buffer, "<f4").astype(np.float32, copy=False).reshape(num_positions, width)
    else:
        scales = np.frombuffer(buffer, "<f4", num_positions)[:, None]
        halves = np.frombuffer(buffer, "<f2", offset=4 * num_positions).reshape(num_positions, width)
        with np.errstate(over="ignore", invalid="ignore"):
            states = halves.astype(np.float32)
            states *= scales
    if not np.isfinite(states).all():
        raise PeerMisbehaved("states that are not finite")
    return states


def pack_tokens(tokens: NDArray[np.int32] | list[int]) -> bytes:
    """Token ids as int32 [n]."""
    return np.asarray(tokens, dtype="<i4").tobytes()


def unpack_tokens(buffer: bytes, num_tokens: int, vocab_size: int) -> NDArray[np.int32]:
    """Token ids, int32 [num_tokens], read-only. Raises PeerMisbehaved: another count, ids outside [0, vocab_size)."""
    if len(buffer) != 4 * num_tokens:
        raise PeerMisbehaved(f"{len(buffer)} bytes for {num_tokens} token ids")
    tokens = np.frombuffer(buffer, "<i4").astype(np.int32, copy=False)
    if num_tokens and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise PeerMisbehaved(f"token ids outside of a vocabulary of {vocab_size}")
    return tokens

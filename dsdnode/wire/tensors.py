"""Hidden states as raw little-endian buffers, checked against what the header claims.

"f32": float32 [n, width]. "f16": one float32 scale a row [n], then float16 [n, width]; value = scale * half. Scales are
powers of two, so that scaling adds no rounding: some models' states exceed the range of float16 (65,504), and small
ones keep their eleven bits. "q8": one step a group of 32 neighbours of a row, [n, ceil(width / 32)] packed as "f16"
packs states, then int8 [n, width]; value = step * byte: 1.06 bytes a value, in error half a 127th of the group's
largest. (Powers of two as steps err 1.5 times as much, at the same size: `python -m tests.engine.wire_error`.)
"""

from __future__ import annotations

from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from dsdnode.errors import PeerMisbehaved
from dsdnode.wire.messages import WIRE_TYPES

_TOP_EXPONENT = 15
"""The largest value of a row lands in [2^14, 2^15): within range, with the most room below."""
_GROUP = 32
_MAX_BYTE = 127
_MAX_STATE = 1e38
"""Rounded up to a half and scaled back, more could overflow float32."""


def pack_states(states: NDArray[np.float32], wire: str) -> bytes:
    """States, float32 [n, width], in a wire type. Raises ValueError for another type, or for infinities and NaN."""
    if states.dtype != np.float32 or states.ndim != 2:
        raise ValueError(f"states are float32 [n, width], not {states.dtype} {list(states.shape)}")
    if wire not in WIRE_TYPES:
        raise ValueError(f"unknown wire type {wire!r}")
    largest = np.abs(states).max(axis=1, initial=0.0)
    if not (largest.max(initial=0.0) <= _MAX_STATE):
        raise ValueError("states that are not finite, or out of all proportion")
    if wire == "f32":
        return states.astype("<f4", copy=False).tobytes()
    return _pack_halves(states, largest) if wire == "f16" else _pack_bytes(states)


def unpack_states(buffer: bytes, num_positions: int, width: int, wire: str) -> NDArray[np.float32]:
    """The states, float32 [num_positions, width] (f32: read-only). Raises PeerMisbehaved: wrong size, not finite."""
    if wire not in WIRE_TYPES:
        raise PeerMisbehaved(f"unknown wire type {wire!r}")
    size_bytes = num_positions * row_bytes(width, wire)
    if len(buffer) != size_bytes:
        raise PeerMisbehaved(f"{len(buffer)} bytes for states [{num_positions}, {width}] in {wire}, not {size_bytes}")
    with np.errstate(over="ignore", invalid="ignore"):
        if wire == "f32":
            states = np.frombuffer(buffer, "<f4").astype(np.float32, copy=False).reshape(num_positions, width)
        else:
            unpack = _unpack_halves if wire == "f16" else _unpack_bytes
            states = unpack(buffer, num_positions, width)
    if not np.isfinite(states).all():
        raise PeerMisbehaved("states that are not finite")
    return states


def row_bytes(width: int, wire: str) -> int:
    """Of one position's state."""
    if wire == "f32":
        return 4 * width
    return 4 + 2 * width if wire == "f16" else row_bytes(_num_groups(width), "f16") + width


def _pack_halves(states: NDArray[np.float32], largest: NDArray[np.float32]) -> bytes:
    """`largest`: of each row, in size."""
    # Not below the normal floats: their scale must not vanish (and 0 has exponent 0).
    exponents = [max(frexp(one)[1] - _TOP_EXPONENT, -126) for one in largest.tolist()]
    scales = np.array([ldexp(1.0, exponent) for exponent in exponents], "<f4")
    halves = (states / scales[:, None]).astype("<f2")
    return b"".join((scales.tobytes(), halves.tobytes()))


def _unpack_halves(buffer: bytes, num_positions: int, width: int) -> NDArray[np.float32]:
    scales = np.frombuffer(buffer, "<f4", num_positions)[:, None]
    halves = np.frombuffer(buffer, "<f2", num_positions * width, offset=4 * num_positions)
    states = halves.reshape(num_positions, width).astype(np.float32)
    states *= scales
    return states


def _pack_bytes(states: NDArray[np.float32]) -> bytes:
    num_positions, width = states.shape
    largest: NDArray[np.float32] = np.maximum.reduceat(np.abs(states), range(0, width, _GROUP), axis=1)
    exact = (largest / _MAX_BYTE).astype(np.float32, copy=False)
    packed = _pack_halves(exact, exact.max(axis=1, initial=0.0))
    steps = _spread(_unpack_halves(packed, num_positions, _num_groups(width)), width)  # as the other end has them
    ratios = np.divide(states, steps, out=np.zeros_like(states), where=steps > 0)
    return packed + np.clip(np.rint(ratios), -_MAX_BYTE, _MAX_BYTE).astype(np.int8).tobytes()


def _unpack_bytes(buffer: bytes, num_positions: int, width: int) -> NDArray[np.float32]:
    steps = _spread(_unpack_halves(buffer, num_positions, _num_groups(width)), width)
    offset = num_positions * row_bytes(_num_groups(width), "f16")
    whole = np.frombuffer(buffer, np.int8, num_positions * width, offset=offset)
    steps *= whole.reshape(num_positions, width)
    return steps


def _num_groups(width: int) -> int:
    return -(-width // _GROUP)


def _spread(steps: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Each group's step at each of its values."""
    return np.repeat(steps, _GROUP, axis=1)[:, :width]

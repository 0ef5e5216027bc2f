from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dsdnode.errors import PeerMisbehaved
from dsdnode.wire.messages import WIRE_TYPES
from dsdnode.wire.numbers import pack_tokens, unpack_tokens
from dsdnode.wire.tensors import pack_states, row_bytes, unpack_states

FINITE = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(width=32, min_value=-(2.0**126), max_value=2.0**126),
)


def round_trip(states: np.ndarray, wire: str) -> np.ndarray:
    num_positions, width = states.shape
    return unpack_states(pack_states(states, wire), num_positions, width, wire)


def test_golden_bytes() -> None:
    states = np.array([[1.0, -0.5], [0.0, 131072.0]], np.float32)
    assert pack_states(states, "f32").hex() == "0000803f000000bf" + "0000000000000048"
    # Scales 2^-14 and 2^3, then 2^14, -2^13, 0, 2^14 as halves.
    assert pack_states(states, "f16").hex() == "00008038" + "00000041" + "007400f0" + "00000074"
    # A step a row, 1/127 and 131072/127, packed as f16 (here with the scales 2^-21, 2^-4); then the multiples.
    assert pack_states(states, "q8").hex() == "00000035" + "0000803d" + "0874" + "0874" + "7fc0" + "007f"
    assert pack_tokens([1, 258]).hex() == "0100000002010000"


@settings(deadline=None)
@given(FINITE)
def test_f32_is_exact(states: np.ndarray) -> None:
    assert np.array_equal(round_trip(states, "f32"), states)


@settings(deadline=None)
@given(FINITE)
def test_f16_keeps_eleven_bits_whatever_the_range(states: np.ndarray) -> None:
    back = round_trip(states, "f16")
    # Half an ulp of the value, or of the least float16 where a value is tiny against the largest of its row.
    largest = np.abs(states).max(axis=1, keepdims=True).astype(np.float64)
    allowed = np.maximum(np.abs(states.astype(np.float64)) * 2.0**-11, largest * 2.0**-38)
    assert (np.abs(back.astype(np.float64) - states) <= np.maximum(allowed, 2.0**-149)).all()


@settings(deadline=None)
@given(FINITE, st.sampled_from([1, 7, 40]))
def test_q8_errs_by_half_a_step_of_the_group(states: np.ndarray, times: int) -> None:
    states = np.repeat(states, times, axis=1)  # rows of less than a group, and of several
    width = states.shape[1]
    back = round_trip(states, "q8").astype(np.float64)
    largest = np.abs(states).max(axis=1).astype(np.float64)
    for start in range(0, width, 32):
        group = states[:, start : start + 32].astype(np.float64)
        allowed = np.maximum(np.abs(group).max(axis=1) / 127 * 0.57, np.maximum(largest * 2.0**-30, 2.0**-120))
        assert (np.abs(back[:, start : start + 32] - group).max(axis=1) <= allowed).all()


def test_an_outlier_costs_only_its_own_group_the_precision() -> None:
    states = np.full((1, 64), 0.01, np.float32)
    states[0, 3] = 1000.0
    back = round_trip(states, "q8")
    assert np.allclose(back[0, 32:], 0.01, rtol=1e-3)
    assert np.allclose(back[0, 3], 1000.0, rtol=1e-3)


def test_digits_survive_every_type() -> None:
    digits = np.array([[digit] * 3 + [0, 15] for digit in range(16)] + [[digit] * 5 for digit in range(16)], np.float32)
    for wire in WIRE_TYPES:
        assert np.array_equal(np.rint(round_trip(digits, wire)), digits)


def test_sizes_of_a_position() -> None:
    for wire, size_bytes in (("f32", 16384), ("f16", 8196), ("q8", 4356)):
        assert len(pack_states(np.ones((3, 4096), np.float32), wire)) == 3 * size_bytes == 3 * row_bytes(4096, wire)


def test_no_rows_at_all() -> None:
    for wire in WIRE_TYPES:
        assert unpack_states(pack_states(np.zeros((0, 8), np.float32), wire), 0, 8, wire).shape == (0, 8)


def test_states_that_are_not_what_the_header_claims() -> None:
    states = np.ones((3, 4), np.float32)
    for wire in WIRE_TYPES:
        packed = pack_states(states, wire)
        for num_positions, width in ((2, 4), (3, 5), (4, 3), (6, 2)):
            if wire != "f32" or num_positions * width != 12:
                with pytest.raises(PeerMisbehaved):
                    unpack_states(packed, num_positions, width, wire)
        with pytest.raises(PeerMisbehaved):
            unpack_states(packed[:-1], 3, 4, wire)
    with pytest.raises(PeerMisbehaved, match="q4"):
        unpack_states(packed, 3, 4, "q4")


def test_states_that_are_not_finite() -> None:
    half = np.array([0x7C00, 0x7E00, 0x7BFF], "<u2").tobytes()
    for scale in (1.0, np.inf, np.nan, 3e38):
        with pytest.raises(PeerMisbehaved, match="finite"):
            unpack_states(np.array([scale], "<f4").tobytes() + half, 1, 3, "f16")
        with pytest.raises(PeerMisbehaved, match="finite"):
            unpack_states(np.array([scale], "<f4").tobytes() + half[:2] + b"\x7f", 1, 1, "q8")
    for bad in (np.nan, np.inf, -np.inf):
        raw = np.array([[0, bad]], np.float32)
        with pytest.raises(PeerMisbehaved, match="finite"):
            unpack_states(raw.tobytes(), 1, 2, "f32")
        for wire in WIRE_TYPES:
            with pytest.raises(ValueError, match="finite"):
                pack_states(raw, wire)
    for wire in WIRE_TYPES:
        with pytest.raises(ValueError, match="proportion"):
            pack_states(np.full((1, 1), 3.4e38, np.float32), wire)


def test_states_that_we_would_not_send() -> None:
    with pytest.raises(ValueError):
        pack_states(np.zeros(4, np.float32), "f32")
    with pytest.raises(ValueError):
        pack_states(np.zeros((1, 4), np.float64), "f32")
    with pytest.raises(ValueError):
        pack_states(np.zeros((1, 4), np.float32), "q4")


def test_tokens() -> None:
    tokens = (0, 5, 9)
    assert unpack_tokens(pack_tokens(tokens), 3, 10) == tokens
    assert unpack_tokens(b"", 0, 10) == ()
    for buffer, num_tokens, vocab_size in (
        (pack_tokens(tokens), 3, 9),
        (pack_tokens([-1]), 1, 9),
        (b"123", 1, 9),
        (b"", 1, 9),
    ):
        with pytest.raises(PeerMisbehaved):
            unpack_tokens(buffer, num_tokens, vocab_size)

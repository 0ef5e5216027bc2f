"""Packets of a worker's process: it may be mallory's, whose model file has taken it over."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from dsdnode.engine import ipc
from dsdnode.engine.port import Output

WIDTH = 4
ROWS = np.ones((2, WIDTH), np.float32)


def _told(
    body: bytes, counts: list[int], *, states: bool = False, runners_up: bool = False, num_top: int = 0
) -> list[Output]:
    """What the daemon makes of it."""
    packet = ipc.Outputs(counts, states, 0.1, [runners_up] * len(counts), [num_top] * len(counts))
    response = ipc.read_response(msgspec.msgpack.encode(packet))
    assert isinstance(response, ipc.Outputs)
    return ipc.unpack_outputs(response, body, WIDTH)


def test_an_honest_worker_is_read() -> None:
    [output] = _told(ROWS.tobytes(), [2], states=True)
    assert output.states is not None and np.array_equal(output.states, ROWS)


@pytest.mark.parametrize("count", [-1, -2, -(1 << 62), (1 << 24) + 1, 1 << 62])
def test_a_number_of_rows_that_cannot_be_is_garbage(count: int) -> None:
    """-1 was read as "whatever there is": mallory's rows would have passed for as many as were asked for."""
    for states in (True, False):
        with pytest.raises((ValueError, msgspec.DecodeError)):
            _told(ROWS.tobytes(), [count], states=states)


@pytest.mark.parametrize("num_top", [-1, -3, 1 << 62])
def test_a_number_of_likely_tokens_that_cannot_be_is_garbage(num_top: int) -> None:
    with pytest.raises((ValueError, msgspec.DecodeError)):
        _told(bytes(64), [2], num_top=num_top)


@pytest.mark.parametrize(("body", "counts"), [(b"", [1]), (bytes(7), [1]), (bytes(8), [1, 1]), (bytes(4), [1 << 20])])
def test_rows_that_are_not_there_are_garbage(body: bytes, counts: list[int]) -> None:
    with pytest.raises(ValueError):
        _told(body, counts)

"""Packets of a worker's process: it may be mallory's, whose model file has taken it over."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from dsdnode.engine import arrays, ipc, text
from dsdnode.engine.port import Chunk, Output, States, Top, check_outputs
from dsdnode.errors import EngineLost
from dsdnode.speculation.sampling import Sampling
from tests.fuzz.engine import SHARD

WIDTH = 4
ROWS = np.ones((2, WIDTH), np.float32)


def _told(
    body: bytes, counts: list[int], *, states: bool = False, runners_up: bool = False, num_top: int = 0
) -> list[Output]:
    """What the daemon makes of it."""
    packet = ipc.Outputs(
        counts,
        states,
        0.1,
        [runners_up] * len(counts),
        [num_top] * len(counts),
        [-1] * len(counts),
        [None] * len(counts),
    )
    response = ipc.read_response(msgspec.msgpack.encode(packet))
    assert isinstance(response, ipc.Outputs)
    return arrays.unpack_outputs(response, body, WIDTH)


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


FIRST = replace(SHARD, end=SHARD.num_layers - 1)
ASKED = [Chunk(0, 0, np.arange(3, dtype=np.int32), 2, Sampling(), 1, True, num_top=2)]
"""Alice's: three draws, with second choices and the two most likely."""
LAST = replace(SHARD, start=0, end=SHARD.num_layers)


def answer(num: int = 3, highest: int = 5, num_top: int = 2, runners_up: bool = True) -> Output:
    ids, chances = np.full(num, highest, np.int32), np.ones(num, np.float32)
    top = Top(np.full((num, num_top), highest, np.int32), np.ones((num, num_top), np.float32), chances)
    second, second_chances = (ids, chances) if runners_up else (None, None)
    return Output(None, ids, chances, 0.1, second, second_chances, top if num_top else None)


def test_the_answer_to_what_was_asked_fits() -> None:
    check_outputs([answer()], ASKED, LAST)
    check_outputs([Output(ROWS, None, None, 0.1)], [Chunk(0, 0, ROWS)], FIRST)


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [answer(), answer()],
        [answer(2)],
        [answer(0)],
        [answer(highest=SHARD.vocab_size)],
        [answer(highest=-1)],
        [answer(num_top=0)],
        [answer(num_top=1)],
        [answer(runners_up=False)],
        [Output(ROWS, None, None, 0.1)],
    ],
)
def test_what_was_not_asked_is_garbage(outputs: list[Output]) -> None:
    with pytest.raises(ValueError):
        check_outputs(outputs, ASKED, LAST)


@pytest.mark.parametrize("states", [ROWS[:1], ROWS[:, :1], None])
def test_nor_are_other_rows(states: States | None) -> None:
    with pytest.raises(ValueError):
        check_outputs([Output(states, np.zeros(2, np.int32), None, 0.1)], [Chunk(0, 0, ROWS)], FIRST)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_decode_that_took_no_time_that_there_is_is_garbage(seconds: float) -> None:
    """It would be published as this peer's speed."""
    with pytest.raises(msgspec.ValidationError):
        ipc.read_response(msgspec.msgpack.encode(ipc.Outputs([1], False, seconds, [False], [0], [-1], [None])))


@pytest.mark.parametrize(
    ("told", "body"),
    [
        (ipc.Vocabulary(2, [1], True, {}), b"\1\0\0\0" * 2 + b"a"),
        (ipc.Vocabulary(2, [1], True, {}), b"\1\0\0\0" * 2 + b"abc"),
        (ipc.Vocabulary(2, [1], True, {}), b"\1\0\0\0"),
        (ipc.Vocabulary(2, [2], True, {}), b"\1\0\0\0" * 2 + b"ab"),
        (ipc.Vocabulary(2, [], True, {"<s>": -1}), b"\1\0\0\0" * 2 + b"ab"),
        (ipc.Vocabulary(2, [], True, {"<s>": 1 << 60}), b"\1\0\0\0" * 2 + b"ab"),
        (ipc.Ids(), b"\1\0\0\0" * 2 + b"ab"),
    ],
)
def test_a_vocabulary_that_does_not_fit_together_is_garbage(told: ipc.Response, body: bytes) -> None:
    assert text._vocab(ipc.Vocabulary(2, [1], True, {"<s>": 1}), b"\1\0\0\0" * 2 + b"ab").pieces == [b"a", b"b"]
    with pytest.raises(EngineLost):
        text._vocab(told, body)


@pytest.mark.parametrize(
    ("told", "body"), [(ipc.Done(), b""), (ipc.Ids(), b"\1\0\0"), (ipc.Ids(), b"\2\0\0\0"), (ipc.Ids(), b"\xff" * 4)]
)
def test_ids_that_there_are_not_are_garbage(told: ipc.Response, body: bytes) -> None:
    assert text._ids_of(ipc.Ids(), b"\1\0\0\0", 2) == [1]
    with pytest.raises(EngineLost):
        text._ids_of(told, body, 2)

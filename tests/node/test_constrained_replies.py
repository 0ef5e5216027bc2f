"""A handful of the replies that constrained_replies.py plays by the thousand."""

from __future__ import annotations

from random import Random

from dsdnode.sim import loop as jumping
from tests.node.constrained_replies import SCHEMAS, FakeRuns, is_valid, play


def test_replies_keep_to_their_schemas_whatever_is_lost_and_whoever_dies() -> None:
    runs = FakeRuns(120)
    asks = [runs.ask(number) for number in (1, 6, 7, 9)]
    for run in jumping.run(play(runs.village, Random("village"), asks, runs.vocab), 3600.0):
        assert run.is_right, run
        assert run.end == "stop"


def test_what_is_called_valid_is() -> None:
    assert is_valid('{"name": "x", "age": 7}', SCHEMAS["flat"])
    assert not is_valid('{"name": "x", "age": 7', SCHEMAS["flat"])
    assert not is_valid('{"name": "x", "age": 700}', SCHEMAS["flat"])
    assert not is_valid('{"day": "2024-13-01", "id": "00000000"}', SCHEMAS["formats"])

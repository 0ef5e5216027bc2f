"""What the nemesis counts: the tally of replies, and the line through what daemons take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dsdnode.client.client import Finished, Piece, ReplyStats
from dsdnode.errors import NoPipeline
from tests.node import nemesis
from tests.node.growth import fitted
from tests.node.nemesis import REQUESTS, Tally, ask

RIGHT = "It is 59."


class Told:
    """A client whose reply is known before; after it the end, an error, or nothing for ever."""

    def __init__(self, *texts: str, end: Exception | str = "stop") -> None:
        self.texts, self.end = texts, end

    async def generate(self, request: object) -> AsyncIterator[Piece | Finished]:
        for text in self.texts:
            yield Piece((1,), text, 0)
        if isinstance(self.end, Exception):
            raise self.end
        if self.end == "never":
            await asyncio.Event().wait()
        yield Finished(self.end, ReplyStats(completion_tokens=len(self.texts), acceptance="exact", threshold=0.0))


async def _tally(client: Any) -> Tally:
    tally = Tally()
    await ask(client, REQUESTS[0], tally, RIGHT)
    assert len(tally.pauses_s) == 1
    return tally


async def test_a_whole_reply_is_the_one_of_peace_or_differs() -> None:
    right, wrong = await _tally(Told("It is", " 59.")), await _tally(Told("It is", " 60."))
    assert (right.num_whole, right.differ) == (1, [])
    assert (wrong.num_whole, len(wrong.differ)) == (1, 1)
    assert len((await _tally(Told("It is"))).differ) == 1, "whole, and too short"


async def test_what_came_before_an_error_is_a_beginning_or_differs() -> None:
    gone = NoPipeline("nobody hosts layers 4:8 of a1b2c3")
    right, wrong = await _tally(Told("It is", end=gone)), await _tally(Told("It was", end=gone))
    assert right.errors == {"NoPipeline: nobody hosts layers ... of ...": 1}
    assert (right.num_whole, right.differ, len(wrong.differ)) == (0, [], 1)


async def test_a_reply_without_an_end_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemesis, "STUCK_S", 0.01)
    tally = await _tally(Told("It is", end="never"))
    assert (tally.num_stuck, tally.num_whole, tally.differ) == (1, 0, [])


def test_a_line_through_what_grows_and_what_does_not() -> None:
    places = [0.0, 100, 200, 300, 400]
    grows = fitted(places, [50.0, 51, 52, 53, 54])
    assert grows.slope == pytest.approx(10) and grows.error == pytest.approx(0, abs=1e-6)
    assert grows.first == pytest.approx(50) and grows.last == pytest.approx(54)
    stays = fitted(places, [60.0, 61, 60, 61, 60])
    assert abs(stays.slope) < 2 * stays.error

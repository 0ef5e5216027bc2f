"""What the nemesis counts: the tally of replies, and what daemons take of their machine."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import psutil
import pytest

from dsdnode.client.client import Finished, Piece, ReplyStats
from dsdnode.errors import NoPipeline
from tests.node import nemesis
from tests.node.growth import DIALLED, THREADS, Vitals, fitted
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


NUM_SAMPLES = 20


def _told(what: str, value: Callable[[float], float]) -> list[str]:
    """Of bob, who is one of three and has a client: what takes `value` after each 50 of a thousand replies."""
    vitals = Vitals()
    vitals.at = [50.0 * i for i in range(NUM_SAMPLES + 1)]
    noise = Random(what)
    for name in ("alice", "bob", "carol"):
        steady = {"threads": 9.0, "descriptors, no links": 21.0, "links to one peer": 2.0, "links from others": 5.0}
        values = {other: [number] * len(vitals.at) for other, number in steady.items()}
        values["daemon, MiB"] = [43 + noise.uniform(-0.05, 0.05) for _ in vitals.at]
        vitals.values |= {(name, other): list(numbers) for other, numbers in values.items()}
    vitals.values["bob", what] = [value(number) + noise.uniform(-0.05, 0.05) * ("MiB" in what) for number in vitals.at]
    return vitals.grown()


def test_nothing_has_grown_of_what_stays_or_levels_off() -> None:
    assert _told("threads", lambda num: 5 + (num > 500)) == [], "a file was read"
    assert _told("daemon, MiB", lambda num: 40 + min(num, 400) / 100) == [], "caches that fill to their bounds"
    assert _told("daemon, MiB", lambda num: 40 + 0.3 * (num > 700)) == [], "a step of malloc's"
    assert _told("descriptors, no links", lambda num: 21 + 4 * (num in (550, 800))) == [], "calls that came and went"
    assert _told("links from others", lambda num: 3 + 3 * (num > 500)) == [], "lanes that were not needed before"


def test_what_has_grown_is_told_with_who_it_is() -> None:
    assert _told("descriptors, no links", lambda num: 21 + num // 250) == [
        "bob, descriptors, no links: from 21.5 to 24"
    ]
    [told] = _told("threads", lambda num: THREADS + num // 100)
    assert told.startswith("bob, threads: ") and told.endswith(f", of {THREADS} that there can be")
    assert _told("links to one peer", lambda num: 1 + num // 300) == [
        "bob, links to one peer: 3, of 2 that there can be"
    ]
    assert _told("links from others", lambda num: 2 + num // 100) == [
        "bob, links from others: 9, of 6 that there can be"
    ]
    [told] = _told("daemon, MiB", lambda num: 40 + 1.5 * num / 1000)
    assert told.startswith("bob, daemon, MiB: from 40.7")


def test_a_real_process_is_looked_at() -> None:
    """This one, which opens a file and links to carol."""
    with socket.create_server(("127.0.0.1", 0)) as carol:
        port = carol.getsockname()[1]
        vitals, me = Vitals({port: "carol"}), psutil.Process()
        before = vitals._look(me)
        with socket.create_connection(("127.0.0.1", port)), open(os.devnull):
            there, _ = carol.accept()
            with there:
                after = vitals._look(me)
    assert after["links to one peer"] == before["links to one peer"] + 1
    assert after["links from others"] == before["links from others"] + 1
    assert after["descriptors"] == before["descriptors"] + 3
    # Ours to carol is no libzmq's, so it is counted for more than it has.
    assert after["descriptors, no links"] == before["descriptors, no links"] + 2 - DIALLED
    assert after["daemon, MiB"] > 10 and after["threads"] >= 1

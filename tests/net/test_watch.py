"""The watch over a node's memory goes on, whatever a look at it comes to."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import NoReturn

import psutil
import pytest

from dsdnode.net import watch as watching
from dsdnode.net.watch import FLOOD_BYTES_S, INTERVAL_S, SETTLE_S, MemoryWatch, ResidentSize
from dsdnode.net.zmq import MEMORY_LIMIT_BYTES
from tests.node import jumping

LIMIT_BYTES = 1000
TAKEN_BYTES = 16 << 20


def watched(
    sizes: list[int | Exception],
    excess: Callable[[], None] = lambda: None,
    remedy: Callable[[], bool] = lambda: True,
) -> int:
    """How often `excess` was called, when each look is answered so, and the last answer for ever."""
    calls: list[int] = []

    def num_bytes() -> int:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        if isinstance(size, Exception):
            raise size
        return size

    def on_excess() -> None:
        calls.append(1)
        excess()

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        patch = pytest.MonkeyPatch()
        patch.setattr(watching, "ResidentSize", lambda: SimpleNamespace(num_bytes=num_bytes, close=lambda: None))
        watch = MemoryWatch(LIMIT_BYTES, remedy, on_excess)
        patch.undo()
        await asyncio.sleep(INTERVAL_S * 12 + 2 * SETTLE_S)
        watch.close()

    jumping.run(story())
    return len(calls)


@pytest.mark.parametrize(
    "trouble",
    [OSError(24, "Too many open files"), psutil.AccessDenied(), psutil.NoSuchProcess(1), MemoryError()],
)
def test_a_look_that_fails_is_not_the_last_one(trouble: Exception) -> None:
    assert watched([0, trouble, trouble, 500, trouble, 2000, trouble, 2000, 0]) == 1
    assert watched([trouble, trouble, 100, 1200]) == 1  # nor is the first one
    assert watched([trouble]) == 0


def test_whatever_becomes_of_an_excess_the_next_one_is_seen() -> None:
    def bad_day() -> NoReturn:
        raise RuntimeError("no descriptor left to listen with")

    assert watched([0, 2000, 2000, 2000, 9000, 9000], bad_day) == 2
    assert watched([0, 2000, 2000, 2000, 9000, 9000], remedy=bad_day) == 2


def test_who_is_helped_by_the_remedy_needs_nothing_more() -> None:
    remedies: list[int] = []

    def remedy() -> bool:
        remedies.append(1)
        return True

    assert watched([0, 2000, 0, 2000, 500], remedy=remedy) == 0
    assert len(remedies) == 2


def test_where_no_remedy_is_known_nothing_is_waited_for() -> None:
    assert watched([0, 2000, 2000, 2000, 0], remedy=lambda: False) == 1
    assert watched([0, 2000, 2000, 0], remedy=lambda: True) == 1


@pytest.mark.parametrize("file", [True, False])
def test_what_is_taken_is_seen_with_and_without_a_file_to_read_it_from(
    file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor(*arguments: object) -> NoReturn:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        if not file:
            patch.setattr(os, "open", no_descriptor)
        size = ResidentSize()
    before = size.num_bytes()
    with mmap.mmap(-1, TAKEN_BYTES) as taken:  # (the heap may have as much to spare)
        taken.write(b"." * TAKEN_BYTES)
        grown = size.num_bytes() - before
    size.close()
    assert TAKEN_BYTES / 2 < grown < 3 * TAKEN_BYTES


@pytest.mark.parametrize("begins_s", [1.0, 1.05, 1.1, 1.15, 1.199])
@pytest.mark.parametrize("flood", [FLOOD_BYTES_S, FLOOD_BYTES_S / 20])
def test_where_there_is_room_looks_are_rare_and_a_flood_is_seen_as_soon(
    begins_s: float, flood: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_s = 0.0
    looks_s: list[float] = []
    seen: list[float] = []

    def size() -> float:
        return max(0.0, asyncio.get_running_loop().time() - start_s - begins_s) * flood

    def num_bytes() -> float:
        looks_s.append(asyncio.get_running_loop().time() - start_s)
        return size()

    def remedy() -> bool:
        seen.append(size())
        return True

    async def story() -> None:
        nonlocal start_s
        start_s = asyncio.get_running_loop().time()
        monkeypatch.setattr(watching, "ResidentSize", lambda: SimpleNamespace(num_bytes=num_bytes, close=lambda: None))
        watch = MemoryWatch(MEMORY_LIMIT_BYTES, remedy, lambda: None)
        await asyncio.sleep(begins_s + 2 * MEMORY_LIMIT_BYTES / flood)
        watch.close()

    jumping.run(story())
    assert MEMORY_LIMIT_BYTES < seen[0] <= MEMORY_LIMIT_BYTES + flood * INTERVAL_S * 1.001
    assert sum(look_s < 1.0 for look_s in looks_s) < 8

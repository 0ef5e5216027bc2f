"""Waiting for an event or a time: none of three ways to be woken is lost."""

from __future__ import annotations

import asyncio

import pytest

from dsdnode.swarm.queries import wait_until


async def test_the_event_wakes() -> None:
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.call_soon(event.set)
    async with asyncio.timeout(5):
        await wait_until(event, loop.time() + 3600)


async def test_the_time_wakes() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        await wait_until(asyncio.Event(), loop.time())


async def test_a_cancellation_is_not_lost_though_the_time_is_past() -> None:
    loop = asyncio.get_running_loop()
    went_on = False

    async def wait() -> None:
        nonlocal went_on
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # as a Ctrl-C that comes while the program is busy
        await wait_until(asyncio.Event(), loop.time() - 1)
        went_on = True

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())
    assert not went_on

"""Waiting for an event or a time, whichever comes first, without losing a cancellation."""

from __future__ import annotations

import asyncio


async def wait_until(event: asyncio.Event, when_s: float) -> None:
    """Return when `event` is set; at `when_s` of the loop's time it is set here.

    Not `asyncio.timeout`: in Python 3.11 a cancellation that is pending on entry to one that is due already comes out
    as TimeoutError; whoever suppresses that goes on, and whoever cancelled waits for ever.
    """
    timer = asyncio.get_running_loop().call_at(when_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()

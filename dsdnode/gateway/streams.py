"""Replies that are sent as they come: server-sent events or lines of JSON, with signs of life while nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dsdnode.gateway.answers import unless_hung_up

log = structlog.get_logger(__name__)

FIRST_S = 10.0
"""A status can be told as long as nothing was sent; proxies and programs do not wait much longer for a first byte."""
PING_S = 10.0
PING = b": ping\n\n"
"""A comment, which every reader of server-sent events skips."""

_ENCODER = msgspec.json.Encoder()


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event; msgspec's JSON has no line breaks."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + _ENCODER.encode(data) + b"\n\n"


def line(data: Any) -> bytes:
    """One line of NDJSON."""
    return _ENCODER.encode(data) + b"\n"


async def streamed(
    request: Request,
    parts: AsyncGenerator[bytes, None],
    tell: Callable[[Exception], bytes],
    *,
    media_type: str = "text/event-stream",
    ping: bytes = PING,
) -> Response:
    """`parts` as they come. What fails before the first of them is raised, so that it gets a status of its own; later
    `tell` says it. `ping` is sent when nothing has come for a while; b"": nothing is."""
    first: asyncio.Task[bytes | None] = asyncio.ensure_future(_next(parts))
    try:
        await unless_hung_up(request, _at_most(first, FIRST_S))
    except BaseException:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await parts.aclose()
        raise
    body = _body(parts, first, tell, ping)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(body, media_type=media_type, headers=headers)


async def _body(
    parts: AsyncGenerator[bytes, None],
    first: asyncio.Task[bytes | None],
    tell: Callable[[Exception], bytes],
    ping: bytes,
) -> AsyncGenerator[bytes, None]:
    coming: asyncio.Task[bytes | None] = first
    try:
        while True:
            await _at_most(coming, PING_S)
            if not coming.done():
                if ping:
                    yield ping
                continue
            part = coming.result()
            if part is None:
                return
            yield part
            coming = asyncio.ensure_future(_next(parts))
    except Exception as error:
        log.info("a stream ended early", reason=str(error))
        yield tell(error)
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await parts.aclose()


async def _next(parts: AsyncGenerator[bytes, None]) -> bytes | None:
    """None at the end."""
    return await anext(parts, None)


async def _at_most(task: Awaitable[Any], timeout_s: float) -> None:
    """Waits for it, not for longer; it goes on. Raises what it raises."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), timeout_s)

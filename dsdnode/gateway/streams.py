"""Replies that are sent as they come: server-sent events or lines of JSON, with signs of life while nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dsdnode.errors import DsdError, NotRunning
from dsdnode.gateway.answers import ENDS, unless_hung_up

log = structlog.get_logger(__name__)

FIRST_S = 10.0
"""A status can be told as long as nothing was sent; proxies and programs do not wait much longer for a first byte."""
PING_S = 10.0
LAST_WORD_S = 1.0
"""Whoever reads nothing does not hold up the gateway's end."""
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
    coming = _Coming(parts)
    try:
        await unless_hung_up(request, _at_most(coming.next, FIRST_S))
    except BaseException:
        await coming.aclose()
        raise
    return _Streamed(coming, tell, ping, media_type)


class _Coming:
    """The next part, awaited by a task of its own: a ping in between does not end it."""

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        self._parts = parts
        self.next = self._ask()

    def _ask(self) -> asyncio.Task[bytes | None]:
        return asyncio.ensure_future(_next(self._parts))

    def take(self) -> bytes | None:
        """None at the end. Raises what the reply has ended with. The next one is asked for."""
        part = self.next.result()
        if part is not None:
            self.next = self._ask()
        return part

    async def aclose(self) -> None:
        self.next.cancel()
        await asyncio.gather(self.next, return_exceptions=True)
        await self._parts.aclose()


class _Streamed(StreamingResponse):
    """Ends the reply on whichever way it is left: also where the client has hung up before a byte was sent, when
    nothing would ever iterate the body, and nobody end it."""

    def __init__(self, coming: _Coming, tell: Callable[[Exception], bytes], ping: bytes, media_type: str) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_body(coming, tell, ping), media_type=media_type, headers=headers)
        self._coming, self._tell = coming, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:  # the gateway ends; who hangs up does not come out here
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    await send({"type": "http.response.body", "body": self._tell(NotRunning(ENDS)), "more_body": False})
        finally:
            await self._coming.aclose()


async def _body(coming: _Coming, tell: Callable[[Exception], bytes], ping: bytes) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            await _at_most(coming.next, PING_S)
            if coming.next.done():
                part = coming.take()
                if part is None:
                    return
                yield part
            elif ping:
                yield ping
    except DsdError as error:
        log.info("a stream ended early", reason=str(error))
        yield tell(error)
    except Exception as error:
        log.exception("bug in the gateway")
        yield tell(error)


async def _next(parts: AsyncGenerator[bytes, None]) -> bytes | None:
    """None at the end."""
    return await anext(parts, None)


async def _at_most(task: asyncio.Task[Any], timeout_s: float) -> None:
    """Waits for it, not for longer; it goes on. Raises what it raises."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), timeout_s)

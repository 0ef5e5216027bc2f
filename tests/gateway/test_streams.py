"""A stream on its way, without a server: what becomes of its reply when it is left, and of what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import structlog
from starlette.requests import Request

from dsdnode.errors import NoPipeline
from dsdnode.gateway import streams

SCOPE: Any = {"type": "http", "method": "POST", "path": "/", "headers": [], "asgi": {"spec_version": "2.3"}}


async def _nothing() -> Any:
    await asyncio.Event().wait()


async def _hung_up() -> Any:
    return {"type": "http.disconnect"}


def _told(error: Exception) -> bytes:
    return f"told: {type(error).__name__}".encode()


async def test_a_client_that_hung_up_before_a_byte_was_sent_went_on_costing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_S", 0.01)
    left = False

    async def parts() -> AsyncGenerator[bytes, None]:
        nonlocal left
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            left = True

    async def full(message: Any) -> None:
        await asyncio.Event().wait()

    answer = await streams.streamed(Request(SCOPE, _nothing), parts(), _told)
    assert not left
    await answer(SCOPE, _hung_up, full)
    assert left


@pytest.mark.parametrize(("error", "level"), [(NoPipeline("no more"), "info"), (KeyError("x"), "error")])
async def test_what_ends_a_stream_is_told_and_a_bug_is_logged_as_one(error: Exception, level: str) -> None:
    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise error

    said: list[bytes] = []

    async def send(message: Any) -> None:
        said.append(message.get("body", b""))

    with structlog.testing.capture_logs() as logs:
        await (await streams.streamed(Request(SCOPE, _nothing), parts(), _told))(SCOPE, _nothing, send)
    assert b"".join(said) == b"one" + _told(error)
    assert [(entry["log_level"], entry.get("exc_info", False)) for entry in logs] == [(level, level == "error")]

"""Who holds a connection without asking, or asks without end."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from dsdnode.gateway import bodies, server
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.server import Gateway
from dsdnode.swarm.info import ModelInfo
from tests.gateway.conftest import MODEL, WAIT, ScriptedSwarm, Served, hello

CHAT = "/v1/chat/completions"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def _request(**more: Any) -> bytes:
    body = json.dumps(hello(**more)).encode()
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


async def _said(served: Served, parts: list[bytes], every_s: float) -> bytes:
    """What the server says until it hangs up on who sends these parts one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(every_s)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:  # (what was on its way to it then)
        return b""
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await sending
        writer.close()


@pytest.mark.parametrize("parts", [[], [HEAD[num : num + 1] for num in range(len(HEAD))]])
async def test_who_does_not_say_what_he_asks_is_hung_up_on(
    served: Served, monkeypatch: pytest.MonkeyPatch, parts: list[bytes]
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.2)
    assert await _said(served, parts, 0.02) == b""


async def test_a_body_that_does_not_come_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.1)
    said = await _said(served, [HEAD + b"connection: close\r\ncontent-length: 100\r\n\r\n{"], 0.0)
    assert said.startswith(b"HTTP/1.1 400") and b"had not come" in said


async def test_a_reply_that_nobody_reads_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory asks for long ones and reads nothing: each would keep its place, and a connection, for ever."""
    monkeypatch.setattr(server, "READ_S", 0.05)
    served.swarm.script = [*["x" * (1 << 18)] * 64, WAIT]
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        deaf.sendall(_request(stream=True))
        async with asyncio.timeout(5):
            await served.swarm.left.wait()


async def test_who_sends_too_much_hears_so(served: Served) -> None:
    """Also if he wants to hang up after it: he sends on when the gateway has heard enough."""
    size = 3 * bodies.MAX_BODY_BYTES
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % size
    assert b"longer than 4 MiB" in await _said(served, [head, *[b" " * (size // 16)] * 16], 0.0)


async def test_who_reads_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob's line takes some of a long answer at a time, and then no more."""
    monkeypatch.setattr(server, "READ_S", 0.0)
    left, aborted = iter([9, 8, 3, 3]), asyncio.Event()
    connection = server.Connection.__new__(server.Connection)
    connection.loop = asyncio.get_running_loop()
    connection.transport = Mock(abort=aborted.set, get_write_buffer_size=lambda: next(left))
    connection._await_reader(0)
    async with asyncio.timeout(5):
        await aborted.wait()
    assert next(left, None) is None


@pytest.mark.parametrize("more", [b"\r\n", _request()])
async def test_who_sends_more_than_he_asked_is_heard_when_he_hangs_up(served: Served, more: bytes) -> None:
    """Old clients end a body with a line's end; others ask the next thing before they are answered."""
    served.swarm.script = [WAIT]
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(_request())
    async with asyncio.timeout(5):
        await served.swarm.began.wait()
        writer.write(more)
        writer.close()
        await served.swarm.left.wait()


async def test_a_connection_serves_one_request_after_another(served: Served) -> None:
    for _ in range(3):
        assert (await served.http.post("/v1/chat/completions", json=hello())).status_code == 200


async def test_who_has_no_key_does_not_have_the_swarm_asked_each_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_looks = 0

    async def models() -> list[ModelInfo]:
        nonlocal num_looks
        num_looks += 1
        return [MODEL]

    monkeypatch.setattr(served.swarm, "models", models)
    answers = await asyncio.gather(*(served.http.get("/health") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200} and num_looks == 1


async def test_a_reason_has_an_end(served: Served) -> None:
    served.swarm.known = [ModelInfo(f"m{num}", "ef" * 32, 8, (), 0, False, "no layers", False) for num in range(1000)]
    answer = await served.http.get("/health")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert answer.json()["reason"].endswith("and 996 more")


@pytest.mark.parametrize(("path", "last"), [(CHAT, b'data: {"error"'), ("/api/chat", b'{"error"')])
async def test_who_is_not_answered_before_the_gateway_ends_is_told(
    caplog: pytest.LogCaptureFixture, path: str, last: bytes
) -> None:
    """Alice presses Ctrl-C a second time: bob is in the middle of a stream, carol waits for a whole reply."""
    swarm = ScriptedSwarm(["Hel", WAIT])
    gateway = Gateway("127.0.0.1", 0, Rules())
    running = asyncio.create_task(gateway.run(swarm))
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:
        carol = asyncio.create_task(http.post(path, json=hello(model="demo", stream=False)))
        await swarm.began.wait()
        async with http.stream("POST", path, json=hello(model="demo", stream=True)) as bob:
            parts = bob.aiter_bytes()
            heard = [await anext(parts)]
            gateway.stop()
            gateway.stop()
            heard += [part async for part in parts]
        assert heard[-1].startswith(last) and b"was stopped" in heard[-1]
        answer = await carol
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0 and "was stopped" in answer.text
    await running
    assert swarm.left.is_set() and "Traceback" not in caplog.text

"""A gateway on a port of its own, before a swarm that says what a test has it say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest

from dsdnode.client.calls import CallReader
from dsdnode.client.client import Finished, GenerateRequest, Piece, ReplyStats, TextRead
from dsdnode.errors import DsdError
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.server import Gateway
from dsdnode.node.status import NodeStatus
from dsdnode.swarm.info import Coverage, ModelInfo, PeerInfo
from dsdnode.wire.calls import PLAIN, CallFormat

MODEL = ModelInfo("demo", "ef" * 32, 8, (Coverage((0, 8), 1, 1),), 1, True, "", True)
WAIT = object()
"""In a script: nothing comes any more."""


def stats(num_tokens: int, prompt_tokens: int = 12, reused: int = 5) -> ReplyStats:
    return ReplyStats(
        prompt_tokens=prompt_tokens, prompt_tokens_reused=reused, completion_tokens=num_tokens, drafted=6, accepted=4,
        time_to_first_token_s=0.25, tokens_per_second=8.0, passes=2,
    )  # fmt: skip


@dataclass
class ScriptedSwarm:
    """`script`: texts, each a token, or whole Pieces; then an error, WAIT, a Finished, or a reason to end. Calls of
    tools are written in `calls`."""

    script: list[Any] = field(default_factory=lambda: ["Hel", "lo", "stop"])
    asked: list[GenerateRequest] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A reply was ended before its end."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    """It has been asked what a prompt comes to."""
    known: list[ModelInfo] = field(default_factory=lambda: [MODEL])
    num_looks: int = 0
    words: str = ""
    """What it says that each reply waits for, before its first token."""
    others: list[PeerInfo] = field(default_factory=list)
    calls: CallFormat = PLAIN

    async def generate(
        self, request: GenerateRequest, told: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Piece | Finished, None]:
        self.asked.append(request)
        self.began.set()
        reader = CallReader(self.calls, request.tools) if request.tools else None
        try:
            if told is not None and self.words:
                told(self.words)
            for num, said in enumerate(self.script):
                if said is WAIT:
                    await asyncio.Event().wait()
                if isinstance(said, DsdError):
                    raise said
                if isinstance(said, Finished):
                    yield said
                    return
                if isinstance(said, Piece):
                    yield said
                    continue
                is_over = said in ("stop", "length", "context")
                came: list[Any] = [said]
                if reader is not None:
                    came = reader.finish() if is_over else reader.feed(said) or [""]
                for one in came if reader is not None or not is_over else ():
                    text, calls = (one, ()) if isinstance(one, str) else ("", (one,))
                    yield Piece((num,), text, 0, calls=calls)
                if is_over:
                    yield Finished(said, stats(num))
                    return
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise

    async def read_text(self, request: GenerateRequest) -> TextRead:
        """A token a character, and the one that begins a conversation."""
        self.asked.append(request)
        self.reads.set()
        if isinstance(self.script[0], DsdError):
            raise self.script[0]
        if self.script[0] is WAIT:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        if request.prompt_tokens is not None:
            return TextRead(tuple(request.prompt_tokens), "".join(map(chr, request.prompt_tokens)))
        said = request.prompt or "".join(["^", *(one["content"] for one in request.messages)])
        return TextRead(tuple(map(ord, said)), said)

    async def models(self) -> list[ModelInfo]:
        return self.known

    async def peers(self) -> list[PeerInfo]:
        self.num_looks += 1
        return self.others


@dataclass
class Served:
    swarm: ScriptedSwarm
    url: str
    http: httpx.AsyncClient
    here: NodeStatus | None = None
    """The node beside the gateway."""

    async def status(self) -> NodeStatus | None:
        return self.here

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 80

    async def events(self, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
        """(name, data) of each server-sent event; data "[DONE]" as it is."""
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = []
        for block in answer.text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in lines:
                data = lines["data"]
                found.append((lines.get("event", ""), data if data == "[DONE]" else msgspec.json.decode(data)))
        return found


@pytest.fixture
def rules() -> Rules:
    """A test says others by @pytest.mark.parametrize("rules", ...)."""
    return Rules()


@pytest.fixture
async def served(rules: Rules) -> AsyncIterator[Served]:
    swarm = ScriptedSwarm()
    gateway = Gateway("127.0.0.1", 0, rules)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:
        made = Served(swarm, gateway.url, http)
        running = asyncio.create_task(gateway.run(swarm, made.status))
        yield made
    gateway.stop()
    gateway.stop()
    await running


def hello(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], **more}

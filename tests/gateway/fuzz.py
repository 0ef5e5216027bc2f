"""Throws requests at every path of a gateway: whatever is sent, no 500, no traceback, no reply that is left running.

    python -m tests.gateway.fuzz --seconds 300 --seed 7

Bodies are made from the very types that the gateway reads, with values at and beyond their limits, others in their
places, keys that are not known, and bytes that are no JSON. A case is a seed and a number: one that fails is named, and
`--first N --cases 1` plays it again; a run that was ended goes on with `--first`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx
import msgspec
import structlog

from dsdnode.client.calls import CallReader
from dsdnode.client.client import Finished, GenerateRequest, Piece, TextRead
from dsdnode.errors import BadInput, DsdError, ModelRefused, NoPipeline, Overloaded
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.server import Gateway
from dsdnode.swarm.info import ModelInfo, PeerInfo
from dsdnode.wire.calls import PLAIN
from dsdnode.wire.replies import GenerateBody
from tests.gateway.conftest import MODEL, stats

TEXTS = ["", "hi", "ü" * 40, "\x00", "<tool_call>", '{"a": 1}', "a" * 300, "\ud83d\ude00", "user", "tool", "function"]
WRITES = ["Hel", "lo\n", "<tool_call>", '{"name": "add", ', '"arguments": {"a": 1}}', "</tool_call>", "ü", "<", ""]
SCALARS: list[Any] = [None, True, False, 0, 1, -1, 2**31, 2**63, 1e308, -0.5, 0.7, "", "x", "auto", "none", "required"]
ERRORS: list[Callable[[], DsdError]] = [
    lambda: BadInput("no"), lambda: ModelRefused("no"), lambda: NoPipeline("no"), lambda: Overloaded("no"),
]  # fmt: skip
JSON_POSTS = {
    "/v1/chat/completions": ["messages", "tools", "tool_choice", "stream", "stream_options", "n", "stop", "max_tokens",
                             "max_completion_tokens", "response_format", "logprobs", "logit_bias", "functions",
                             "modalities", "parallel_tool_calls", "presence_penalty", "web_search_options",
                             "grammar", "structured_outputs"],
    "/v1/completions": ["prompt", "suffix", "echo", "best_of", "n", "stop", "stream", "max_tokens", "response_format"],
    "/v1/responses": ["input", "instructions", "tools", "tool_choice", "text", "stream", "max_output_tokens",
                      "previous_response_id", "metadata", "background", "conversation"],
    "/v1/messages": ["messages", "system", "tools", "tool_choice", "max_tokens", "stop_sequences", "stream",
                     "output_config", "output_format", "mcp_servers"],
    "/v1/messages/count_tokens": ["messages", "system", "tools", "tool_choice"],
    "/api/chat": ["messages", "tools", "options", "format", "stream", "think"],
    "/api/generate": ["prompt", "system", "raw", "suffix", "images", "options", "format", "stream"],
    "/api/show": ["name"],
    "/tokenize": ["content", "with_pieces"],
    "/detokenize": ["tokens"],
}  # fmt: skip
"""Keys of each, beside those that all have."""
COMMON = ["model", "temperature", "top_p", "top_k", "min_p", "seed", "window", "acceptance", "threshold", "draft_max"]
GETS = [
    "/v1/models",
    "/v1/models/demo",
    "/v1/models/x%2Fy",
    "/api/tags",
    "/api/ps",
    "/api/version",
    "/health",
    "/nothing",
]


class Shaped:
    """Values of the kinds that stand in such bodies, more often right than not."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kinds: dict[str, Callable[[], Any]] = {
            "messages": lambda: self._some(self._message, 4), "tools": lambda: self._some(self._tool, 3),
            "input": lambda: rng.choice([self._text(), self._some(self._item, 4)]), "system": self._content,
            "prompt": lambda: rng.choice([self._text(), [1, 2], [self._text()], [[1], [2]]]),
            "tool_choice": self._choice, "options": lambda: self.body(COMMON, 3),
            "stream": lambda: rng.random() < 0.5, "max_tokens": lambda: rng.choice([1, 9, 1 << 20]),
            "stop": lambda: rng.choice([self._text(), [self._text()]]), "n": lambda: rng.choice([1, 2, 16]),
            "stop_sequences": lambda: [self._text()], "content": self._text, "model": lambda: "demo",
            "tokens": lambda: [rng.randrange(300) for _ in range(4)], "instructions": self._text,
            "stream_options": lambda: {"include_usage": rng.random() < 0.5},
            "text": lambda: {"format": {"type": "text"}},
            "temperature": rng.random, "top_p": rng.random, "min_p": rng.random, "seed": lambda: rng.getrandbits(40),
        }  # fmt: skip

    def body(self, keys: list[str], num: int) -> dict[str, Any]:
        rng = self._rng
        chosen = set(rng.sample(keys, min(len(keys), rng.randint(0, num)))) | set(
            keys[:1] if rng.random() < 0.9 else ()
        )
        if "max_tokens" in keys and rng.random() < 0.8:
            chosen.add("max_tokens")
        return {key: self._value(key) for key in sorted(chosen)}

    def _value(self, key: str) -> Any:
        kind = self._kinds.get(key)
        return kind() if kind is not None and self._rng.random() < 0.9 else self._any(3)

    def _any(self, depth: int) -> Any:
        rng = self._rng
        kind = rng.randrange(6 if depth else 3)
        if kind < 2:
            return rng.choice(SCALARS)
        if kind == 2:
            return rng.choice(TEXTS)
        if kind == 3:
            return [self._any(depth - 1) for _ in range(rng.randrange(3))]
        return {rng.choice(["type", "role", "id", *TEXTS]): self._any(depth - 1) for _ in range(rng.randrange(3))}

    def _text(self) -> str:
        return self._rng.choice(TEXTS)

    def _some(self, make: Callable[[], Any], most: int) -> list[Any]:
        return [make() if self._rng.random() < 0.98 else self._any(2) for _ in range(self._rng.randint(1, most))]

    def _holed(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Now and then a member is missing, or another thing."""
        holed = {key: one for key, one in whole.items() if self._rng.random() < 0.98}
        return {key: one if self._rng.random() < 0.98 else self._any(2) for key, one in holed.items()}

    def _content(self) -> Any:
        rng = self._rng
        part = {"type": rng.choice(["text", "input_text", "image_url", "thinking"]), "text": self._text()}
        used = {"type": "tool_use", "id": "t1", "name": "add", "input": self._any(2)}
        result = {"type": "tool_result", "tool_use_id": "t1", "content": self._text(), "is_error": True}
        return rng.choice([self._text(), None, [self._holed(part)], [self._holed(used)], [self._holed(result)]])

    def _message(self) -> dict[str, Any]:
        rng = self._rng
        function = self._holed({"name": "add", "arguments": rng.choice(["{}", "", "[", '{"a": 1}', {"a": 1}])})
        message = {"role": rng.choice(["user", "assistant", "system", "developer", "tool"]), "content": self._content()}
        if rng.random() < 0.3:
            message["tool_calls"] = [self._holed({"id": "t1", "type": "function", "function": function})]
        if rng.random() < 0.3:
            message |= {"tool_call_id": "t1", "name": "add"}
        return self._holed(message)

    def _item(self) -> dict[str, Any]:
        called = {"type": "function_call", "call_id": "t1", "name": "add", "arguments": "{}"}
        output = {"type": "function_call_output", "call_id": "t1", "output": self._content()}
        return self._holed(self._rng.choice([self._message(), called, output, {"type": "reasoning"}]))

    def _tool(self) -> dict[str, Any]:
        rng = self._rng
        name = rng.choice(["add", "sub", "a b"]) if rng.random() < 0.5 else f"f{rng.randrange(99)}"
        function = self._holed({"name": name, "description": self._text(), "parameters": {"type": "object"}})
        flat = {**function, "input_schema": {"type": "object", "properties": self._any(2)}}
        return rng.choice([{"type": "function", "function": function}, {**flat, "type": "function"}, flat])

    def _choice(self) -> Any:
        kind = self._rng.choice(["auto", "none", "any", "tool", "function", "required"])
        allowed = self._holed({"mode": self._rng.choice(["auto", "required"]), "tools": [{"name": "add"}]})
        return self._rng.choice([kind, {"type": kind, "name": "add"}, {"type": "allowed_tools", **allowed}])


@dataclass
class Swarm:
    """Answers anything: by a few tokens, perhaps a call, or an error; counts replies that are running."""

    rng: random.Random
    running: int = 0
    known: list[ModelInfo] = field(default_factory=lambda: [MODEL])

    async def generate(
        self, request: GenerateRequest, told: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Piece | Finished, None]:
        self.running += 1
        try:
            self._check(request)
            reader = CallReader(PLAIN, request.tools) if request.tools else None
            for num in range(self.rng.randrange(6)):
                await asyncio.sleep(0)
                said: str = self.rng.choice(WRITES)
                for one in reader.feed(said) if reader else [said]:
                    yield Piece((num,), one, 0) if isinstance(one, str) else Piece((num,), "", 0, calls=(one,))
            if self.rng.random() < 0.05:
                raise self.rng.choice(ERRORS)()
            yield Finished(self.rng.choice(["stop", "length", "context"]), stats(3))
        finally:
            self.running -= 1

    async def read_text(self, request: GenerateRequest) -> TextRead:
        self._check(request)
        return TextRead((1, 2), "hi")

    def _check(self, request: GenerateRequest) -> None:
        """What a client would send must be what a drafter takes, or be refused here."""
        from dsdnode.client.request import PendingReply  # a whole client's own check

        pending = PendingReply(request, _Model(), random.Random(1), _Patience())  # type: ignore[arg-type]
        _, body = pending.begin()
        msgspec.msgpack.decode(body, type=GenerateBody)
        if self.rng.random() < 0.1:
            raise self.rng.choice(ERRORS)()

    async def models(self) -> list[ModelInfo]:
        return self.known

    async def peers(self) -> list[PeerInfo]:
        return []


class _Model:
    model_id, name, vocab_size = "ef" * 32, "demo", 1 << 24


class _Patience:
    patience_s = 60.0


def case(rng: random.Random) -> tuple[str, str, bytes]:
    """Method, path, body."""
    if rng.random() < 0.03:
        return rng.choice(["GET", "PUT", "DELETE"]), rng.choice([*GETS, *JSON_POSTS]), b""
    path = rng.choice(list(JSON_POSTS))
    body = Shaped(rng).body([*JSON_POSTS[path], *COMMON], 6)
    if path.startswith("/api/"):
        body.setdefault("model", "demo")
    try:
        data = msgspec.json.encode(body)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        import json

        data = json.dumps(body).encode()
    if rng.random() < 0.05:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(rng.randrange(4)) + data[at + rng.randrange(3) :]
    return "POST", path, data


async def play(seed: int, first: int, cases: int, seconds: float) -> int:
    """Exit code: 1 where a case failed."""
    begun_s, num, told = monotonic(), first, Counter[int]()
    swarm = Swarm(random.Random(seed))
    gateway = Gateway("127.0.0.1", 0, Rules())
    running = asyncio.create_task(gateway.run(swarm))
    failed = 0
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:
        while num - first < cases and monotonic() - begun_s < seconds:
            rng = random.Random(f"{seed} {num}")
            swarm.rng = rng
            method, path, data = case(rng)
            wrong = ""
            try:
                if rng.random() < 0.02:  # somebody hangs up
                    async with http.stream(method, path, content=data) as answer:
                        status = answer.status_code
                else:
                    answer = await http.request(method, path, content=data)
                    status = answer.status_code
                    wrong = _wrong(path, answer)
            except httpx.HTTPError as error:
                status, wrong = 0, f"no answer: {error!r}"
            told[status] += 1
            for _ in range(200):
                if not swarm.running:
                    break
                await asyncio.sleep(0.005)
            if status >= 500 and status != 503:
                wrong = f"status {status}"
            if swarm.running:
                wrong, swarm.running = "a reply is still running", 0
            if wrong:
                failed += 1
                print(f"case {num} (--seed {seed} --first {num} --cases 1): {wrong}\n  {method} {path} {data[:500]!r}")
            num += 1
    gateway.stop()
    gateway.stop()
    await running
    by_status = ", ".join(f"{status}: {count}" for status, count in sorted(told.items()))
    print(f"{num - first} cases in {monotonic() - begun_s:.0f} s, {failed} failed; by status {by_status}; next: {num}")
    return int(failed > 0)


def _wrong(path: str, answer: httpx.Response) -> str:
    """An error is in the envelope of its dialect, and whoever may ask again is told when."""
    if answer.status_code < 400:
        return ""
    try:
        said = answer.json()
    except ValueError:
        return f"{answer.status_code} that is no JSON: {answer.text[:100]!r}"
    if "error" not in said and path != "/health":
        return f"{answer.status_code} without an error: {said}"
    if answer.status_code in (429, 503) and "retry-after" not in answer.headers:
        return f"{answer.status_code} without a time to come again"
    return ""


def _drop(*_: object) -> str:
    raise structlog.DropEvent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1 << 40)
    parser.add_argument("--seconds", type=float, default=300)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # a 500 is a case, which says it
    structlog.configure(processors=[_drop])
    return asyncio.run(play(arguments.seed, arguments.first, arguments.cases, arguments.seconds))


if __name__ == "__main__":
    raise SystemExit(main())

"""Ollama's `POST /api/chat`, `/api/generate`, `/api/show`, `GET /api/tags`, `/api/ps`, `/api/version`: lines of
JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from time import monotonic
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.gateway.answers import Answers, Call, unless_hung_up
from dsdnode.gateway.bodies import Sampled, Stops, TopLogprobs, read, refuse, text_of
from dsdnode.gateway.failures import ollama_error
from dsdnode.gateway.formats import ollama_format
from dsdnode.gateway.logprobs import chat_logprobs
from dsdnode.gateway.openai import model_named, num_logprobs
from dsdnode.gateway.streams import line, streamed
from dsdnode.gateway.tools import Offer, call, chat_tools, offer, settled
from dsdnode.swarm.info import ModelInfo
from dsdnode.wire.logprobs import SaidPosition

NDJSON = "application/x-ndjson"
NEVER = "9999-12-31T23:59:59Z"
Writes = Callable[[str, Sequence[Call]], dict[str, Any]]


class Options(Sampled, kw_only=True):
    num_predict: int | None = None
    """Negative: as long as it likes."""
    stop: Stops = None


class Asked(msgspec.Struct, kw_only=True):
    """What both kinds have. `stream` is on unless it is switched off."""

    model: str
    stream: bool | None = None
    options: Options | None = None
    format: Any = None
    think: Any = None
    keep_alive: Any = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None

    def offer(self) -> Offer:
        """What may be called."""
        return Offer()

    def draw(self, messages: list[dict[str, Any]] | None = None, prompt: str | None = None) -> GenerateRequest:
        refuse({"think": bool(self.think)})
        options = self.options or Options()
        options.model = self.model.removesuffix(":latest")
        most, offered = options.num_predict, self.offer()
        return options.request(
            messages,
            prompt,
            max_tokens=most if most and most > 0 else None,
            stop=options.stop,
            tools=offered.tools,
            logprobs=num_logprobs(self.logprobs, self.top_logprobs),
            constraint=offered.constraint(ollama_format(self.format)),
        )


class CalledFunction(msgspec.Struct):
    name: str
    arguments: dict[str, Any] | None = None


class ToolCall(msgspec.Struct):
    function: CalledFunction
    id: str | None = None


class Message(msgspec.Struct, kw_only=True):
    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: Any = None
    images: Any = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def turn(self, where: str) -> dict[str, Any]:
        """Calls have no ids there: results are told by names. Raises BadInput."""
        refuse({"images": bool(self.images)})
        turn: dict[str, Any] = {"role": self.role, "content": text_of(self.content, where)}
        if self.tool_calls:
            turn["tool_calls"] = [
                call(one.id or f"{where}.{one.function.name}", one.function.name, _json(one.function.arguments or {}))
                for one in self.tool_calls
            ]
        if self.role == "tool":
            turn |= {"name": self.tool_name or "", "tool_call_id": self.tool_call_id or ""}
        return turn


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class ChatBody(Asked, kw_only=True):
    messages: Annotated[list[Message], Meta(max_length=1024)] | None = None
    tools: Any = None

    def offer(self) -> Offer:
        """Raises BadInput."""
        return offer(chat_tools(self.tools), None)

    def asked(self) -> GenerateRequest | None:
        """None: programs say nothing where they only want the model to be loaded, or unloaded. Raises BadInput."""
        if not self.messages:
            return None
        return self.draw(settled(one.turn(f"messages[{index}]") for index, one in enumerate(self.messages)))


class GenerateBody(Asked, kw_only=True):
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    images: Any = None
    context: Any = None
    template: str | None = None

    def asked(self) -> GenerateRequest | None:
        """As ChatBody's."""
        asked = {"suffix": self.suffix, "images": self.images, "context": self.context, "template": self.template}
        refuse({name: bool(value) for name, value in asked.items()})
        if not self.prompt:
            return None
        if self.raw:
            return self.draw(prompt=self.prompt)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self.draw([*system, {"role": "user", "content": self.prompt}])


def _message(text: str, calls: Sequence[Call]) -> dict[str, Any]:
    """Its readers take arguments for an object, and calls for whole."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [{"function": {"name": one.name, "arguments": one.parsed()}} for one in calls]
    return {"message": message}


async def chat(request: Request) -> Response:
    body = await read(request, ChatBody)
    return await _answer(request, body, body.asked(), _message)


async def generate(request: Request) -> Response:
    body = await read(request, GenerateBody)
    return await _answer(request, body, body.asked(), lambda text, _: {"response": text})


async def _answer(request: Request, body: Asked, asked: GenerateRequest | None, written: Writes) -> Response:
    begun_s = monotonic()
    if asked is None:
        await model_named(request, body.model.removesuffix(":latest"))
        reason = "unload" if body.keep_alive in (0, "0", "0s") else "load"
        return JSONResponse({**_head(body.model), **written("", ()), "done": True, "done_reason": reason})
    answers = Answers(request.app.state.swarm, [asked])
    if body.stream is None or body.stream:
        lines = _lines(answers, body.model, written, begun_s)
        # Their readers take every line for JSON: nothing is sent while nothing comes.
        return await streamed(request, lines, lambda error: line(ollama_error(error)), media_type=NDJSON, ping=b"")
    (answer,) = await unless_hung_up(request, answers.whole())
    told = _logprobs(answer.logprobs)
    return JSONResponse(
        {**_head(body.model), **written(answer.text, answer.calls), **_ending(answers, begun_s), **told}
    )


async def _lines(answers: Answers, model: str, written: Writes, begun_s: float) -> AsyncGenerator[bytes, None]:
    (answer,), num_told = answers.each, 0
    async with aclosing(answers.events()) as events:
        async for _, came in events:
            # The last call may go on yet.
            whole = answer.calls[num_told : len(answer.calls) - isinstance(came, Piece)]
            num_told += len(whole)
            text, logprobs = (came.text, came.logprobs) if isinstance(came, Piece) else ("", ())
            if text or whole or logprobs:
                yield line({**_head(model), **written(text, whole), "done": False, **_logprobs(logprobs)})
    yield line({**_head(model), **written("", ()), **_ending(answers, begun_s)})


def _logprobs(positions: Sequence[SaidPosition]) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(positions)} if positions else {}


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _ending(answers: Answers, begun_s: float) -> dict[str, Any]:
    """Times are in nanoseconds there, and the user's own: a drafter's begin when the pipeline is there."""
    (answer,) = answers.each
    stats, all_s = answer.stats, monotonic() - begun_s
    first_s = min(all_s, (stats and stats.waited_s) or 0.0)
    rest_s = all_s - first_s
    return {
        "done": True,
        "done_reason": "stop" if answer.finish_reason == "tool_calls" else answer.finish_reason,
        "total_duration": int(all_s * 1e9),
        "load_duration": 0,
        "prompt_eval_count": answers.num_prompt_tokens,
        "prompt_eval_duration": int(first_s * 1e9),
        "eval_count": answer.num_tokens,
        "eval_duration": int(rest_s * 1e9),
    }


async def tags(request: Request) -> Response:
    return JSONResponse({"models": [_tag(one) for one in await request.app.state.swarm.models()]})


async def running(request: Request) -> Response:
    """Those that can be asked for: nothing is loaded for who asks, nor unloaded."""
    found = [one for one in await request.app.state.swarm.models() if one.complete]
    return JSONResponse({"models": [{**_tag(one), "expires_at": NEVER, "size_vram": 0} for one in found]})


def _tag(one: ModelInfo) -> dict[str, Any]:
    return {
        "name": one.name,
        "model": one.name,
        "modified_at": "1970-01-01T00:00:00Z",
        "size": 0,
        "digest": one.model_id,
        "details": _details(),
    }


def _details() -> dict[str, Any]:
    return {
        "parent_model": "", "format": "gguf", "family": "", "families": None, "parameter_size": "",
        "quantization_level": "",
    }  # fmt: skip


class ShowBody(msgspec.Struct, kw_only=True):
    model: str | None = None
    name: str | None = None


async def show(request: Request) -> Response:
    body = await read(request, ShowBody)
    one = await model_named(request, (body.model or body.name or "").removesuffix(":latest"))
    info = {"general.name": one.name, "dsdnode.model_id": one.model_id, "dsdnode.block_count": one.num_layers}
    capabilities = ["completion", "tools"]
    return JSONResponse({"details": _details(), "model_info": info, "capabilities": capabilities, "template": ""})


async def version(request: Request) -> Response:
    return JSONResponse({"version": version_of("dsdnode")})

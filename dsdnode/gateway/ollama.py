"""Ollama's `POST /api/chat`, `/api/generate`, `/api/show`, `GET /api/tags`, `/api/version`: lines of JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.gateway.answers import Answers, unless_hung_up
from dsdnode.gateway.bodies import Sampled, Stops, TopLogprobs, read, text_of
from dsdnode.gateway.failures import ollama_error
from dsdnode.gateway.formats import ollama_format
from dsdnode.gateway.logprobs import chat_logprobs
from dsdnode.gateway.openai import Message, model_named, num_logprobs, refuse
from dsdnode.gateway.streams import line, streamed
from dsdnode.swarm.info import ModelInfo
from dsdnode.wire.logprobs import SaidPosition

NDJSON = "application/x-ndjson"


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

    def draw(self, messages: list[dict[str, str]] | None = None, prompt: str | None = None) -> GenerateRequest:
        refuse({"think": bool(self.think)})
        options = self.options or Options()
        options.model = self.model.removesuffix(":latest")
        most = options.num_predict
        return options.request(
            messages,
            prompt,
            max_tokens=most if most and most > 0 else None,
            stop=options.stop,
            logprobs=num_logprobs(self.logprobs, self.top_logprobs),
            constraint=ollama_format(self.format),
        )


class ChatMessage(Message, kw_only=True):
    images: Any = None
    """Beside the content, where OpenAI has parts of it."""


class ChatBody(Asked, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(max_length=1024)] = []
    tools: Any = None

    def asked(self) -> GenerateRequest | None:
        """None: programs say nothing where they only want the model to be loaded, or unloaded. Raises BadInput."""
        refuse(
            {
                "tools": bool(self.tools),
                "images": any(one.images for one in self.messages),
                "tool_calls": any(one.tool_calls for one in self.messages),
            }
        )
        if not self.messages:
            return None
        messages = [
            {"role": one.role, "content": text_of(one.content, f"messages[{index}]")}
            for index, one in enumerate(self.messages)
        ]
        return self.draw(messages)


class GenerateBody(Asked, kw_only=True):
    prompt: str = ""
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


async def chat(request: Request) -> Response:
    body = await read(request, ChatBody)
    return await _answer(request, body, body.asked(), lambda text: {"message": {"role": "assistant", "content": text}})


async def generate(request: Request) -> Response:
    body = await read(request, GenerateBody)
    return await _answer(request, body, body.asked(), lambda text: {"response": text})


async def _answer(
    request: Request, body: Asked, asked: GenerateRequest | None, written: Callable[[str], dict[str, Any]]
) -> Response:
    if asked is None:
        await model_named(request, body.model.removesuffix(":latest"))
        reason = "unload" if body.keep_alive in (0, "0", "0s") else "load"
        return JSONResponse({**_head(body.model), **written(""), "done": True, "done_reason": reason})
    answers = Answers(request.app.state.swarm, [asked])
    if body.stream is None or body.stream:
        lines = _lines(answers, body.model, written)
        # Their readers take every line for JSON: nothing is sent while nothing comes.
        return await streamed(request, lines, lambda error: line(ollama_error(error)), media_type=NDJSON, ping=b"")
    (answer,) = await unless_hung_up(request, answers.whole())
    told = _logprobs(answer.logprobs)
    return JSONResponse({**_head(body.model), **written(answer.text), **_ending(answers), **told})


async def _lines(answers: Answers, model: str, written: Callable[[str], dict[str, Any]]) -> AsyncGenerator[bytes, None]:
    async with aclosing(answers.events()) as events:
        async for _, came in events:
            if isinstance(came, Piece) and (came.text or came.logprobs):
                yield line({**_head(model), **written(came.text), "done": False, **_logprobs(came.logprobs)})
    yield line({**_head(model), **written(""), **_ending(answers)})


def _logprobs(positions: Sequence[SaidPosition]) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(positions)} if positions else {}


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _ending(answers: Answers) -> dict[str, Any]:
    """Times are in nanoseconds there."""
    (answer,) = answers.each
    stats = answer.stats
    first_s = (stats and stats.time_to_first_token_s) or 0.0
    per_s = (stats and stats.tokens_per_second) or 0.0
    rest_s = answer.num_tokens / per_s if per_s else 0.0
    return {
        "done": True,
        "done_reason": answer.finish_reason,
        "total_duration": int((first_s + rest_s) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": answers.num_prompt_tokens,
        "prompt_eval_duration": int(first_s * 1e9),
        "eval_count": answer.num_tokens,
        "eval_duration": int(rest_s * 1e9),
    }


async def tags(request: Request) -> Response:
    return JSONResponse({"models": [_tag(one) for one in await request.app.state.swarm.models()]})


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
    model: str = ""
    name: str = ""


async def show(request: Request) -> Response:
    body = await read(request, ShowBody)
    one = await model_named(request, (body.model or body.name).removesuffix(":latest"))
    info = {"general.name": one.name, "dsdnode.model_id": one.model_id, "dsdnode.block_count": one.num_layers}
    return JSONResponse({"details": _details(), "model_info": info, "capabilities": ["completion"], "template": ""})


async def version(request: Request) -> Response:
    return JSONResponse({"version": version_of("dsdnode")})

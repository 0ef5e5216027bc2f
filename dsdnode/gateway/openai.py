"""OpenAI's chat and text completions: `POST /v1/chat/completions`, `POST /v1/completions`, `GET /v1/models`.

What cannot be honoured is refused by name, and never dropped; fields that are not known are no business of ours.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.calls import CallPart
from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.gateway.answers import Answer, Answers, unless_hung_up
from dsdnode.gateway.bodies import MAX_CHOICES, Most, Sampled, Stops, TopLogprobs, most_of, read, refuse, text_of
from dsdnode.gateway.failures import openai_error
from dsdnode.gateway.formats import openai_format
from dsdnode.gateway.logprobs import chat_logprobs, text_logprobs
from dsdnode.gateway.port import Swarm
from dsdnode.gateway.streams import event, streamed
from dsdnode.gateway.tools import Offer, call, chat_tools, offer, settled
from dsdnode.swarm.info import ModelInfo
from dsdnode.wire.logprobs import SaidPosition

ROLES = {"developer": "system", "function": "tool"}
"""Other names of a role."""
DONE = b"data: [DONE]\n\n"


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_speculation: bool | None = None
    """Our own: each chunk says how many tokens it has, and how many of them were accepted draft tokens."""


class Completing(Sampled, kw_only=True):
    """What both kinds of completions have."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops = None
    max_tokens: Most | None = None
    response_format: Any = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None

    def offer(self) -> Offer:
        """What may be called."""
        return Offer()


def num_logprobs(asked: bool | None, top: int | None) -> int:
    """As GenerateRequest.logprobs. Raises BadInput."""
    if top and not asked:
        raise BadInput("top_logprobs goes with logprobs: true")
    return (top or 0) if asked else -1


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct, kw_only=True):
    function: CalledFunction
    id: str | None = None

    def told(self) -> dict[str, Any]:
        return call(self.id or "", self.function.name, self.function.arguments or "{}")


class Message(msgspec.Struct, kw_only=True):
    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: Any = None
    tool_calls: list[ToolCall] | None = None
    function_call: CalledFunction | None = None
    """A call, as it was said before there were several."""
    audio: Any = None
    tool_call_id: str | None = None
    name: str | None = None

    def turn(self, where: str) -> dict[str, Any]:
        """As it is asked for. Raises BadInput."""
        refuse({f"{where}.audio": bool(self.audio)})
        turn: dict[str, Any] = {"role": ROLES.get(self.role, self.role), "content": text_of(self.content, where)}
        calls = [*(self.tool_calls or ()), *([ToolCall(function=self.function_call)] if self.function_call else ())]
        if calls:
            turn["tool_calls"] = [one.told() for one in calls]
        if turn["role"] == "tool":
            turn |= {"tool_call_id": self.tool_call_id or "", "name": self.name or ""}
        return turn


class ChatBody(Completing, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=1024)]
    max_completion_tokens: Most | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    modalities: list[Any] | None = None
    web_search_options: Any = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None

    def offer(self) -> Offer:
        """Raises BadInput."""
        return offer(chat_tools(self.tools), self.tool_choice, self.parallel_tool_calls)

    def requests(self) -> list[GenerateRequest]:
        others = [one for one in self.modalities or () if one != "text"]
        refuse(
            {
                "functions": bool(self.functions),
                f"modalities {others}": bool(others),
                "web_search_options": self.web_search_options is not None,
            }
        )
        messages = settled(one.turn(f"messages[{index}]") for index, one in enumerate(self.messages))
        most = most_of(self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens)
        num = num_logprobs(self.logprobs, self.top_logprobs)
        format_, offered = openai_format(self.response_format, "response_format"), self.offer()
        knobs: dict[str, Any] = {"max_tokens": most, "stop": self.stop, "logprobs": num, "tools": offered.tools}
        knobs["constraint"] = offered.constraint(format_)
        return [self.request(messages, choice=choice, **knobs) for choice in range(self.n or 1)]


class CompletionBody(Completing, kw_only=True):
    prompt: Any
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: TopLogprobs | None = None

    def requests(self) -> list[GenerateRequest]:
        refuse({"suffix": bool(self.suffix), "echo": bool(self.echo), "best_of": self.best_of not in (None, 1, self.n)})
        try:
            prompt = msgspec.convert(self.prompt, str | list[Any])
            many = [prompt] if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int) else prompt
            prompts = [msgspec.convert(one, str | list[int]) for one in many[: MAX_CHOICES + 1]]
        except msgspec.ValidationError:
            raise BadInput("prompt is a text, a list of texts, a list of token ids, or a list of such") from None
        if not all(prompts) or not prompts:
            raise BadInput("the prompt is empty")
        if len(prompts) * (self.n or 1) > MAX_CHOICES:
            raise BadInput(f"{len(many)} prompts with n {self.n or 1}: {MAX_CHOICES} replies at most at once")
        return [
            self.request(
                prompt=one if isinstance(one, str) else None,
                prompt_tokens=None if isinstance(one, str) else one,
                max_tokens=16 if self.max_tokens is None else most_of(self.max_tokens),
                stop=self.stop,
                choice=choice,
                logprobs=-1 if self.logprobs is None else self.logprobs,
                constraint=openai_format(self.response_format, "response_format"),
            )
            for one in prompts
            for choice in range(self.n or 1)
        ]


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kind of completion is written: whole, and in chunks."""

    prefix: str
    whole: str
    chunk: str
    choice: Callable[[Answer], dict[str, Any]]
    delta: Callable[[str], dict[str, Any]]
    opening: Callable[[Piece | Finished], dict[str, Any]] | None = None
    closing: Callable[[], dict[str, Any]] = dict
    logprobs: Callable[[Sequence[SaidPosition], int], dict[str, Any]] = text_logprobs
    """Of some tokens, with as many characters of the text before them."""


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.calls:
        calls = [call(f"call_{one.key}", one.name, one.arguments) for one in answer.calls]
        message |= {"content": answer.text or None, "tool_calls": calls}
    return {"message": message}


def _calls(came: Piece | Finished) -> tuple[CallPart, ...]:
    return came.calls if isinstance(came, Piece) else ()


def _call_delta(answer: Answer, part: CallPart) -> dict[str, Any]:
    """Who is called is said once, in the first of a call's deltas."""
    function = {"arguments": part.arguments}
    if not part.name:
        return {"delta": {"tool_calls": [{"index": part.index, "function": function}]}}
    said = call(f"call_{answer.calls[part.index].key}", part.name, part.arguments)
    return {"delta": {"tool_calls": [{"index": part.index, **said}]}}


CHAT = Shape(
    prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    choice=_message,
    delta=lambda text: {"delta": {"content": text}},
    opening=lambda came: {"delta": {"role": "assistant", "content": None if _calls(came) else ""}},
    closing=lambda: {"delta": {}},
    logprobs=lambda positions, _: {"content": chat_logprobs(positions), "refusal": None},
)
TEXT = Shape(
    prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    choice=lambda answer: {"text": answer.text},
    delta=lambda text: {"text": text},
    closing=lambda: {"text": ""},
)


def usage_of(answers: Answers) -> dict[str, Any]:
    prompt, completion = answers.num_prompt_tokens, answers.num_completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": answers.num_reused},
        "speculation": answers.speculation(),
    }


async def chat_completions(request: Request) -> Response:
    body = await read(request, ChatBody)
    return await _complete(request, body, body.requests(), CHAT)


async def completions(request: Request) -> Response:
    body = await read(request, CompletionBody)
    return await _complete(request, body, body.requests(), TEXT)


async def _complete(request: Request, body: Completing, asked: list[GenerateRequest], shape: Shape) -> Response:
    swarm: Swarm = request.app.state.swarm
    answers = Answers(swarm, asked, body.offer().single)
    head = {
        "id": shape.prefix + token_hex(12),
        "object": shape.chunk if body.stream else shape.whole,
        "created": int(datetime.now(UTC).timestamp()),
        "model": body.model,
        "system_fingerprint": "dsdnode",
    }
    if body.stream:
        options = body.stream_options or StreamOptions()
        return await streamed(request, _chunks(answers, head, shape, options), lambda error: event(openai_error(error)))
    await unless_hung_up(request, answers.whole())
    choices = [
        {
            "index": index,
            **shape.choice(answer),
            "logprobs": shape.logprobs(answer.logprobs, 0) if answer.request.logprobs >= 0 else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers.each)
    ]
    headers = {"x-dsdnode-route": route} if (route := answers.route()) else {}
    head["model"] = answers.model(body.model)
    return JSONResponse({**head, "choices": choices, "usage": usage_of(answers)}, headers=headers)


async def _chunks(
    answers: Answers, head: dict[str, Any], shape: Shape, options: StreamOptions
) -> AsyncGenerator[bytes, None]:
    """usage comes in a chunk of its own, without choices, behind the finish reasons."""
    none = {"usage": None} if options.include_usage else {}

    def chunk(index: int, part: dict[str, Any], reason: str | None = None, logprobs: Any = None, **more: Any) -> bytes:
        choice = {"index": index, **part, "logprobs": logprobs, "finish_reason": reason}
        return event({**head, "model": answers.model(head["model"]), "choices": [choice], **none, **more})

    def drafted(piece: Piece) -> dict[str, Any]:
        if not options.include_speculation:
            return {}
        return {"speculation": {"tokens": len(piece.tokens), "accepted": piece.num_accepted}}

    opened: set[int] = set()
    async with aclosing(answers.events()) as events:
        async for index, came in events:
            if index not in opened and shape.opening is not None:
                yield chunk(index, shape.opening(came))
            opened.add(index)
            if isinstance(came, Piece) and (came.text or came.logprobs):
                before = answers.each[index].num_characters - len(came.text)
                told = shape.logprobs(came.logprobs, before) if came.logprobs else None
                yield chunk(index, shape.delta(came.text), logprobs=told, **drafted(came))
            for part in _calls(came):
                yield chunk(index, _call_delta(answers.each[index], part))
            if isinstance(came, Finished):
                yield chunk(index, shape.closing(), answers.each[index].finish_reason)
    if options.include_usage:
        model = answers.model(head["model"])
        yield event({**head, "model": model, "choices": [], "usage": usage_of(answers)})
    yield DONE


async def models(request: Request) -> Response:
    """Pages are Anthropic's: all there are stand on the first."""
    found = [_model(one) for one in await request.app.state.swarm.models()]
    ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": found, "has_more": False, **ends})


async def one_model(request: Request) -> Response:
    if not request.path_params["name"]:
        return await models(request)
    return JSONResponse(_model(await model_named(request, request.path_params["name"])))


async def model_named(request: Request, name: str) -> ModelInfo:
    """By its name or its id. Raises ModelRefused, which names what there is."""
    swarm: Swarm = request.app.state.swarm
    known = await swarm.models()
    for one in known:
        if name in (one.name, one.model_id):
            return one
    names = ", ".join(one.name for one in known) or "none"
    raise ModelRefused(f"no model named {name[:100]!r} in this swarm (there is: {names})")


def _model(one: ModelInfo) -> dict[str, Any]:
    """As OpenAI's programs read it, and Anthropic's, who ask at the same path."""
    return {
        "id": one.name,
        "object": "model",
        "created": 0,
        "owned_by": "dsdnode",
        "type": "model",
        "display_name": one.name,
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "dsdnode": {"model_id": one.model_id, "complete": one.complete, "missing": one.missing},
    }

"""OpenAI's responses: `POST /v1/responses`, whole or as a stream of numbered events. Nothing is kept between requests:
whoever asks sends the conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from secrets import token_hex
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.errors import BadInput
from dsdnode.gateway.answers import Answers, Call, unless_hung_up
from dsdnode.gateway.bodies import THOUGHTS, Most, Sampled, TopLogprobs, most_of, read, refuse, text_of
from dsdnode.gateway.failures import failure_of, openai_error, words
from dsdnode.gateway.formats import openai_format
from dsdnode.gateway.logprobs import chat_logprobs
from dsdnode.gateway.openai import ROLES, num_logprobs
from dsdnode.gateway.streams import event, streamed
from dsdnode.gateway.tools import Offer, call, offer, response_tools, settled
from dsdnode.wire.logprobs import SaidPosition

MAX_ITEMS = 1024


class TextOptions(msgspec.Struct):
    format: dict[str, Any] | None = None


def _message(item: Any, where: str) -> dict[str, Any]:
    role = item.get("role")
    if not isinstance(role, str):
        raise BadInput(f"{where}: a message has a role")
    return {"role": ROLES.get(role, role), "content": text_of(item.get("content"), where)}


def _function_call(item: Any, where: str) -> dict[str, Any]:
    said = [item.get(key) for key in ("call_id", "name", "arguments")]
    if not all(isinstance(one, str) for one in said):
        raise BadInput(f"{where}: a function_call has a call_id, a name and arguments")
    return {"role": "assistant", "content": "", "tool_calls": [call(*said)]}


def _function_output(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item.get("call_id"), str):
        raise BadInput(f"{where}: a function_call_output has a call_id")
    return {"role": "tool", "content": text_of(item.get("output"), where), "tool_call_id": item["call_id"]}


ITEMS: Mapping[str, Callable[[Any, str], dict[str, Any]] | None] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_output,
    **dict.fromkeys(THOUGHTS),
}
"""By type: as what it is asked; None: it is no part of that."""


class ResponsesBody(Sampled, kw_only=True):
    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: Most | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    """One that OpenAI keeps, by its id."""
    text: TextOptions | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    metadata: Any = None
    top_logprobs: TopLogprobs | None = None
    include: list[str] | None = None

    def offer(self) -> Offer:
        """Raises BadInput."""
        return offer(response_tools(self.tools), self.tool_choice, self.parallel_tool_calls)

    def asked(self) -> GenerateRequest:
        """Raises BadInput."""
        if self.previous_response_id or self.conversation:
            raise BadInput("no responses are kept here: send the whole conversation as input, not its id")
        refuse({"background": bool(self.background), "prompt": bool(self.prompt)})
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        wanted = bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())
        num = num_logprobs(wanted, self.top_logprobs or None)
        offered, format_ = self.offer(), openai_format(self.text and self.text.format, "text.format")
        knobs: dict[str, Any] = {"tools": offered.tools, "constraint": offered.constraint(format_)}
        turns = settled([*system, *self._turns()])
        return self.request(turns, max_tokens=most_of(self.max_output_tokens), logprobs=num, **knobs)

    def _turns(self) -> Iterator[dict[str, Any]]:
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        if not 0 < len(self.input) <= MAX_ITEMS:
            raise BadInput(f"input has {len(self.input)} items: 1 to {MAX_ITEMS} can be answered")
        for index, item in enumerate(self.input):
            kind = item.get("type") or "message" if isinstance(item, dict) else type(item).__name__
            if kind == "item_reference":
                raise BadInput(
                    f"input[{index}]: no items are kept here: send the item itself (`store: false`), not its id"
                )
            if not isinstance(item, dict) or not isinstance(kind, str) or kind not in ITEMS:
                raise BadInput(f"input[{index}]: an item of type {str(kind)[:40]!r} cannot be used")
            if (turn := ITEMS[kind]) is not None:
                yield turn(item, f"input[{index}]")


@dataclass(slots=True)
class Item:
    """Of the output: a message, or a call."""

    pieces: list[str] = field(default_factory=list)
    """Of its text."""
    logprobs: list[SaidPosition] = field(default_factory=list)
    call: Call | None = None
    key: str = field(default_factory=lambda: token_hex(12))

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def id(self) -> str:
        return f"fc_{self.key}" if self.call else f"msg_{self.key}"

    def told(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        head = {"id": self.id, "status": status}
        if self.call is not None:
            arguments = "" if empty else self.call.arguments
            said = {"call_id": f"call_{self.call.key}", "name": self.call.name, "arguments": arguments}
            return {**head, "type": "function_call", **said}
        return {**head, "type": "message", "role": "assistant", "content": [] if empty else [self.part()]}

    def part(self, *, empty: bool = False) -> dict[str, Any]:
        text, logprobs = ("", []) if empty else (self.text, chat_logprobs(self.logprobs))
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


@dataclass(slots=True)
class Written:
    """One response as it is written: whole, and at every stage of it."""

    body: ResponsesBody
    answers: Answers
    offer: Offer
    id: str = field(default_factory=lambda: "resp_" + token_hex(12))
    created: int = field(default_factory=lambda: int(datetime.now(UTC).timestamp()))
    items: list[Item] = field(default_factory=list)

    def response(self, status: str, error: Exception | None = None) -> dict[str, Any]:
        ended = status in ("completed", "incomplete")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.answers.model(self.body.model),
            "output": [item.told(status) for item in self.items] if ended else [],
            "error": None if error is None else {"code": failure_of(error).code, "message": words(error)},
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self.body.instructions,
            "metadata": self.body.metadata or {},
            "parallel_tool_calls": not self.offer.single,
            "tool_choice": self._choice(),
            "tools": [{"type": "function", "strict": one.strict, **one.tool["function"]} for one in self.offer.asked],
            "temperature": self.body.temperature,
            "top_p": self.body.top_p,
            "max_output_tokens": self.body.max_output_tokens,
            "previous_response_id": None,
            "text": {"format": (self.body.text and self.body.text.format) or {"type": "text"}},
            "store": False,
            "usage": self._usage() if ended else None,
        }

    def _choice(self) -> Any:
        if self.offer.only:
            return {"type": "function", "name": self.offer.only}
        if self.offer.must:
            return "required"
        return "auto" if self.offer.asked or not self.body.tools else "none"

    @property
    def status(self) -> str:
        return "incomplete" if self.answers.each[0].finish_reason == "length" else "completed"

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self.answers.num_prompt_tokens, self.answers.num_completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.answers.num_reused, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
            "speculation": self.answers.speculation(),
        }


async def responses(request: Request) -> Response:
    body = await read(request, ResponsesBody)
    asked, offered = body.asked(), body.offer()
    written = Written(body, Answers(request.app.state.swarm, [asked], offered.single), offered)
    events = Events(written)
    if body.stream:
        return await streamed(request, events.told(), events.failed)

    async def whole() -> None:
        async with aclosing(events.told()) as parts:
            async for _ in parts:
                pass

    await unless_hung_up(request, whole())
    return JSONResponse(written.response(written.status))


class Events:
    """What a response's stream says, in order and numbered. One item is open at a time."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._numbers = count()
        self._is_open = False

    def failed(self, error: Exception) -> bytes:
        said = openai_error(error)["error"]
        whole = self._event("response.failed", response=self._written.response("failed", error))
        return self._event("error", code=said["code"], message=said["message"], param=None) + whole

    async def told(self) -> AsyncGenerator[bytes, None]:
        written, opened = self._written, False
        async with aclosing(written.answers.events()) as events:
            async for _, came in events:
                if not opened:
                    opened = True
                    yield self._event("response.created", response=written.response("in_progress"))
                    yield self._event("response.in_progress", response=written.response("in_progress"))
                for said in self._came(came):
                    yield said
        if not written.items:
            for said in self._begun(Item()):
                yield said
        for said in self._closed(written.status):
            yield said
        yield self._event(f"response.{written.status}", response=written.response(written.status))

    def _came(self, came: Piece | Finished) -> Iterator[bytes]:
        if isinstance(came, Finished):
            return
        items = self._written.items
        if came.text or (came.logprobs and not self._written.offer.tools):
            if not self._is_open or items[-1].call is not None:
                yield from self._begun(Item())
            items[-1].pieces.append(came.text)
            items[-1].logprobs += came.logprobs
            told = chat_logprobs(came.logprobs)
            yield self._of_text("response.output_text.delta", delta=came.text, logprobs=told)
        for part in came.calls:
            if part.name:
                yield from self._begun(Item(call=self._written.answers.each[0].calls[part.index]))
            if part.arguments:
                yield self._of_item("response.function_call_arguments.delta", delta=part.arguments)

    def _begun(self, item: Item) -> Iterator[bytes]:
        yield from self._closed("completed")
        self._written.items.append(item)
        self._is_open = True
        told = item.told("in_progress", empty=True)
        yield self._event("response.output_item.added", output_index=self._index, item=told)
        if item.call is None:
            yield self._of_text("response.content_part.added", part=item.part(empty=True))

    def _closed(self, status: str) -> Iterator[bytes]:
        if not self._is_open:
            return
        self._is_open, item = False, self._written.items[-1]
        if item.call is not None:
            called = {"name": item.call.name, "arguments": item.call.arguments}
            yield self._of_item("response.function_call_arguments.done", **called)
        else:
            yield self._of_text("response.output_text.done", text=item.text, logprobs=chat_logprobs(item.logprobs))
            yield self._of_text("response.content_part.done", part=item.part())
        yield self._event("response.output_item.done", output_index=self._index, item=item.told(status))

    @property
    def _index(self) -> int:
        return len(self._written.items) - 1

    def _of_text(self, kind: str, **fields: Any) -> bytes:
        return self._of_item(kind, content_index=0, **fields)

    def _of_item(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._written.items[-1].id, output_index=self._index, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)

"""OpenAI's responses: `POST /v1/responses`, whole or as a stream of numbered events. Nothing is kept between requests:
whoever asks sends the conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from secrets import token_hex
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.errors import BadInput
from dsdnode.gateway.answers import Answers, unless_hung_up
from dsdnode.gateway.bodies import Sampled, Tokens, TopLogprobs, read, text_of
from dsdnode.gateway.failures import failure_of, openai_error, words
from dsdnode.gateway.formats import openai_format
from dsdnode.gateway.logprobs import chat_logprobs
from dsdnode.gateway.openai import ROLES, num_logprobs, refuse
from dsdnode.gateway.streams import event, streamed

IGNORED_ITEMS = ("reasoning",)
"""What models have thought before is no part of what they are asked."""
MAX_ITEMS = 1024


class TextOptions(msgspec.Struct):
    format: dict[str, Any] | None = None


class ResponsesBody(Sampled, kw_only=True):
    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    conversation: Any = None
    text: TextOptions | None = None
    tools: Any = None
    metadata: Any = None
    top_logprobs: TopLogprobs | None = None
    include: list[str] | None = None

    def asked(self) -> GenerateRequest:
        """Raises BadInput."""
        if self.previous_response_id or self.conversation:
            raise BadInput("no responses are kept here: send the whole conversation as input, not its id")
        refuse({"tools": bool(self.tools), "background": bool(self.background)})
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        wanted = bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())
        num = num_logprobs(wanted, self.top_logprobs or None)
        most, constraint = self.max_output_tokens, openai_format(self.text and self.text.format, "text.format")
        messages = [*system, *self._messages()]
        return self.request(messages, max_tokens=most, logprobs=num, constraint=constraint)

    def _messages(self) -> Iterator[dict[str, str]]:
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        if not 0 < len(self.input) <= MAX_ITEMS:
            raise BadInput(f"input has {len(self.input)} items: 1 to {MAX_ITEMS} can be answered")
        for index, item in enumerate(self.input):
            kind = item.get("type", "message") if isinstance(item, dict) else type(item).__name__
            if kind in IGNORED_ITEMS:
                continue
            if kind != "message" or not isinstance(item.get("role"), str):
                raise BadInput(f"input[{index}]: an item of type {kind!r} cannot be used")
            role = item["role"]
            yield {"role": ROLES.get(role, role), "content": text_of(item.get("content"), f"input[{index}]")}


@dataclass(slots=True)
class Written:
    """One response as it is written: whole, and at every stage of it."""

    body: ResponsesBody
    answers: Answers
    id: str = field(default_factory=lambda: "resp_" + token_hex(12))
    item: str = field(default_factory=lambda: "msg_" + token_hex(12))
    created: int = field(default_factory=lambda: int(datetime.now(UTC).timestamp()))

    def response(self, status: str, error: Exception | None = None) -> dict[str, Any]:
        ended = status in ("completed", "incomplete")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.body.model or "default",
            "output": [self.message(status)] if ended else [],
            "error": None if error is None else {"code": failure_of(error).code, "message": words(error)},
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self.body.instructions,
            "metadata": self.body.metadata or {},
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "temperature": self.body.temperature,
            "top_p": self.body.top_p,
            "max_output_tokens": self.body.max_output_tokens,
            "previous_response_id": None,
            "text": {"format": (self.body.text and self.body.text.format) or {"type": "text"}},
            "store": False,
            "usage": self._usage() if ended else None,
        }

    def message(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        content = [] if empty else [self.part()]
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self, *, empty: bool = False) -> dict[str, Any]:
        answer = self.answers.each[0]
        text, logprobs = ("", []) if empty else (answer.text, chat_logprobs(answer.logprobs))
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    @property
    def status(self) -> str:
        return "completed" if self.answers.each[0].finish_reason == "stop" else "incomplete"

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self.answers.num_prompt_tokens, self.answers.num_completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.answers.num_reused},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
            "speculation": self.answers.speculation(),
        }


async def responses(request: Request) -> Response:
    body = await read(request, ResponsesBody)
    written = Written(body, Answers(request.app.state.swarm, [body.asked()]))
    if body.stream:
        numbers = count()
        parts = _events(written, numbers)
        return await streamed(request, parts, lambda error: _failed(written, error, numbers))
    await unless_hung_up(request, written.answers.whole())
    return JSONResponse(written.response(written.status))


def _event(kind: str, numbers: Iterator[int], **fields: Any) -> bytes:
    return event({"type": kind, "sequence_number": next(numbers), **fields}, kind)


def _failed(written: Written, error: Exception, numbers: Iterator[int]) -> bytes:
    said = openai_error(error)["error"]
    whole = _event("response.failed", numbers, response=written.response("failed", error))
    return _event("error", numbers, code=said["code"], message=said["message"], param=None) + whole


async def _events(written: Written, numbers: Iterator[int]) -> AsyncGenerator[bytes, None]:
    text = {"item_id": written.item, "output_index": 0, "content_index": 0}
    opened = False
    async with aclosing(written.answers.events()) as events:
        async for _, came in events:
            if not opened:
                opened = True
                yield _event("response.created", numbers, response=written.response("in_progress"))
                yield _event("response.in_progress", numbers, response=written.response("in_progress"))
                item = written.message("in_progress", empty=True)
                yield _event("response.output_item.added", numbers, output_index=0, item=item)
                yield _event("response.content_part.added", numbers, **text, part=written.part(empty=True))
            if isinstance(came, Piece) and (came.text or came.logprobs):
                told = chat_logprobs(came.logprobs)
                yield _event("response.output_text.delta", numbers, **text, delta=came.text, logprobs=told)
    whole = written.part()
    yield _event("response.output_text.done", numbers, **text, text=whole["text"], logprobs=whole["logprobs"])
    yield _event("response.content_part.done", numbers, **text, part=written.part())
    yield _event("response.output_item.done", numbers, output_index=0, item=written.message(written.status))
    yield _event(f"response.{written.status}", numbers, response=written.response(written.status))

"""Anthropic's messages: `POST /v1/messages`, whole or as a stream of its named events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from secrets import token_hex
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.gateway.answers import Answers, unless_hung_up
from dsdnode.gateway.bodies import Sampled, StopText, Tokens, read, text_of
from dsdnode.gateway.failures import anthropic_error
from dsdnode.gateway.openai import Message, refuse
from dsdnode.gateway.streams import event, streamed

REASONS = {"stop": "end_turn", "length": "max_tokens"}
VOLATILE = "x-anthropic-billing-header:"
"""A line that an agent puts first and changes with every request: with it no conversation would begin like the one
before it."""


class MessagesBody(Sampled, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=1024)]
    max_tokens: Tokens
    system: Any = None
    stop_sequences: Annotated[list[StopText], Meta(max_length=16)] | None = None
    stream: bool | None = None
    tools: Any = None

    def asked(self) -> GenerateRequest:
        """Raises BadInput."""
        refuse({"tools": bool(self.tools)})
        system = _lasting(text_of(self.system, "system"))
        messages = [{"role": "system", "content": system}] if system else []
        messages += [
            {"role": one.role, "content": text_of(one.content, f"messages[{index}]")}
            for index, one in enumerate(self.messages)
        ]
        return self.request(messages, max_tokens=self.max_tokens, stop=self.stop_sequences)


def _lasting(system: str) -> str:
    return "\n".join(line for line in system.splitlines() if not line.startswith(VOLATILE))


async def messages(request: Request) -> Response:
    body = await read(request, MessagesBody)
    answers = Answers(request.app.state.swarm, [body.asked()])
    head = {"id": "msg_" + token_hex(12), "type": "message", "role": "assistant", "model": body.model or "default"}
    if body.stream:
        return await streamed(request, _events(answers, head), lambda error: event(anthropic_error(error), "error"))
    (answer,) = await unless_hung_up(request, answers.whole())
    content = [{"type": "text", "text": answer.text}]
    return JSONResponse({**head, "content": content, **_ending(answers), "usage": _usage(answers)})


def _ending(answers: Answers) -> dict[str, Any]:
    return {"stop_reason": REASONS.get(answers.each[0].finish_reason, "end_turn"), "stop_sequence": None}


def _usage(answers: Answers) -> dict[str, Any]:
    """Cached tokens are not counted among the input's, as Anthropic has it."""
    reused = answers.num_reused
    return {
        "input_tokens": max(0, answers.num_prompt_tokens - reused),
        "cache_read_input_tokens": reused,
        "cache_creation_input_tokens": 0,
        "output_tokens": answers.num_completion_tokens,
    }


async def _events(answers: Answers, head: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    opened = False
    async with aclosing(answers.events()) as events:
        async for _, came in events:
            if not opened:
                opened = True
                message = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(answers)}
                yield _event("message_start", message=message)
                yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            if isinstance(came, Piece) and came.text:
                yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": came.text})
    yield _event("content_block_stop", index=0)
    yield _event("message_delta", delta=_ending(answers), usage=_usage(answers))
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)

"""Anthropic's messages: `POST /v1/messages`, whole or as a stream of its named events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from secrets import token_hex
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.errors import BadInput
from dsdnode.gateway.answers import Answers, Call, unless_hung_up
from dsdnode.gateway.bodies import THOUGHTS, Sampled, StopText, Tokens, read, refuse, text_of
from dsdnode.gateway.failures import anthropic_error
from dsdnode.gateway.formats import openai_format
from dsdnode.gateway.streams import event, streamed
from dsdnode.gateway.tools import Offer, anthropic_tools, call, offer, settled

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
VOLATILE = "x-anthropic-billing-header:"
"""A line that an agent puts first and changes with every request: with it no conversation would begin like the one
before it."""


class OutputConfig(msgspec.Struct):
    format: Any = None


class Message(msgspec.Struct, kw_only=True):
    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: Any = None

    def turns(self, where: str) -> Iterator[dict[str, Any]]:
        """Results of tools come before what the user says beside them. Raises BadInput."""
        blocks = self.content if isinstance(self.content, list) else [{"type": "text", "text": self.content or ""}]
        found: dict[str, list[Any]] = {"text": [], "tool_use": [], "tool_result": []}
        for index, block in enumerate(blocks):
            kind = block.get("type") if isinstance(block, dict) else None
            if kind not in THOUGHTS:
                read_as = BLOCKS.get(kind) if isinstance(kind, str) else None
                name, said = (read_as or _text)(block, f"{where}.content[{index}]")
                found[name].append(said)
        yield from found["tool_result"]
        if found["text"] or found["tool_use"] or not found["tool_result"]:
            calls = {"tool_calls": found["tool_use"]} if found["tool_use"] else {}
            yield {"role": self.role, "content": "\n".join(found["text"]), **calls}


def _text(block: Any, where: str) -> tuple[str, Any]:
    return "text", text_of(block, where)


def _tool_use(block: dict[str, Any], where: str) -> tuple[str, Any]:
    call_id, name = block.get("id"), block.get("name")
    if not isinstance(call_id, str) or not isinstance(name, str):
        raise BadInput(f"{where}: a tool_use has an id and a name")
    return "tool_use", call(call_id, name, msgspec.json.encode(block.get("input") or {}).decode())


def _tool_result(block: dict[str, Any], where: str) -> tuple[str, Any]:
    call_id = block.get("tool_use_id")
    if not isinstance(call_id, str):
        raise BadInput(f"{where}: a tool_result has a tool_use_id")
    text = text_of(block.get("content"), where)
    content = f"Error: {text}" if block.get("is_error") else text
    return "tool_result", {"role": "tool", "content": content, "tool_call_id": call_id}


BLOCKS: Mapping[str, Callable[[dict[str, Any], str], tuple[str, Any]]] = {
    "text": _text,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}
"""By type: into which part of a turn it goes, and as what."""


class Counted(Sampled, kw_only=True):
    """What tokens are counted of."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=1024)]
    max_tokens: Any = None
    system: Any = None
    stop_sequences: Annotated[list[StopText], Meta(max_length=16)] | None = None
    tools: Any = None
    tool_choice: Any = None
    output_config: OutputConfig | None = None
    output_format: Any = None
    """The same as its format, as it was called before."""
    mcp_servers: Any = None

    def offer(self) -> Offer:
        """Raises BadInput."""
        choice = self.tool_choice
        single = isinstance(choice, dict) and bool(choice.get("disable_parallel_tool_use"))
        return offer(anthropic_tools(self.tools), choice, not single)

    def asked(self) -> GenerateRequest:
        """Raises BadInput."""
        system = _system(self.system)
        turns = [{"role": "system", "content": system}] if system else []
        for index, one in enumerate(self.messages):
            turns += one.turns(f"messages[{index}]")
        refuse({"mcp_servers": bool(self.mcp_servers)})
        said = (self.output_config and self.output_config.format) or self.output_format
        offered, format_ = self.offer(), openai_format(said, "output_config.format")
        knobs: dict[str, Any] = {"tools": offered.tools, "constraint": offered.constraint(format_)}
        return self.request(settled(turns), max_tokens=self.max_tokens, stop=self.stop_sequences, **knobs)


class MessagesBody(Counted, kw_only=True):
    max_tokens: Tokens
    stream: bool | None = None

    def asked(self) -> GenerateRequest:
        """Raises BadInput."""
        if self.messages[-1].role == "assistant":
            raise BadInput("a reply cannot go on with a message of the assistant's: the user's comes last")
        return Counted.asked(self)


def _system(said: Any) -> str:
    """Without lines that change with every request."""
    parts = said if isinstance(said, list) else [said]
    texts = (_lasting(text_of(part, "system")) for part in parts)
    return "\n".join(text for text in texts if text)


def _lasting(text: str) -> str:
    if VOLATILE not in text:
        return text
    return "\n".join(line for line in text.split("\n") if not line.startswith(VOLATILE)).strip("\n")


async def messages(request: Request) -> Response:
    body = await read(request, MessagesBody)
    answers = Answers(request.app.state.swarm, [body.asked()], body.offer().single)
    head = {"id": "msg_" + token_hex(12), "type": "message", "role": "assistant", "model": body.model}
    if body.stream:
        return await streamed(request, _events(answers, head), lambda error: event(anthropic_error(error), "error"))
    (answer,) = await unless_hung_up(request, answers.whole())
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text or not answer.calls else []
    content += [_block(one, one.parsed()) for one in answer.calls]
    head["model"] = answers.model(body.model)
    return JSONResponse({**head, "content": content, **_ending(answers), "usage": _usage(answers)})


async def count_tokens(request: Request) -> Response:
    """As they would be asked for; nothing is computed."""
    body = await read(request, Counted)
    body.max_tokens = None
    found = await unless_hung_up(request, request.app.state.swarm.read_text(body.asked()))
    return JSONResponse({"input_tokens": len(found.tokens)})


def _block(one: Call, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{one.key}", "name": one.name, "input": arguments}


def _ending(answers: Answers) -> dict[str, Any]:
    (answer,) = answers.each
    if answer.finish_reason == "stop" and answer.stats is not None and answer.stats.stop_text in answer.request.stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": answer.stats.stop_text}
    return {"stop_reason": REASONS.get(answer.finish_reason, "end_turn"), "stop_sequence": None}


def _usage(answers: Answers) -> dict[str, Any]:
    """Cached tokens are not counted among the input's, as Anthropic has it."""
    reused = answers.num_reused
    return {
        "input_tokens": max(0, answers.num_prompt_tokens - reused),
        "cache_read_input_tokens": reused,
        "cache_creation_input_tokens": 0,
        "output_tokens": answers.num_completion_tokens,
    }


class _Blocks:
    """Content blocks of a stream: one is open at a time, and they are numbered."""

    def __init__(self) -> None:
        self._index = -1
        self._open: Any = None

    def go_to(self, key: Any, block: Callable[[], dict[str, Any]]) -> Iterator[bytes]:
        """`key` names a block; it is begun, as `block`, where another one is open."""
        if self._open != key:
            yield from self.close()
            self._open, self._index = key, self._index + 1
            yield _event("content_block_start", index=self._index, content_block=block())

    def delta(self, **delta: Any) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def close(self) -> Iterator[bytes]:
        if self._open is not None:
            yield _event("content_block_stop", index=self._index)
        self._open = None

    @property
    def is_empty(self) -> bool:
        return self._index < 0


def _no_text() -> dict[str, Any]:
    return {"type": "text", "text": ""}


async def _events(answers: Answers, head: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    opened, blocks, (answer,) = False, _Blocks(), answers.each
    async with aclosing(answers.events()) as events:
        async for _, came in events:
            if not opened:
                opened = True
                head["model"] = answers.model(head["model"])
                message = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(answers)}
                yield _event("message_start", message=message)
            if not isinstance(came, Piece):
                continue
            if came.text:
                for part in blocks.go_to("text", _no_text):
                    yield part
                yield blocks.delta(type="text_delta", text=came.text)
            for call_part in came.calls:
                called = answer.calls[call_part.index]
                for part in blocks.go_to(call_part.index, lambda called=called: _block(called, {})):  # type: ignore[misc]
                    yield part
                yield blocks.delta(type="input_json_delta", partial_json=call_part.arguments)
    if blocks.is_empty:
        for part in blocks.go_to("text", _no_text):
            yield part
    for part in blocks.close():
        yield part
    yield _event("message_delta", delta=_ending(answers), usage=_usage(answers))
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)

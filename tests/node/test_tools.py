"""Carol's program offers the model a tool, through bob, who drafts; alice hosts the model, which writes a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.engine.fake import FakeModel, FakeTextEngine, Hashes
from dsdnode.engine.port import Message
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.net.memory import MemoryTransport
from dsdnode.wire.calls import CallFormat
from tests.node import jumping
from tests.node.swarm import FakeSwarm, Member, fake_swarm

START = 96
"""The id that ends a rendered conversation: the reply begins there."""
SPACES = {" ": 92, "\n": 95}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "2 and 3?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "5", "tool_call_id": "a1b2c3d4e", "name": "add"},
]
WRITES = 'I add.\n<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'


@dataclass(frozen=True, slots=True)
class Scripted(FakeModel):
    """Writes `script`, whatever it is asked."""

    script: tuple[int, ...] = ()

    def step(self, before: Hashes, start: int, end: int, entering: int) -> Hashes:
        """A state counts the positions of the reply, from 1."""
        if start == 0:
            entering = 1 if entering == START else before[0] + 1 if before and before[0] else 0
        return (entering,) * (end - start)

    def logits(self, final: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        row = np.zeros(self.vocab_size, np.float32)
        row[self.script[final - 1] if 0 < final <= len(self.script) else 0] = 9.0
        return row


def scripted(text: str, *before: int) -> Scripted:
    return Scripted(script=(*before, *(SPACES.get(character, ord(character) - 32) for character in text)))


class Texts(FakeTextEngine):
    """Its template shows all that it is told; it has a control token, [CALL], and white space has ids of its own."""

    written = CallFormat()

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        self.told = [tuple(message) for message in messages], tools
        return [*await super().render(messages, tools), START]

    async def calls(self) -> CallFormat:
        return self.written

    async def vocabulary(self) -> Vocab:
        pieces = [b"", *(chr(32 + token).encode() for token in range(1, 92)), b" ", b"}", b"", b"\n", b""]
        return Vocab(pieces, frozenset({0}), True, {"[CALL]": 94})


async def bob_and_alice(swarm: FakeSwarm, model: Scripted) -> tuple[Member, Client]:
    await swarm.add("alice", layers=(0, 4), target=model)
    bob = await swarm.add("bob", drafts=True, draft=model)
    assert bob.draft is not None
    return bob, await swarm.client()


async def said(client: Client, request: GenerateRequest) -> tuple[str, list[tuple[str, str]], str]:
    """The text, the calls, and why it ended."""
    text, calls, reason = "", list[tuple[str, str]](), ""
    async for event in client.generate(request):
        if isinstance(event, Finished):
            reason = event.reason
            continue
        text += event.text
        for part in event.calls:
            if part.index == len(calls):
                calls.append(("", ""))
            calls[part.index] = calls[part.index][0] + part.name, calls[part.index][1] + part.arguments
    return text, calls, reason


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scripted, Callable[..., Any]], None]:
    monkeypatch.setattr("tests.node.swarm.FakeTextEngine", Texts)

    def run(model: Scripted, story: Callable[..., Any]) -> None:
        async def tell() -> None:
            async with fake_swarm(tmp_path) as swarm:
                bob, client = await bob_and_alice(swarm, model)
                await story(bob, client)

        jumping.run(tell())

    return run


def test_the_model_calls_a_tool(play: Any) -> None:
    async def story(bob: Member, client: Client) -> None:
        text, calls, reason = await said(client, GenerateRequest(messages=TURNS, tools=[TOOL], max_tokens=200))
        assert (text, reason) == ("I add.", "stop")
        assert calls == [("add", '{"a": 2, "b": 3}')]
        messages, tools = bob.draft.told
        assert json.loads(tools) == [TOOL]
        assert messages[0] == ("user", "2 and 3?", "")
        assert json.loads(messages[1][2]) == {"tool_calls": [CALL]}
        assert json.loads(messages[2][2]) == {"tool_call_id": "a1b2c3d4e", "name": "add"}

    play(scripted(WRITES), story)


def test_without_tools_it_is_text(play: Any) -> None:
    async def story(bob: Member, client: Client) -> None:
        text, calls, _ = await said(client, GenerateRequest(messages=TURNS[:1], max_tokens=200))
        assert (text, calls) == (WRITES, [])

    play(scripted(WRITES), story)


def test_a_mark_that_is_a_control_token_is_seen_where_tools_may_be_called(play: Any) -> None:
    model = scripted('[{"name": "add", "arguments": {}}]', 94)

    async def story(bob: Member, client: Client) -> None:
        bob.draft.written = CallFormat(open="[CALL]", close="")
        asked = GenerateRequest(messages=TURNS[:1], tools=[TOOL], max_tokens=200)
        assert (await said(client, asked))[:2] == ("", [("add", "{}")])
        asked = GenerateRequest(messages=TURNS[:1], max_tokens=200)
        assert (await said(client, asked))[:2] == ('[{"name": "add", "arguments": {}}]', [])

    play(model, story)


def test_a_drafter_that_would_drop_them_is_not_asked(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob has not updated: carol is told so, in words, and plain text is served as ever."""
    monkeypatch.setattr(MemoryTransport, "can", lambda *_: False)

    async def story(bob: Member, client: Client) -> None:
        for asked in (
            GenerateRequest(messages=TURNS[:1], tools=[TOOL], max_tokens=200),
            GenerateRequest(messages=TURNS, max_tokens=200),
        ):
            with pytest.raises(ModelRefused, match="knows no tools: a newer version"):
                await said(client, asked)
        assert (await said(client, GenerateRequest(messages=TURNS[:1], max_tokens=200)))[0] == WRITES

    play(scripted(WRITES), story)


@pytest.mark.parametrize("tool", [{"name": "add"}, {"function": {}}, "add", TOOL | {"at": object()}])
def test_what_is_no_tool_is_nobody_s_to_call(play: Any, tool: Any) -> None:
    async def story(bob: Member, client: Client) -> None:
        with pytest.raises(BadInput, match="tools cannot be used"):
            await said(client, GenerateRequest(messages=TURNS[:1], tools=[tool]))

    play(scripted(WRITES), story)


def test_what_a_prompt_comes_to(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and text, without a place, and an error in words."""

    async def story(bob: Member, client: Client) -> None:
        read = await client.read_text(GenerateRequest(messages=[{"role": "user", "content": "hi"}]))
        assert read.tokens[-1] == START and len(read.tokens) == len("user: hi") + 1
        again = await client.read_text(GenerateRequest(prompt_tokens=read.tokens[1:3]))
        assert (again.tokens, again.text) == (read.tokens[1:3], "se")
        assert bob.node.status().sessions.drafter == 0
        with pytest.raises(BadInput):
            await client.read_text(GenerateRequest(prompt_tokens=(4000,)))

        async def endless(*_: object) -> list[int]:
            return [5] * 1_100_000

        monkeypatch.setattr(bob.draft, "render", endless)
        with pytest.raises(BadInput, match="1100000 tokens is too long to be told"):
            await client.read_text(GenerateRequest(messages=[{"role": "user", "content": "hi"}]))

    play(scripted(WRITES), story)

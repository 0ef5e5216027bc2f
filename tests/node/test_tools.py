"""Carol's program offers the model a tool, through bob, who drafts; alice hosts the model, which writes a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from dsdnode.client import constraints
from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.engine.fake import FakeModel, FakeTextEngine, Hashes
from dsdnode.engine.port import Message
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.net.memory import MemoryTransport
from dsdnode.net.port import CALLS
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.replies import Constraint
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


def nested(levels: int) -> Any:
    return {"anyOf": [nested(levels - 1)]} if levels else {}


def test_tools_that_are_too_deep_are_not_asked_for(play: Any) -> None:
    async def story(bob: Member, client: Client) -> None:
        tool = {"type": "function", "function": {"name": "add", "parameters": nested(200)}}
        with pytest.raises(BadInput, match="tools are too deep: 64 levels"):
            await said(client, GenerateRequest(messages=TURNS[:1], tools=[tool]))

    play(scripted(WRITES), story)


ADD_OF = '[{"function": {"name": "add", "parameters": SCHEMA}}]'


@pytest.mark.parametrize(
    ("tools", "rule", "deep", "words"),
    [
        (
            ADD_OF,
            '{"names": ["add"], "strict": ["add"]}',
            '{"anyOf": [' * 400 + "{}" + "]}" * 400,
            "cannot be used: more than 64 levels",
        ),
        (
            '[{"function": {"name": "add"}}]',
            '{"names": ["add"], "more": SCHEMA}',
            "[" * 5000 + "]" * 5000,
            "cannot be read: .*recurs",
        ),
    ],
)
def test_what_is_too_deep_for_a_drafter_it_says_in_words(
    play: Any, monkeypatch: pytest.MonkeyPatch, tools: str, rule: str, deep: str, words: str
) -> None:
    """Mallory's client sends it as it is: it is no fault of bob's, for which another drafter would be asked."""
    tools, rule = (one.replace("SCHEMA", deep) for one in (tools, rule))
    monkeypatch.setattr("dsdnode.client.request.tools_json", lambda _: tools)

    async def story(bob: Member, client: Client) -> None:
        with pytest.raises(BadInput, match=words):
            asked = GenerateRequest(messages=TURNS[:1], max_tokens=99, constraint=Constraint("calls", rule))
            await said(client, asked)
        assert bob.node.status().sessions.drafter == 0

    play(scripted(WRITES), story)


ADD: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": [2, 33]}, "b": {"type": "integer", "minimum": 3, "maximum": 5}},
    "required": ["a", "b"],
}
TWO = [
    {"type": "function", "function": {"name": name, "parameters": ADD}} for name in ("add", "subtract")
]  # fmt: skip


def test_it_calls_where_it_must_whatever_it_would_say(play: Any) -> None:
    """Carol names the tool, or has the model choose; the text is that of plain decoding, however much bob drafts."""
    must = constraints.calls(["add", "subtract"], strict=["add", "subtract"])
    named = constraints.calls(["subtract"], strict=["subtract"], once=True)

    async def story(bob: Member, client: Client) -> None:
        for rule, names, heat in ((must, ("add", "subtract"), 0.8), (named, ("subtract",), 0.0)):
            asked = GenerateRequest(
                messages=TURNS[:1], tools=TWO, max_tokens=400, constraint=rule, temperature=heat, seed=5
            )
            plain = await said(client, replace(asked, draft_max=0))
            text, calls, reason = await said(client, asked)
            assert (text, calls, reason) == plain and (text, reason) == ("", "stop")
            assert len(calls) == 1 if rule is named else calls
            for name, arguments in calls:
                assert name in names
                jsonschema.validate(json.loads(arguments), ADD)

    play(scripted("No. No. No.{"), story)  # (which begins a list where it may, and sees no end of it)


def test_a_mark_that_is_a_control_token_is_written_where_it_must_be(play: Any) -> None:
    async def story(bob: Member, client: Client) -> None:
        bob.draft.written = CallFormat(open="[CALL]", close="")
        rule = constraints.calls(["add"], strict=["add"], once=True)
        asked = GenerateRequest(messages=TURNS[:1], tools=TWO, max_tokens=200, constraint=rule)
        text, calls, reason = await said(client, asked)
        assert (text, len(calls), reason) == ("", 1, "stop") and calls[0][0] == "add"

    play(scripted("No."), story)


def test_strict_arguments_are_valid_and_words_are_as_ever(play: Any) -> None:
    asked = GenerateRequest(messages=TURNS[:1], tools=TWO, max_tokens=200)
    asked = replace(asked, constraint=constraints.calls(["add", "subtract"], strict=["add"], free=True))

    async def speaks(bob: Member, client: Client) -> None:
        assert await said(client, asked) == ("I add.", [], "stop")

    async def slips(bob: Member, client: Client) -> None:
        text, calls, _ = await said(client, asked)
        assert text == "I add."
        assert [name for name, _ in calls] == ["add"]
        jsonschema.validate(json.loads(calls[0][1]), ADD)

    play(scripted("I add."), speaks)
    play(scripted('I add.\n<tool_call>{"name": "add", "arguments": {"a": "two"}}</tool_call>'), slips)


@pytest.mark.parametrize(
    ("tools", "names", "words"),
    [
        (TWO, ("multiply",), "no tool named 'multiply'"),
        ([], ("add",), "no tool named 'add'"),
        ([{"type": "function", "function": {"name": "add", "parameters": {"not": {}}}}], ("add",), "called so: .*not"),
    ],
)
def test_a_call_that_cannot_be_had_is_refused_in_words(play: Any, tools: Any, names: Any, words: str) -> None:
    async def story(bob: Member, client: Client) -> None:
        with pytest.raises(BadInput, match=words):
            rule = constraints.calls(names, strict=names)
            await said(client, GenerateRequest(messages=TURNS[:1], tools=tools, max_tokens=99, constraint=rule))
        assert bob.node.status().sessions.drafter == 0

    play(scripted(WRITES), story)


def test_a_drafter_that_knows_no_such_rule_is_not_asked_but_counts_tokens(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryTransport, "can", lambda self, peer, what: what != CALLS)

    async def story(bob: Member, client: Client) -> None:
        rule = constraints.calls(["add"], strict=["add"])
        asked = GenerateRequest(messages=TURNS[:1], tools=TWO, max_tokens=99, constraint=rule)
        with pytest.raises(ModelRefused, match="knows no replies that must call a tool"):
            await said(client, asked)
        assert (await client.read_text(asked)).tokens[-1] == START

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

"""Calls that a reply must make: whatever the grammar lets a model write, carol's client reads as calls of her tools.

Bob's template says how his model writes them; a model that writes at random what may stand there is the worst of all.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from dsdnode.client.calls import CallPart, CallReader
from dsdnode.engine.call_grammar import call_grammar
from dsdnode.engine.grammars import Grammars
from dsdnode.engine.template import ChatTemplate
from dsdnode.errors import BadInput
from dsdnode.speculation.masks import allows
from dsdnode.wire.calls import PLAIN, CallFormat, CallRule
from tests.engine.real_templates import SPECIALS, load

WEATHER: dict[str, Any] = {
    "type": "object",
    "description": "No part of what is valid.",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 9, "description": "Where."},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 99},
        "at": {"$ref": "#/$defs/at"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"at": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"],
                     "additionalProperties": False}},
}  # fmt: skip
CLOCK: dict[str, Any] = {"type": "object", "properties": {"utc": {"type": "boolean"}}}
SCHEMAS = {"get_weather": WEATHER, "clock": CLOCK}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": one}} for name, one in SCHEMAS.items()]
END, FIRST_CONTROL = 256, 257
PIECES = [bytes([byte]) for byte in range(256)]


def formats() -> dict[str, CallFormat]:
    """How the models write whose templates we know, each way once."""
    found = {PLAIN: "plain"}
    for name, one in load().items():
        found.setdefault(ChatTemplate(one["source"], {}, SPECIALS).calling[1], name)
    return {name: written for written, name in found.items()}


FORMATS = formats()


def controls_of(written: CallFormat) -> dict[str, int]:
    """Control tokens that its marks would be, in a vocabulary that has such."""
    names = [mark for mark in written.marks if mark.startswith("<") and mark.endswith(">") and len(mark) > 2]
    return {name: FIRST_CONTROL + at for at, name in enumerate(dict.fromkeys(names))}


class Model:
    """Writes at random what may stand there."""

    def __init__(self, written: CallFormat, rule: CallRule, controls: dict[str, int], tools: Any = TOOLS) -> None:
        names = [*(b"" for _ in PIECES), b"<end>", *(name.encode() for name in controls)]
        pieces = [*PIECES, b"", *(b"" for _ in controls)]
        self.texts = [*PIECES, b"", *(name.encode() for name in controls)]
        self.grammars = Grammars(pieces, names, [END])
        made = call_grammar(written, rule, json.dumps(tools), controls, [END])
        self.grammars.open(b"", made, len(pieces))

    def write(self, rng: Random, most: int = 900) -> str:
        """Until it ends; spaces, and ever longer texts, are for those who like to wait."""
        tokens: list[int] = []
        while len(tokens) < most:
            may = self.next(tokens)
            if END in may and rng.random() < 0.5:
                return self.said(tokens)
            dull = {token for token in may if token < END and (token in b" \n" or token > 126)}
            tokens.append(rng.choice(sorted(may - dull - {END}) or sorted(may - {END}) or [END]))
            if tokens[-1] == END:
                return self.said(tokens[:-1])
        raise AssertionError(f"it does not end: {self.said(tokens)[-80:]!r}")

    def next(self, tokens: list[int]) -> set[int]:
        names, fresh = self.grammars.masks(b"", tokens, len(tokens), again=True)
        return {token for token in range(len(self.texts)) if allows(dict(fresh)[names[-1]], token)}

    def may_write(self, text: str) -> bool:
        names, _ = self.grammars.masks(b"", list(text.encode()), 0)
        return len(names) == len(text.encode()) + 1 and END in self.next(list(text.encode()))

    def said(self, tokens: list[int]) -> str:
        return b"".join(self.texts[token] for token in tokens).decode("utf-8", "replace")


def read(written: CallFormat, text: str) -> tuple[str, list[tuple[str, Any]]]:
    """The words, and the calls: in pieces, as they come."""
    reader, words, found = CallReader(written, TOOLS), "", dict[int, list[str]]()
    for one in [*(part for at in range(len(text)) for part in reader.feed(text[at])), *reader.finish()]:
        if isinstance(one, CallPart):
            said = found.setdefault(one.index, ["", ""])
            said[0], said[1] = said[0] + one.name, said[1] + one.arguments
        else:
            words += one
    return words.strip(), [(name, json.loads(arguments)) for name, arguments in found.values()]


@pytest.mark.parametrize("name", FORMATS)
def test_every_reply_is_calls_of_tools_that_are_valid(name: str) -> None:
    """In the way of each model, whether its marks are control tokens or texts."""
    written, rng = FORMATS[name], Random(name)
    for controls in ({}, controls_of(written)):
        every = Model(written, CallRule(names=tuple(SCHEMAS), strict=tuple(SCHEMAS)), controls)
        clock = Model(written, CallRule(names=("clock",), strict=("clock",), once=True), controls)
        for model, most in ((every, 99), (clock, 1)):
            text = model.write(rng)
            words, calls = read(written, text)
            assert words == "" and 0 < len(calls) <= most, text
            for called, arguments in calls:
                jsonschema.validate(arguments, SCHEMAS[called])
                assert model is every or called == "clock"


ODD: dict[str, Any] = {"type": "object", "properties": {"utc": {"type": "string", "pattern": "x"}}, "not": {}}
TAGGED = FORMATS["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"]


def rule(*names: str, **more: Any) -> CallRule:
    return CallRule(names=names, strict=names, **more)


@pytest.mark.parametrize("open", ["<tool_call>", ""])
def test_where_words_may_come_they_are_no_call(open: str) -> None:
    """Carol's tools are strict, and the model may answer without them: but not with a call that is none of theirs."""
    model = Model(CallFormat(open=open, close="</tool_call>" if open else ""), rule("clock", free=True), {})
    call = '{"name": "clock", "arguments": {"utc": true}}'
    wrong = '{"name": "clock", "arguments": {"utc": 5}}'
    marked, odd = (f"{open}{one}</tool_call>" if open else one for one in (call, wrong))
    assert model.may_write("It is <tool> 5 {o'clock}.") and model.may_write(marked) and model.may_write("")
    assert not model.may_write(odd)
    assert model.may_write(f"I look.\n{marked}")
    assert not open or not model.may_write(f"I look.\n{odd}")


def test_a_tool_that_is_not_strict_takes_any_arguments() -> None:
    tools = [TOOLS[0], {**TOOLS[1], "function": {"name": "clock", "parameters": ODD}}]
    for form, written in (
        (PLAIN, '<tool_call>{"name": "clock", "arguments": {"any": []}}</tool_call>'),
        (TAGGED, "<tool_call>\n<function=clock>\n<parameter=utc>\nfive\n</parameter></function>\n</tool_call>"),
    ):
        free = CallRule(names=("clock", "get_weather"), strict=("get_weather",), free=True)
        assert Model(form, free, {}, tools).may_write(written)


@pytest.mark.parametrize(
    ("written", "asked", "parameters", "words"),
    [
        (PLAIN, rule("other"), {}, "no tool named 'other'"),
        (PLAIN, rule("clock"), {"type": "array"}, "a schema of an object"),
        (PLAIN, rule("clock"), {"properties": {"x": {"enum": ["a" * 70_000]}}}, "too large together"),
        (PLAIN, rule("clock"), ODD, "not"),
        (TAGGED, rule("clock"), {"anyOf": [{}]}, "held to anyOf"),
        (TAGGED, rule("clock"), {"properties": {"x": {"type": "string", "pattern": "a"}}}, "x: .* held to pattern"),
        (TAGGED, rule("clock"), {"properties": {"a b": {"type": "string"}}}, "argument named 'a b'"),
        (TAGGED, rule("clock"), {"required": ["x"]}, "'x' is required, and no property"),
    ],
)
def test_what_cannot_be_held_to_is_refused_in_words(
    written: CallFormat, asked: CallRule, parameters: Any, words: str
) -> None:
    tools = [{"type": "function", "function": {"name": "clock", "parameters": parameters}}]
    with pytest.raises(BadInput, match=words):
        Model(written, asked, {}, tools)

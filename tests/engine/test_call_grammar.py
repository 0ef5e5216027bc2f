"""Calls that a reply must make: whatever the grammar lets a model write, carol's client reads as calls of her tools.

Bob's template says how his model writes them; a model that writes at random what may stand there is the worst of all.
"""

from __future__ import annotations

import contextlib
import json
import re
import tracemalloc
from functools import cache
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
from dsdnode.wire.calls import MAX_NAMES, PLAIN, CallFormat, CallRule
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


WAYS = (
    "Apertus-8B-Instruct", "Apriel-1.6-15b-Thinker-fixed", "ByteDance-Seed-OSS", "Cohere2MoE",
    "CohereForAI-c4ai-command-r-plus-tool_use", "GLM-4.6", "GLM-4.7-Flash", "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B", "Kimi-K3", "MiniMax-M2", "Mistral-Small-3.2-24B-Instruct-2506",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "NVIDIA-Nemotron-Nano-v2", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4-Flash-0731", "meetkai-functionary-medium-v3.1", "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct", "mistralai-Ministral-3-14B-Reasoning-2512",
    "mistralai-Mistral-Nemo-Instruct-2407", "moonshotai-Kimi-K2", "openai-gpt-oss-120b", "openbmb-MiniCPM5-1B",
    "tencent-Hy3", "upstage-Solar-Open-100B",
)  # fmt: skip
"""Models whose templates write calls each in another way: no two alike, and no other way is known."""


@cache
def written_by(name: str) -> CallFormat:
    return ChatTemplate(load()[name]["source"], {}, SPECIALS).calling[1]


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
        self.controls = controls
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

    def may_write(self, *parts: str, spelled: bool = True) -> bool:
        """`spelled`: in tokens of a text alone, what a control token is called, too; else that of every second part."""
        tokens = [one for at, part in enumerate(parts) for one in self.tokens(part, spelled or at % 2 == 1)]
        names, _ = self.grammars.masks(b"", tokens, 0)
        return len(names) == len(tokens) + 1 and END in self.next(tokens)

    def tokens(self, text: str, spelled: bool) -> list[int]:
        pattern = "|".join(map(re.escape, self.controls)) if self.controls and not spelled else "(?!)"
        parts = re.split(f"({pattern})", text)
        return [one for at, part in enumerate(parts) for one in ([self.controls[part]] if at % 2 else part.encode())]

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


@pytest.mark.slow
def test_every_way_is_tried() -> None:
    ways = list(map(written_by, WAYS))
    assert len(set(ways)) == len(ways)
    assert {*map(written_by, load())} == {PLAIN, *ways}


@pytest.mark.parametrize("name", ["plain", *WAYS])
def test_every_reply_is_calls_of_tools_that_are_valid(name: str) -> None:
    """In the way of each model, whether its marks are control tokens or texts."""
    written, rng = PLAIN if name == "plain" else written_by(name), Random(name)
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
TAGGED = written_by("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")


def rule(*names: str, **more: Any) -> CallRule:
    return CallRule(names=names, strict=names, **more)


MARKED = CallFormat(open="<tool_call>", close="</tool_call>")
LED = CallFormat(open="", close="", lead="<|python_tag|>")
HALF_MARKED = CallFormat(open="\n<|call|>json", close="</tool_call>")


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (MARKED, ()),
        (MARKED, ("<tool_call>", "</tool_call>")),
        (MARKED, ("</tool_call>",)),
        (HALF_MARKED, ("<|call|>",)),
        (CallFormat(open="", close=""), ()),
        (LED, ()),
        (LED, ("<|python_tag|>",)),
    ],
)
def test_where_words_may_come_they_are_no_call(written: CallFormat, names: tuple[str, ...]) -> None:
    """Carol's tools are strict, and the model may answer without them: but not with a call that is none of theirs, nor
    by a mark that is spelled where it has a token for it."""
    controls = {name: FIRST_CONTROL + at for at, name in enumerate(names)}
    model = Model(written, rule("clock", free=True), controls)
    call = '{"name": "clock", "arguments": {"utc": true}}'
    wrong = '{"name": "clock", "arguments": {"utc": 5}}'
    other = '{"name": "get_weather", "arguments": {}}'
    marks = [f"{written.open}%s{written.close}"] + [f"{written.lead} %s", " %s"] * (not written.open)
    assert model.may_write("It is <tool> 5 {o'clock}.") and model.may_write("")
    assert model.may_write(marks[0] % call, spelled=False)
    for mark in marks:
        for odd in (wrong, other):
            assert not model.may_write(mark % odd, spelled=False) and not model.may_write(mark % odd)
            assert not written.open or not model.may_write(f"I look.{mark % odd}")
            assert not written.open or not model.may_write(f"I look.{mark % odd}", spelled=False)
    assert not written.open or model.may_write(f"I look.\n{marks[0] % call}", spelled=False)
    assert written.open or model.may_write(f"{written.lead}print(5)")


@pytest.mark.parametrize("space", ["", *" \t\x0b\x1c\x1f\x85\xa0\u2003\u2028\u3000"])
def test_where_words_may_come_no_space_hides_a_call(space: str) -> None:
    """Whatever a reader passes over before one."""
    for written in (CallFormat(open="", close=""), LED):
        model = Model(written, rule("clock", free=True), {})
        for text in (space + "%s", space + written.lead + space + "%s", space + "[" + space + "%s"):
            odd = text % '{"name": "get_weather", "arguments": {}}'
            assert not model.may_write(odd), repr(odd)


@pytest.mark.parametrize("named", [(), ("</v>",)])
@pytest.mark.parametrize("close", ["</v>", "\n</v>", " </v>"])
def test_a_text_ends_where_a_reader_finds_its_end(close: str, named: tuple[str, ...]) -> None:
    """Nor is that spelled in it, where the model has a token for it."""
    written = CallFormat(
        kind="tagged", open="<call>", lead="<f ", mid=">", end="</f>", key_open="<k ", key_close=">", value_close=close
    )
    said = {"type": "string", "minLength": 2, "maxLength": 7}
    schema = {"type": "object", "properties": {"said": said, "to": {"enum": ["x"]}}, "required": ["said"]}
    tools = [{"type": "function", "function": {"name": "say", "parameters": schema}}]
    model = Model(written, rule("say"), {name: FIRST_CONTROL + at for at, name in enumerate(named)}, tools)
    for text in ("ab", "a\n\n", "a\n", "\n", "abcdefg", "abcdefgh", "", "a</v>b", "a\n</v>b"):
        ended = "\n</v>" if close[0] == "\n" else "</v>"
        before, behind = "<call><f say><k said>", f'{ended}<k to>"x"{ended}</f></tool_call>'
        is_right = 2 <= len(text) <= 7 and "</v>" not in text
        assert model.may_write(before, text, behind, spelled=False) == is_right, text
        if is_right:
            told = CallReader(written, tools).feed(before + text + behind)
            assert told == [CallPart(0, "say", json.dumps({"said": text, "to": "x"}))]


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
        (TAGGED, rule("clock"), {"required": [[]]}, "held to required"),
        (TAGGED, rule("clock"), {"properties": {"x": {"type": "string", "maxLength": 10_001}}}, "10000 at most"),
    ],
)
def test_what_cannot_be_held_to_is_refused_in_words(
    written: CallFormat, asked: CallRule, parameters: Any, words: str
) -> None:
    tools = [{"type": "function", "function": {"name": "clock", "parameters": parameters}}]
    with pytest.raises(BadInput, match=words):
        Model(written, asked, {}, tools)


SATISFIABLE: list[tuple[dict[str, Any], Any]] = [
    ({"properties": {"a": {"type": "integer"}}, "required": ["a", "b"]}, {"a": 1, "b": 2}),
    ({"properties": {"a": {"type": "integer"}}, "anyOf": [{"required": ["b"]}]}, {"b": 1}),
    (
        {
            "properties": {"a": {"type": "integer"}},
            "allOf": [{"properties": {"b": {"type": "integer"}}, "required": ["b"]}],
        },
        {"b": 1},
    ),
    (
        {"properties": {"a": {"type": "integer"}}, "$ref": "#/$defs/b", "$defs": {"b": {"required": ["b"]}}},
        {"a": 1, "b": 2},
    ),
]


@pytest.mark.parametrize(("parameters", "arguments"), SATISFIABLE)
def test_what_is_valid_by_a_schema_can_be_written(parameters: dict[str, Any], arguments: Any) -> None:
    """Carol's tool asks for more than it names."""
    parameters = {"type": "object", **parameters}
    jsonschema.validate(arguments, parameters)
    tools = [{"type": "function", "function": {"name": "clock", "parameters": parameters}}]
    call = {"name": "clock", "arguments": arguments}
    assert Model(PLAIN, rule("clock"), {}, tools).may_write(f"<tool_call>{json.dumps(call)}</tool_call>")


def test_what_a_plain_schema_does_not_name_is_not_written() -> None:
    call = '{"name": "clock", "arguments": {"utc": true, "more": 1}}'
    assert not Model(PLAIN, rule("clock"), {}).may_write(f"<tool_call>{call}</tool_call>")


TOOL = '[{"function": {"name": "clock", "parameters": SCHEMA}}]'
MANY = {f"p{number}": {"type": "integer"} for number in range(400)}
LARGE: list[tuple[CallFormat, str]] = [
    (TAGGED, json.dumps({"properties": MANY, "$defs": {"a": {"const": "y" * 200_000}}})),
    (PLAIN, json.dumps({"properties": MANY, "$defs": {"a": {"const": "y" * 200_000}}})),
    (TAGGED, json.dumps({"properties": {f"p{number}": {} for number in range(50_000)}})),
    (PLAIN, '{"enum": [' + "[]," * 300_000 + "1]}"),
    (PLAIN, '{"enum": [' + "1," * 400_000 + "1]}"),
    (PLAIN, '{"examples": [' + "[]," * 300_000 + "1]}"),
]


@pytest.mark.parametrize(("written", "parameters"), LARGE)
def test_what_is_too_large_is_refused_before_it_is_made(written: CallFormat, parameters: str) -> None:
    """Mallory's tools would be gigabytes in bob's drafter, which is to say that they are too many."""
    tools = TOOL.replace("SCHEMA", parameters)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="too large together"):
            call_grammar(written, rule("clock"), tools, {}, [END])
        assert tracemalloc.get_traced_memory()[1] < 8 * len(tools) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_a_tool_that_is_named_often_is_written_once() -> None:
    once, often = (call_grammar(PLAIN, rule(*["clock"] * num), json.dumps(TOOLS), {}, [END]) for num in (1, MAX_NAMES))
    assert once == often


@pytest.mark.parametrize("depth", [20, 40, 350, 450, 5000])
@pytest.mark.parametrize("written", [PLAIN, TAGGED])
def test_however_deep_tools_are_it_is_said_in_words(written: CallFormat, depth: int) -> None:
    """Mallory's are read in bob's drafter, with a stack that has an end."""
    nested = '{"properties": {"x": ' + '{"anyOf": [' * depth + "{}" + "]}" * depth + "}}"
    with pytest.raises(BadInput, match=r"levels|recursion") if depth > 20 else contextlib.nullcontext():
        call_grammar(written, rule("clock"), TOOL.replace("SCHEMA", nested), {}, [END])

"""A drafter's text in which a model may call tools: whatever is written, by whatever marks, wherever it is cut."""

from __future__ import annotations

import contextlib
import json
import re

from dsdnode.client import call_marks, json_scan
from dsdnode.client.calls import CallPart, CallReader
from dsdnode.client.json_scan import ValueScan
from dsdnode.errors import PeerMisbehaved
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.codec import decode_body, encode_body
from tests.fuzz.judged import FORMATS
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser

TOOLS = [
    {"function": {"name": "weather", "parameters": {
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "more": {"type": ["string", "null"]}}
    }}},
    {"function": {"name": "stop", "parameters": {}}},
    {"function": {"name": "odd", "parameters": {"properties": "none"}}},
]  # fmt: skip
ARGUMENTS = '{"city": "U\\"l}m", "days": 3}'
CALL = f'{{"name": "weather", "arguments": {ARGUMENTS}}}'
WRITTEN = (
    (0, f"Hi.\n<tool_call>\n{CALL}\n</tool_call>"), (0, f'<tool_call>[{CALL}, {{"name": "stop"}}]</tool_call> ok'),
    (0, f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "weather"}}'),
    (0, f'<tool_call>{{"name": "stop", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call>'),
    (1, f'<|python_tag|>{CALL.replace("arguments", "parameters")}; {{"name": "stop"}}'), (1, '{"answer": [5, {}]}'),
    (2, f"[TOOL_CALLS][{CALL}]"),
    (3, f"<|calls|><|call|>functions.weather:0<|args|>{ARGUMENTS}<|/call|><|call|>functions.stop<|args|>{{}}<|/call|>"),
    (4, '<tool_call>\n<function=weather>\n<parameter=city>\nU"l}m\n</parameter>\n<parameter=days>\n3\n</parameter>\n'
        "</function>\n</tool_call>\n<tool_call>\n<function=odd>\n<parameter=x>\nNaN\n</parameter>\n</function>"),
    (4, "<tool_call><function=weather><parameter=more type=x>\n\\\n</parameter></function></tool_call>"),
)  # fmt: skip
PARTS = (
    *(mark for one in FORMATS for mark in one.marks), "{", "}", "[", "]", '"', "\\", ",", ":", '"name"', '"arguments"',
    '{"name": ', "null", "NaN", "1e999", "-Infinity", "9" * 5000, "\\u0000", "\\ud800", "\ud800", "é", "\u2028", "\0",
    " ", "\n", "`", "<", " " * 300, "x" * 300, "[" * 300, '"\\' * 99, "weather", "stop", "odd", "123456789:",
)  # fmt: skip
SIZES, MAX_PIECES = (1, 2, 7, 100), 400
BROKEN = re.compile("[\ud800-\udfff]")


def _written(mutator: Mutator) -> Case:
    """By which marks, the text, and how long the pieces are in which it comes."""
    index, text = mutator.any_of(WRITTEN)
    marks = FORMATS[index] if mutator.rng.random() < 0.95 else mutator.any_of(FORMATS)
    if mutator.rng.random() < 0.95:
        text = mutator.respelled(text, PARTS)
    if mutator.rng.random() < 0.02:
        text *= mutator.any_of((2, 30))
    said = BROKEN.sub("\ufffd", text).encode()  # UTF-8 has no halves of characters
    told = mutator.packed(_plain(marks)) if mutator.rng.random() < 0.1 else encode_body(marks)
    return told, said, bytes([mutator.any_of(SIZES)])


def _plain(marks: CallFormat) -> dict[str, str]:
    return {name: getattr(marks, name) for name in marks.__struct_fields__}


def _read(case: Case) -> None:
    """In pieces as in one go, by marks of which none begins like another; and what is told as JSON is JSON."""
    marks, text = decode_body(case[0], CallFormat), case[1].decode()
    whole, size = _told(marks, [text]), max(case[2][0], len(text) // MAX_PIECES)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert whole == _told(marks, parts) or marks not in FORMATS, "another cut, another call"
    said = [one for one in whole if isinstance(one, str)]
    if len(said) == len(whole):
        assert "".join(said) == text, "text is lost"
    encode_body([one if isinstance(one, str) else (one.name, one.arguments) for one in whole])
    for one in whole:
        if isinstance(one, CallPart):
            assert 0 < len(one.name) <= 128 and re.fullmatch(call_marks.NAME, one.name)
            if marks.kind == "tagged":  # (what is no JSON at all its reader sees)
                with contextlib.suppress(ValueError):
                    json.loads(one.arguments, parse_constant=_no_json)


def _is_call(one: str | CallPart) -> bool:
    return isinstance(one, CallPart)


def _no_json(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def _told(marks: CallFormat, parts: list[str]) -> list[str | CallPart]:
    """Neighbours of a kind as one."""
    reader, found = CallReader(marks, TOOLS), list[str | CallPart]()
    for one in [one for part in parts for one in reader.feed(part)] + reader.finish():
        before = found[-1] if found else None
        if isinstance(one, CallPart):
            if isinstance(before, CallPart) and before.index == one.index:
                assert not one.name, "a name is said once"
                found[-1] = CallPart(one.index, before.name, before.arguments + one.arguments)
                continue
            assert one.name and one.index == sum(map(_is_call, found)), "calls are not counted one by one"
        elif isinstance(before, str):
            found[-1] = before + one
            continue
        found.append(one)
    return found


# --- a JSON value

VALUES = (ARGUMENTS, '"a\\\\\\"b"', "-1.5e3", "null", "[]", '[{"a": [1, "]"]}, {}]', "{}", '""', '"\\u00e9"', "  {}")


def _value(mutator: Mutator) -> Case:
    text = mutator.any_of(VALUES)
    text = mutator.respelled(text, PARTS[-40:]) if mutator.rng.random() < 0.7 else text
    rest = mutator.any_of(("", ",", "}", "]", ', "more": 5}', " "))
    return BROKEN.sub("\ufffd", text + rest).encode(), bytes([mutator.any_of(SIZES)])


def _scan(case: Case) -> None:
    """What JSON says is a value ends where it ends; and its ends are found whatever the pieces."""
    text, size = case[0].decode(), case[1][0]
    whole = _ended(text, len(text) or 1)
    assert whole == _ended(text, size), "another cut, another end"
    end, is_broken = whole
    try:
        _, wanted = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        wanted = -1
    if wanted > 0 and text[0] in '{["' and text.count("[") + text.count("{") < json_scan.MAX_DEPTH:
        assert (end, is_broken) == (wanted, False), "a value is not found"
    for one in (json_scan.json_of(text), json_scan.arguments_of(text)):
        json.loads(one.encode())
    json.loads(json_scan.json_of(text), parse_constant=_no_json)


def _ended(text: str, size: int) -> tuple[int, bool]:
    scan = ValueScan()
    for at in range(0, len(text), size):
        end = scan.feed(text[at : at + size])
        if end >= 0 or scan.is_broken:
            return at + end, scan.is_broken
    return -1, False


PARSERS = (
    Parser("calls", _written, _read, (PeerMisbehaved,), (CallReader, call_marks), lambda case: True),
    Parser(
        "json-value", _value, _scan, (), (ValueScan, json_scan.json_of, json_scan.arguments_of), lambda case: True,
    ),
)  # fmt: skip

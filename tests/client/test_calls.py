"""Bob's drafter sends what the model writes; carol's client tells calls of tools from text, wherever it is cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdnode.client.calls import MAX_PARTS, CallPart, CallReader
from dsdnode.client.json_scan import ValueScan
from dsdnode.client.part import Piece
from dsdnode.client.request import _pieces
from dsdnode.errors import PeerMisbehaved
from dsdnode.wire.calls import PLAIN, CallFormat
from dsdnode.wire.codec import decode_body
from dsdnode.wire.logprobs import SaidPosition, SaidToken

PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": PROPERTIES}}},
    {"type": "function", "function": {"name": "stop", "parameters": {}}},
]
BARE = CallFormat(open="", close="", arguments_key="parameters", lead="<|python_tag|>")
MISTRAL = CallFormat(open="[TOOL_CALLS]", close="")
NAMED = CallFormat(
    kind="named", open="<|calls|>", lead="<|call|>functions.", mid="<|args|>", end="<|/call|>", close="<|/calls|>"
)
TAGGED = CallFormat(
    kind="tagged", open="<tool_call>", lead="<function=", mid=">", end="</function>", close="</tool_call>",
    key_open="<parameter=", key_close=">\n", value_close="\n</parameter>",
)  # fmt: skip
ULM: Any
STOP: Any
ULM, STOP = ("weather", {"city": 'U"l}m', "days": 3}), ("stop", {})
Told = list[str | tuple[str, str]]


def told(calls: CallFormat, parts: Iterable[str]) -> Told:
    """Texts, and (name, arguments) of each call."""
    reader, found = CallReader(calls, TOOLS), Told()
    said = [one for part in parts for one in reader.feed(part)] + reader.finish()
    open_call = -1
    for one in said:
        before = found[-1] if found else None
        if isinstance(one, CallPart):
            if one.index == open_call and isinstance(before, tuple):
                assert not one.name, "a name is said once"
                found[-1] = (before[0], before[1] + one.arguments)
            else:
                assert one.index == open_call + 1 and one.name
                found.append((one.name, one.arguments))
                open_call = one.index
        elif isinstance(before, str):
            found[-1] = before + one
        else:
            found.append(one)
    return found


def read(found: Told) -> list[Any]:
    return [one if isinstance(one, str) else (one[0], json.loads(one[1])) for one in found]


ARGUMENTS = json.dumps(ULM[1])
TEXTS: list[tuple[CallFormat, str, list[Any]]] = [
    (PLAIN, f'Hi.\n<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>', ["Hi.", ULM]),
    (PLAIN, f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "weather"}}</tool_call>', [ULM]),
    (PLAIN, f'<tool_call>[{{"name": "weather", "arguments": {ARGUMENTS}}}, {{"name": "stop"}}]', [ULM, STOP]),
    (PLAIN, '<tool_call>{"name": "stop"}</tool_call>\n<tool_call>{"name": "stop"}</tool_call> ok', [STOP, STOP, " ok"]),
    (PLAIN, '<tool_call>{"name": "stop", "arguments": "{}"}</tool_call>', [STOP]),
    (PLAIN, "<tool_call> is <tool_call> twice", ["<tool_call> is <tool_call> twice"]),
    (PLAIN, '<tool_call>{"name": 5}</tool_call>', ['<tool_call>{"name": 5}</tool_call>']),
    (PLAIN, "ends with <tool_c", ["ends with <tool_c"]),
    (PLAIN, " \n ", [" \n "]),
    (BARE, f'{{"name": "weather", "parameters": {ARGUMENTS}}}', [ULM]),
    (BARE, f'<|python_tag|>{{"name": "weather", "parameters": {ARGUMENTS}}}; {{"name": "stop"}}', [ULM, STOP]),
    (BARE, '{"name": "Alice", "parameters": {}}', ['{"name": "Alice", "parameters": {}}']),
    (BARE, '{"answer": 5} as you asked', ['{"answer": 5} as you asked']),
    (BARE, "[link](http://x) and <|python", ["[link](http://x) and <|python"]),
    (MISTRAL, f'[TOOL_CALLS][{{"name": "weather", "arguments": {ARGUMENTS}, "id": "123456789"}}]', [ULM]),
    (NAMED, f"<|calls|><|call|>functions.weather:0<|args|>{ARGUMENTS}<|/call|>"
     "<|call|>functions.stop:1<|args|>{}<|/call|><|/calls|>", [ULM, STOP]),
    (NAMED, f"<|calls|><|call|>functions.weather<|args|> \n{ARGUMENTS}<|/call|><|/calls|>", [ULM]),
    (TAGGED, '<tool_call>\n<function=weather>\n<parameter=city>\nU"l}m\n</parameter>\n<parameter=days>\n3\n'
     "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=stop>\n</function>\n</tool_call>", [ULM, STOP]),
    (MISTRAL, 'So:[TOOL_CALLS][{"name": "stop"}, {"note": "x", "y": 5}] x', ["So:", STOP, '{"note": "x", "y": 5}] x']),
    (PLAIN, '<tool_call>{"name": "stop"}\n{"name": 5, "a": {}} ok', [STOP, '{"name": 5, "a": {}} ok']),
    (PLAIN, '<tool_call>{"name": "stop", "arguments": {}, "why": }, 5', [STOP, ' "why": }, 5']),
    (PLAIN, '<tool_call>{"name": "stop", "arguments": {}, "id": 5,}</tool_call> ok', [STOP, " ok"]),
    (BARE, '{"name": "stop", "parameters": {}, "why": 5} ok', [STOP, ' "why": 5} ok']),
    (BARE, '{"name": "stop"}; {"answer": 5} ok', [STOP, '{"answer": 5} ok']),
    (PLAIN, '<tool_call>[{"name": "stop"}, {"name": "we', [STOP, '{"name": "we']),
    (NAMED, "<|calls|><|call|>functions.stop<|args|>{}<|/call|><|call|>functions.stop<|args|>5 or 6",
     [STOP, "<|call|>functions.stop<|args|>5 or 6"]),
    (TAGGED, "<tool_call><function=stop></function><function=?> or what", [STOP, "<function=?> or what"]),
    (TAGGED, "<tool_call><function=stop>\n<parameter={}>" + " what" * 300, [STOP, "<parameter={}>" + " what" * 300]),
]  # fmt: skip


@pytest.mark.parametrize(("calls", "text", "wanted"), TEXTS)
def test_calls_and_texts_wherever_it_is_cut(calls: CallFormat, text: str, wanted: list[Any]) -> None:
    whole = told(calls, [text])
    assert read(whole) == wanted
    for size in (1, 2, 3, 5, 7, 11):
        assert told(calls, [text[at : at + size] for at in range(0, len(text), size)]) == whole


FRAGMENTS = [
    "<tool_call>",
    "</tool_call>",
    "<|calls|>",
    "<|call|>",
    '{"name": ',
    '"stop"',
    ', "arguments": ',
    "{}",
    "}",
]
FRAGMENTS += ["{", "[", "]", '"', "\\", "1", " ", "\n", "<", "<function=", "stop>", "</function>", "<parameter=", "é"]
SHATTERED = st.lists(st.sampled_from(FRAGMENTS), max_size=12)


@given(SHATTERED, st.sampled_from([PLAIN, BARE, MISTRAL, NAMED, TAGGED]))
def test_whatever_a_model_writes(parts: list[str], calls: CallFormat) -> None:
    """No call is told of that another cut would not show; without one, nothing is lost."""
    whole = told(calls, ["".join(parts)])
    assert told(calls, parts) == whole == told(calls, "".join(parts))
    if all(isinstance(one, str) for one in whole):
        assert "".join(map(str, whole)) == "".join(parts)


MARKS = st.sampled_from(["", " ", "\n", "<", "<a>", "{", "}", '"', "a", "<a> ", "</a>"])
NAMES = ("open", "close", "lead", "mid", "end", "key_open", "key_close", "value_close", "name_key", "arguments_key")


@given(
    st.sampled_from(["json", "named", "tagged"]),
    st.fixed_dictionaries(dict.fromkeys(NAMES, MARKS)),
    st.lists(st.sampled_from(["<", "<a>", "</a>", "{", "}", '"a"', ":", "a", " ", "\n", "stop", "<a> "]), max_size=12),
)
def test_a_stranger_says_how_calls_are_written(kind: str, marks: dict[str, str], parts: list[str]) -> None:
    """Mallory drafts: carol's client gets on with any text by any marks, or takes none of them."""
    packed = msgspec.msgpack.encode({"kind": kind, **marks})
    try:
        calls = decode_body(packed, CallFormat)
    except PeerMisbehaved:
        return
    assert told(calls, parts) is not None


@pytest.mark.parametrize("kind", ["named", "tagged"])
def test_marks_by_which_nothing_ends_are_refused(kind: str) -> None:
    with pytest.raises(PeerMisbehaved, match="cannot be told apart"):
        decode_body(msgspec.msgpack.encode({"kind": kind, "open": ""}), CallFormat)


def test_a_long_reply_that_is_no_call_is_not_held_back() -> None:
    reader = CallReader(BARE, TOOLS)
    assert reader.feed('{"answer": 5') == ['{"answer": 5'], "a JSON answer is shown as it comes"
    reader = CallReader(NAMED, TOOLS)
    assert reader.feed("<|calls|>" + "x" * 2000)


HOSTILE = [
    (NAMED, "<|calls|>"),
    (NAMED, "<|calls|><|call|>functions." + "a" * 200),
    (PLAIN, '<tool_call>{"a": ['),
    (PLAIN, '<tool_call>{"a": "<tool_call>'),
    (MISTRAL, '[TOOL_CALLS] {"a": [{}], '),
    (TAGGED, "<tool_call><function="),
]


@pytest.mark.parametrize(("calls", "part"), HOSTILE)
def test_work_grows_with_a_text_and_no_faster(calls: CallFormat, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory drafts: her texts, in one piece, would have carol's gateway read them over and over."""
    true = CallReader._advance

    def looked_at(size: int) -> int:
        num = 0

        def counted(self: CallReader, count: int) -> str:
            nonlocal num
            num += len(self._text)
            return true(self, count)

        monkeypatch.setattr(CallReader, "_advance", counted)
        reader, text = CallReader(calls, TOOLS), part * (size // len(part))
        said = reader.feed(text) + reader.finish()
        assert all(isinstance(one, str) for one in said) and "".join(map(str, said)) == text
        return num

    assert looked_at(200_000) < 4 * looked_at(100_000)


def test_after_many_marks_that_were_none_all_is_text() -> None:
    call = '<tool_call>{"name": "stop"}</tool_call>'
    assert read(told(PLAIN, ["<tool_call> " * 100 + call])) == [("<tool_call> " * 100).rstrip(), STOP]
    assert told(PLAIN, [text := "<tool_call> " * 300 + call]) == [text]


def test_after_many_calls_and_arguments_all_is_text() -> None:
    """Mallory's marks have two characters: each would be a call."""
    short = CallFormat(kind="tagged", open="<", end="-", key_open="{", key_close="=", value_close="}")
    for text in ("<a-" * 3000, "<a" + "{b=1}" * 3000 + "-", "<a" + "{b=1}" * 30 + "-" + "<a{b=1}-" * 3000):
        parts = CallReader(short, TOOLS).feed(text)
        calls = [one for one in parts if isinstance(one, CallPart)]
        assert len(calls) + sum(one.arguments.count('": ') for one in calls) <= MAX_PARTS
        assert isinstance(parts[-1], str) and text.endswith(parts[-1])
    many = "[TOOL_CALLS][" + '{"name": "stop"}, ' * 3000
    assert sum(isinstance(one, CallPart) for one in CallReader(MISTRAL, TOOLS).feed(many)) <= MAX_PARTS


NOTES = '{"note": 1, "name": "stop", "why": "ABC"}, ' * 9
FULL = [
    (MISTRAL, '[TOOL_CALLS][' + '{"name": "stop"}, ' * (MAX_PARTS // 2 - 1), NOTES, MAX_PARTS // 2 - 1),
    (MISTRAL, '[TOOL_CALLS][' + '{"name": "stop"}, ' * (MAX_PARTS // 2), NOTES, MAX_PARTS // 2),
    (BARE, '[' + '{"name": "stop"}, ' * (MAX_PARTS // 2), '{"name": "stop"}] x', MAX_PARTS // 2),
    (NAMED, "<|calls|>" + "<|call|>functions.stop<|args|>{}" * MAX_PARTS, "<|call|>functions.a<|args|>{}", MAX_PARTS),
    (TAGGED, "<tool_call>" + "<function=stop></function>" * MAX_PARTS, "<function=stop></function> x", MAX_PARTS),
]  # fmt: skip


@pytest.mark.parametrize(("calls", "before", "text", "num"), FULL)
def test_what_comes_after_so_many_calls_is_text_from_its_beginning(
    calls: CallFormat, before: str, text: str, num: int
) -> None:
    assert read(told(calls, [before + text])) == [STOP] * num + [text.rstrip()]


@pytest.mark.parametrize("mid", [">", "args>", " args>", "\n", " ", "", "/"])
def test_a_name_ends_where_its_mark_begins(mid: str) -> None:
    """Whatever it begins with; and where it does not come, that is known without trying each way to it."""
    calls = CallFormat(kind="named", open="<", close="", lead="", mid=mid, end="")
    text = f"<weather{mid}{ARGUMENTS}"
    assert read(told(calls, [text])) == read(told(calls, [*text])) == [ULM]
    text = ("<" + "a" * 128 + " " * 900) * 9 + "."
    assert told(calls, [text]) == [text]


def test_log_probabilities_of_a_piece_are_told_once() -> None:
    """A text and a call came with one token."""
    said = (SaidPosition(SaidToken(5, -0.5, b"a")),)
    pieces = _pieces(["Hi.", CallPart(0, "stop", "{}")], Piece((5,), "", 1, logprobs=said))
    assert [(one.tokens, one.logprobs) for one in pieces if isinstance(one, Piece)] == [((5,), said), ((), ())]


def test_a_mark_that_begins_like_another_is_waited_for() -> None:
    calls = msgspec.structs.replace(TAGGED, lead="<")
    text = "<tool_call><stop></function></tool_call>"
    assert told(calls, [text]) == told(calls, [*text]) == [("stop", "{}")]


@pytest.mark.parametrize("value", ["NaN", "1e999", "[-Infinity]", '"\\ud800"', '{"a": "\\udfff"}', "\\ud800"])
def test_what_no_json_or_no_utf_8_has_is_told_otherwise(value: str) -> None:
    """Gateways send it on: one that fails at a number or half a character would fail at the whole reply."""
    text = f"<tool_call><function=weather><parameter=days>\n{value}\n</parameter></function></tool_call>"
    [one] = CallReader(TAGGED, TOOLS).feed(text)
    assert isinstance(one, CallPart) and "days" in msgspec.json.decode(one.arguments.encode())
    written = json.dumps(f'{{"days": {value}}}' if value[0] in '"{' else "{}").replace("\\\\ud", "\\ud")
    [one] = CallReader(PLAIN, TOOLS).feed(f'<tool_call>{{"name": "weather", "arguments": {written}}}')
    assert isinstance(one, CallPart) and isinstance(json.loads(one.arguments.encode()), dict)


@pytest.mark.parametrize(
    ("calls", "text", "wanted"),
    [
        (PLAIN, '<tool_call>{"name": "stop", "arguments": "%s"}', [STOP]),
        (
            TAGGED,
            "<tool_call><function=weather><parameter=days>\n%s\n</parameter></function>",
            [("weather", {"days": "[" * 99_999})],
        ),
    ],
)
def test_what_is_nested_too_deep_to_be_read_is_no_json(calls: CallFormat, text: str, wanted: list[Any]) -> None:
    assert read(told(calls, [text % ("[" * 99_999)])) == wanted


def test_arguments_that_come_twice_are_those_of_one_call() -> None:
    text = '<tool_call>{"name": "stop", "arguments": {}, "parameters": {"city": "Ulm"}}</tool_call>'
    assert read(told(PLAIN, [text])) == [STOP]


def test_a_tool_whose_schema_makes_no_sense_can_be_called() -> None:
    tools = [{"type": "function", "function": {"name": "stop", "parameters": {"properties": ["city"]}}}]
    reader = CallReader(TAGGED, tools)
    said = reader.feed("<tool_call><function=stop><parameter=city>\nUlm\n</parameter></function></tool_call>")
    assert said == [CallPart(0, "stop", '{"city": "Ulm"}')]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
)


@given(JSON, st.integers(1, 5))
def test_where_a_value_ends(value: Any, size: int) -> None:
    text = json.dumps(value, ensure_ascii=False)
    scan, count = ValueScan(), 0
    for at in range(0, len(text) + 1, size):
        end = scan.feed((text + "}")[at : at + size])
        if end >= 0:
            assert (count + end, scan.is_broken) == (len(text), False)
            return
        count += size
    raise AssertionError("it has no end")

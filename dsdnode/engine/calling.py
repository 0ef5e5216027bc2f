"""Tools in a chat template: how it wants to be told of them, and how its model writes that it calls one.

Both are read off what the template makes of a conversation with a call in it, as transformers would give it: no list of
models. What a template cannot say is said in words that most models have seen (`plain_turns`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from dsdnode.wire.calls import MAX_MARK, PLAIN, CallFormat

Turn = dict[str, Any]
"""A message, as a template is given it."""
Render = Callable[[Sequence[Turn], Sequence[Any] | None], str]
"""By the template, not open for a reply. Raises what it likes."""

NAME, OTHER = "get_zork", "set_bork"
ARGUMENTS: Mapping[str, Any] = {"quux": 'zo"rk', "num": 739}
ASKED, SAID, RESULT, ABOUT = "Zork and bork?", "\u2042zorked\u2042", "739 zorks", "Counts the zorks."
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": ABOUT,
            "parameters": {
                "type": "object",
                "properties": {
                    "quux": {"type": "string", "description": "of what"},
                    "num": {"type": "integer", "description": "how many"},
                },
                "required": ["quux"],
            },
        },
    }
    for name in (NAME, OTHER)
]
PYTHON_TAG = "<|python_tag|>"
"""Llama 3 may write it before a call, and its templates only where it is asked for by name."""
EXPLAINED = """You may call these functions to help the user, each as often as it is needed:
<tools>
{tools}
</tools>
To call one, write a JSON object with its name and its arguments between tags, and nothing after it:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
The result comes as the next message, between <tool_response> and </tool_response>."""
"""To models whose template does not tell them of tools."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a template wants what has to do with tools. `as_object`: arguments, not as JSON text; `null`: the content
    beside calls. What it does not show is written as plain text."""

    as_object: bool = True
    null: bool = False
    shows_system: bool = True
    shows_tools: bool = False
    shows_calls: bool = False
    shows_results: bool = False

    def turns(self, messages: Sequence[Turn], tools: Sequence[Any] | None) -> list[Turn]:
        """What to give the template, of messages as OpenAI has them."""
        turns = [self._turn(message) for message in messages]
        said = []
        if turns[0]["role"] == "system":
            said.append(turns.pop(0)["content"])
        if tools and not self.shows_tools:
            told = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            said.append(EXPLAINED.format(tools=told))
        if said:
            turns.insert(0, {"role": "system" if self.shows_system else "user", "content": "\n\n".join(said)})
        return turns if self.shows_results and self.shows_system else _together(turns)

    def _turn(self, message: Turn) -> Turn:
        if "tool_call_id" in message:
            message = {**message, "tool_call_id": _short(message["tool_call_id"])}
        if message["role"] == "tool" and not self.shows_results:
            return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
        calls = message.get("tool_calls")
        if not calls:
            return message
        if not self.shows_calls:
            written = (f"<tool_call>\n{_plain(call['function'])}\n</tool_call>" for call in calls)
            return {"role": message["role"], "content": "\n".join([message["content"], *written]).lstrip("\n")}
        content = None if self.null and not message["content"] else message["content"]
        return {**message, "content": content, "tool_calls": [self._call(call) for call in calls]}

    def _call(self, call: Any) -> Any:
        function = call["function"]
        return {
            **call,
            "id": _short(call.get("id", "")),
            "function": {**function, "arguments": self._arguments(function["arguments"])},
        }

    def _arguments(self, text: str) -> Any:
        if not self.as_object:
            return text
        try:
            return json.loads(text or "{}")
        except (ValueError, RecursionError):
            return text


def _short(call_id: str) -> str:
    """Mistral's templates take nine letters and digits, and nothing else."""
    return call_id if re.fullmatch(r"[A-Za-z0-9]{9}", call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


SHAPES = [Shape(as_object, null) for as_object in (True, False) for null in (False, True)]
"""In the order in which they are tried."""


def _plain(function: Any) -> str:
    return json.dumps({"name": function["name"], "arguments": Shape()._arguments(function["arguments"])})


def _together(turns: list[Turn]) -> list[Turn]:
    """Some templates want users and assistants in turn: results, and what the user says beside them, become one."""
    found: list[Turn] = []
    for turn in turns:
        if found and turn["role"] == found[-1]["role"] == "user":
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n{turn['content']}"}
        else:
            found.append(turn)
    return found


def read(source: str, render: Render) -> tuple[Shape, CallFormat]:
    """`source`: the template's."""

    def rendered(turns: Sequence[Turn], tools: Sequence[Any] | None = TOOLS) -> str:
        try:
            return render(turns, tools)
        except Exception:  # a stranger's program may fail in any way
            return ""

    asked = {"role": "user", "content": ASKED}
    shows_tools = ABOUT in rendered([asked])
    shows_system = SAID in rendered([{"role": "system", "content": SAID}, asked], None)
    for shape in SHAPES:
        called = _called(shape)
        text = rendered([asked, called])
        if not all(one in text for one in (NAME, *ARGUMENTS, str(ARGUMENTS["num"]))):
            continue
        result = {"role": "tool", "content": RESULT, "tool_call_id": "call00001", "name": NAME}
        shows_results = RESULT in rendered([asked, called, result])
        shape = Shape(shape.as_object, shape.null, shows_system, shows_tools, True, shows_results)
        plain = rendered([asked, {"role": "assistant", "content": SAID}])
        return shape, _format(text, plain, source) or PLAIN
    result = {"role": "tool", "content": RESULT}
    said = {"role": "assistant", "content": SAID}
    text = rendered([asked, said, result])
    shows_results = RESULT in text and ASKED in text
    return Shape(shows_system=shows_system, shows_tools=shows_tools, shows_results=shows_results), PLAIN


def _called(shape: Shape) -> Turn:
    function = {"name": NAME, "arguments": json.dumps(ARGUMENTS)}
    call = {"id": "call00001", "type": "function", "function": function}
    return Shape(shape.as_object, shape.null, shows_calls=True)._turn(
        {"role": "assistant", "content": "", "tool_calls": [call]}
    )


# --- how a call is written


def _format(text: str, plain: str, source: str) -> CallFormat | None:
    """Of the same conversation with a call and with words. None: it is written in no way that is known here."""
    if SAID not in plain:
        return None
    before, behind = plain.split(SAID, 1)
    start = _whole_marks(text, _common(before, text))
    end = len(text) - _whole_marks(text[::-1], _common(behind[::-1], text[::-1]), "])}>", "([{<")
    body = text[start : max(start, end)]
    at = body.find(NAME)
    if at < 0:
        return None
    try:
        found = _json(body, at, source) or _named(body, at) or _tagged(body, at)
    except ValueError:  # by its marks no call could be told apart
        return None
    return found if found and all(len(mark) <= MAX_MARK for mark in found.marks) else None


def _json(body: str, at: int, source: str) -> CallFormat | None:
    for start in (match.start() for match in re.finditer(r"\{", body[:at])):
        value, end = _decoded(body, start)
        if not isinstance(value, dict) or end < at:
            continue
        name = next((key for key, one in value.items() if one == NAME), None)
        arguments = next((key for key, one in value.items() if one in (ARGUMENTS, json.dumps(ARGUMENTS))), None)
        if name is None or arguments is None:
            continue
        before = _pieces(body[:start].rstrip().removesuffix("[").rstrip())
        behind = _pieces(body[end:].strip().removeprefix("]").strip())
        return CallFormat(
            open=before[-1].strip() if before else "",
            close=behind[0].strip() if behind else "",
            name_key=name,
            arguments_key=arguments,
            lead=PYTHON_TAG if not before and PYTHON_TAG in source else "",
        )
    return None


def _named(body: str, at: int) -> CallFormat | None:
    start = body.find("{", at)
    value, end = _decoded(body, start) if start >= 0 else (None, 0)
    opens, closes = _pieces(body[:at]), _pieces(body[end:])
    if value != ARGUMENTS or not opens:
        return None
    mid = body[at + len(NAME) : start]
    marked = re.search(r"[<\[>]", mid)  # before it a number of the call may stand
    return CallFormat(
        kind="named",
        open=opens[0].strip(),
        lead=opens[-1].strip() if len(opens) > 1 else "",
        mid=mid[marked.start() :].strip() if marked else mid.strip(),
        end=_first_mark(closes),
        close=closes[-1].strip() if len(closes) > 1 else "",
    )


def _tagged(body: str, at: int) -> CallFormat | None:
    """Each argument in a mark of its own, the text as it is."""
    first, second = (re.escape(key) for key in ARGUMENTS)
    value, number = (re.escape(str(one)) for one in ARGUMENTS.values())
    pattern = rf"([\s\S]*?){first}([\s\S]*?){value}([\s\S]*?){second}([\s\S]*?){number}([\s\S]*)"
    match = re.fullmatch(pattern, body[at + len(NAME) :])
    opens = _pieces(body[:at])
    if match is None or not opens:
        return None
    head, key_close, between, other_close, tail = match.groups()
    gaps = _pieces(between)
    if len(gaps) < 2 or not tail.strip().startswith(gaps[0].strip()):
        return None
    common = _common(key_close[::-1], other_close[::-1])
    key_open = gaps[-1].lstrip()
    closes = _pieces(tail.strip().removeprefix(gaps[0].strip()))
    newline = "\n" if between.startswith("\n") else ""
    return CallFormat(
        kind="tagged",
        open=opens[0].strip(),
        lead=opens[-1].strip() if len(opens) > 1 else "",
        mid=head[: head.rfind(key_open.strip())].strip(),
        key_open=key_open,
        key_close=key_close[len(key_close) - common :],
        value_close=newline + gaps[0].strip(),
        end=_first_mark(closes),
        close=closes[-1].strip() if len(closes) > 1 else "",
    )


def _decoded(text: str, start: int) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, 0


def _pieces(text: str) -> list[str]:
    """Cut before each mark (<tag>, [TAG]); what is between marks belongs to the one before it."""
    return [piece for piece in re.split(r"(?=[<\[])", text.strip()) if piece.strip()]


def _first_mark(pieces: list[str]) -> str:
    return next((piece.strip() for piece in pieces if piece[0] in "<["), "")


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _whole_marks(text: str, length: int, opens: str = "([{<", closes: str = "])}>") -> int:
    """`length`, or less, so that no mark is cut through."""
    for at in range(length - 1, max(-1, length - MAX_MARK), -1):
        if text[at] in closes:
            return length
        if text[at] in opens:
            return at
    return length

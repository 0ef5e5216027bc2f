"""Calls of tools in what a model writes, told apart from its text as it comes. Pure.

What begins like a call is held back until it is certain that it is one: then its name is given, and its arguments as
they come. Until then it may turn out to be text, and is given as that: nothing but white space beside calls is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsdnode.client.call_marks import FIRST, KEY, NAME, NEXT_CALL, NEXT_MEMBER, SOMETHING, overlap, patterns_of
from dsdnode.client.call_text import MAX_HEAD, CallText, NoCall, Over, Steps
from dsdnode.client.json_scan import ValueScan, arguments_of, json_of, properties_of
from dsdnode.wire.calls import CallFormat, is_text

MAX_STEP = 256
"""Characters that are read at once: a stranger's text may be one piece, and what is not read yet is gone through again
at each mark in it."""
MAX_FALSE = 256
"""Marks of a reply behind which no call came; from then on all is text."""
MAX_PARTS = 2048
"""Calls of a reply, and arguments of these that stand in marks of their own, or other members: each takes ten
microseconds to be read, however short it is. From then on all is text."""
MAX_LEAD = 256
"""Characters in which `lead` must come."""
_ARGUMENTS = ("arguments", "parameters")
_BESIDE = ("type", "id")
"""Where nothing but JSON marks a call, another member shows that it is none."""


@dataclass(frozen=True, slots=True)
class CallPart:
    """Of the call number `index` of a reply: the name, once, and the arguments in pieces, which make up JSON."""

    index: int
    name: str = ""
    arguments: str = ""


class CallReader(CallText):
    """`feed` what a model writes, `finish` at the end: texts and CallParts come out, in order."""

    def __init__(self, calls: CallFormat, tools: Sequence[Mapping[str, Any]]) -> None:
        """`tools`: {"type": "function", "function": {"name", "parameters"}}."""
        super().__init__()
        self._calls = calls
        functions = [tool["function"] for tool in tools]
        self._schemas = {one["name"]: properties_of(one.get("parameters")) for one in functions}
        """Of each tool's arguments."""
        self._arguments = {calls.arguments_key, *_ARGUMENTS}
        self.num_calls = self._num_false = self._num_parts = 0
        self._space = ""
        """White space, which belongs to a text if one follows."""
        self._out: list[str | CallPart] = []
        self._one = self._named if calls.kind == "named" else self._tagged
        self._name, self._key, self._key_or_end = patterns_of(calls)
        self._run = self._read()

    def feed(self, text: str) -> list[str | CallPart]:
        for start in range(0, len(text), MAX_STEP):
            self._text += text[start : start + MAX_STEP]
            next(self._run, None)
        return self._taken()

    def finish(self) -> list[str | CallPart]:
        """What was held back."""
        self._last = True
        next(self._run, None)
        if not self.num_calls:
            self._out.append(self._space)
        return self._taken()

    def _taken(self) -> list[str | CallPart]:
        """Neighbours of a kind become one."""
        taken, self._out = self._out, []
        joined: list[str | CallPart] = []
        for one in taken:
            before = joined[-1] if joined else None
            if isinstance(one, str) and isinstance(before, str):
                joined[-1] = before + one
            elif isinstance(one, CallPart) and isinstance(before, CallPart) and before.index == one.index:
                joined[-1] = CallPart(one.index, before.name + one.name, before.arguments + one.arguments)
            else:
                joined.append(one)
        return [one for one in joined if one]

    # --- text

    def _read(self) -> Steps:
        calls = self._calls
        if not calls.open:
            yield from self._bare()
        while calls.open and self._num_false < MAX_FALSE and self._num_parts < MAX_PARTS:
            while (at := self._text.find(calls.open)) < 0:
                keep = 0 if self._last else overlap(self._text, calls.open)
                self._say(self._advance(len(self._text) - keep))
                if self._last:
                    return
                yield
            self._say(self._advance(at))
            yield from self._try(self._advance(len(calls.open)))
        while True:
            self._say(self._advance(len(self._text)))
            if self._last:
                return
            yield

    def _bare(self) -> Steps:
        """The whole reply is a call, or none of it."""
        lead = self._calls.lead
        while not self._last and len(self._text) <= MAX_HEAD and lead.startswith(self._text.strip()):
            yield
        skipped = self._advance(len(self._text) - len(self._text.lstrip()))
        if lead and self._text.startswith(lead):
            skipped += self._advance(len(lead))
        if self._text.lstrip()[:1] in ("{", "["):
            yield from self._try(skipped)
        else:
            self._say(skipped)

    def _try(self, mark: str) -> Steps:
        """Behind `mark`."""
        self._held, is_over, num_calls = [], False, self.num_calls
        try:
            yield from self._json() if self._calls.kind == "json" else self._section()
        except NoCall:
            pass
        except Over:
            is_over = True
        if (held := self._unheld()) is not None:
            self._num_false += 1
            again = held if len(held) <= MAX_HEAD else ""
            self._say((mark if self.num_calls == num_calls else "") + held[len(again) :])
            self._text = again + self._text
        elif is_over:
            self._text = ""

    def _say(self, text: str) -> None:
        text = self._space + text
        shown = text.rstrip()
        if len(text) > len(shown) + MAX_HEAD:
            shown = text
        self._space = text[len(shown) :]
        if shown:
            self._out.append(shown)

    # --- what is read

    def _value(self, *, shown: bool = False) -> Generator[None, None, str]:
        """The JSON value that comes next; `shown`: it is the arguments, given as they come."""
        scan, parts = ValueScan(), list[str]()
        while True:
            end = scan.feed(self._text)
            part = self._advance(len(self._text) if end < 0 else end)
            if shown:
                self._give(arguments=part)
            else:
                parts.append(part)
            if scan.is_broken:
                raise NoCall
            if end >= 0:
                return "".join(parts).strip()
            yield from self._more()

    def _call(self, name: str) -> None:
        """From here on it is certain. Raises NoCall: there were too many."""
        self._part()
        self._held = None
        self._space = ""
        self.num_calls += 1
        self._give(name=name)

    def _part(self) -> None:
        if self._num_parts >= MAX_PARTS:
            raise NoCall
        self._num_parts += 1

    def _give(self, *, name: str = "", arguments: str = "") -> None:
        if name or arguments:
            self._out.append(CallPart(self.num_calls - 1, name, arguments))

    # --- JSON alone

    def _json(self) -> Steps:
        yield from self._match(FIRST)
        if not self._text.startswith("{"):
            raise NoCall
        yield from self._object()
        yield from self._match(NEXT_CALL)
        while self._text.startswith("{"):
            yield from self._or_text(self._object())
            yield from self._match(NEXT_CALL)
        yield from self._find(self._calls.close)

    def _object(self) -> Steps:
        """Keys in any order: the arguments may come before the name."""
        self._advance(1)
        name, arguments = "", "{}"
        while not (match := (yield from self._match(KEY)))[2]:
            key = match[1]
            self._part()
            if key in self._arguments and name and self._text[:1] == "{":
                self._call(name)
                yield from self._value(shown=True)
                return (yield from self._beside())
            value = yield from self._member(key)
            if key in (self._calls.name_key, "name"):
                name = self._checked(value)
            elif key in self._arguments:
                arguments = arguments_of(value)
            if (yield from self._match(NEXT_MEMBER))[1] == "}":
                break
        if not name:
            raise NoCall
        self._call(name)
        self._give(arguments=arguments)

    def _member(self, key: str) -> Generator[None, None, str]:
        """Its value."""
        is_known = key in self._arguments or key in (self._calls.name_key, "name", *_BESIDE)
        if not (self._calls.open or is_known):
            raise NoCall
        return (yield from self._value())

    def _beside(self) -> Steps:
        """The arguments of a call: members that say nothing of it."""
        while (yield from self._match(NEXT_MEMBER))[1] == ",":
            if (yield from self._or_text(self._one_beside())):
                return

    def _one_beside(self) -> Generator[None, None, bool]:
        """True: there is none behind the comma, but the end."""
        match = yield from self._match(KEY)
        if not match[2]:
            self._part()
            yield from self._member(match[1])
        return bool(match[2])

    def _checked(self, value: str) -> str:
        """A name. Raises NoCall; where nothing but JSON marks a call it must be that of a tool."""
        try:
            name = json.loads(value)
        except ValueError:
            raise NoCall from None
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise NoCall
        if not self._calls.open and name not in self._schemas:
            raise NoCall
        return name

    # --- a name, then the arguments

    def _head(self) -> Generator[None, None, str]:
        """The name."""
        calls = self._calls
        most = MAX_LEAD + len(calls.lead)
        while (at := self._text.find(calls.lead, 0, most)) < 0:
            if len(self._text) >= most:
                raise NoCall
            yield from self._more()
        self._advance(at + len(calls.lead))
        match = yield from self._match(self._name)
        return match[1]

    def _named(self) -> Steps:
        name = yield from self._head()
        yield from self._match(SOMETHING)
        if self._text[0] != "{":
            raise NoCall
        self._call(name)
        yield from self._value(shown=True)

    def _section(self) -> Steps:
        yield from self._one()
        while (yield from self._another()):
            yield from self._or_text(self._one())

    def _another(self) -> Generator[None, None, bool]:
        """Behind the arguments: does another call of the same section follow?"""
        calls = self._calls
        try:
            if calls.end:
                yield from self._find(calls.end)
            found = yield from self._find(calls.close, calls.lead)
        except Over:
            return False
        if found and found == calls.lead:
            self._text = found + self._text
            return True
        return False

    # --- a name, then each argument in a tag of its own

    def _tagged(self) -> Steps:
        name = yield from self._head()
        self._call(name)
        properties = self._schemas.get(name, {})
        separator = "{"
        while (argument := (yield from self._next_key())) is not None:
            self._give(arguments=f"{separator}{json.dumps(argument, ensure_ascii=False)}: ")
            separator = ", "
            yield from self._tagged_value(properties.get(argument))
        self._give(arguments="}" if separator != "{" else "{}")

    def _next_key(self) -> Generator[None, None, str | None]:
        """Of another argument, before the call's end."""
        calls = self._calls
        while (match := self._key_or_end.match(self._text)) is None:
            if len(self._text) > MAX_HEAD:
                return None
            yield from self._more()
        if match[1] != calls.key_open or self._num_parts >= MAX_PARTS:
            return None
        self._part()
        skipped = self._advance(match.end() + len(calls.key_open))
        try:
            said = (yield from self._match(self._key))[1]
        except NoCall:
            self._text = skipped + self._text
            return None
        known = re.match(r"""[^"'<>=\s]+""", said)
        return known[0] if known else said.strip()

    def _tagged_value(self, schema: Any) -> Steps:
        """A text goes out as it comes, all else when it is whole."""
        calls = self._calls
        close, as_text = calls.value_close.strip(), is_text(schema)
        parts = list[str]()
        if calls.key_close.endswith("\n"):
            while not self._text:
                yield from self._more()
            self._advance(int(self._text[0] == "\n"))
        if as_text:
            self._give(arguments='"')
        while True:
            at = self._text.find(close)
            keep = 1 + len(close)
            part = self._advance(at if at >= 0 else max(0, len(self._text) - keep))
            if at >= 0 and calls.value_close.startswith("\n"):
                part = part.removesuffix("\n")
            if as_text:
                self._give(arguments=json.dumps(part, ensure_ascii=False)[1:-1])
            parts.append(part)
            if at >= 0:
                break
            yield from self._more()
        self._advance(len(close))
        self._give(arguments='"' if as_text else json_of("".join(parts)))

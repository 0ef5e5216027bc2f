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

from dsdnode.client.call_marks import NAME, overlap, patterns_of
from dsdnode.client.json_scan import ValueScan, arguments_of, json_of, properties_of
from dsdnode.wire.calls import CallFormat, is_text

MAX_HEAD = 1024
"""Characters in which a name, or a key, must have come; so much is read again where it is no call after all."""
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
_KEY = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"\s*:\s*(?=\S)|(\}))')
_SOMETHING = re.compile(r"\s*(?=\S)")
_NEXT_MEMBER = re.compile(r"\s*([,}])")
_FIRST = re.compile(r"\s*(?:\[\s*(?=\S)|(?=[^\s\[]))")
_NEXT_CALL = re.compile(r"[\s,;\]`]*(?=[^\s,;\]`])")
_ARGUMENTS = ("arguments", "parameters")
_BESIDE = ("type", "id")
"""Where nothing but JSON marks a call, another member shows that it is none."""
_BETWEEN = " \t\r\n`"
"""What may stand before a mark; some fence their JSON."""

Steps = Generator[None, None, None]
"""Yields where more text is needed."""


@dataclass(frozen=True, slots=True)
class CallPart:
    """Of the call number `index` of a reply: the name, once, and the arguments in pieces, which make up JSON."""

    index: int
    name: str = ""
    arguments: str = ""


class _NoCall(Exception):
    """It is text."""


class _Over(Exception):
    """The reply is, in the middle of a call."""


class CallReader:
    """`feed` what a model writes, `finish` at the end: texts and CallParts come out, in order."""

    def __init__(self, calls: CallFormat, tools: Sequence[Mapping[str, Any]]) -> None:
        """`tools`: {"type": "function", "function": {"name", "parameters"}}."""
        self._calls = calls
        functions = [tool["function"] for tool in tools]
        self._schemas = {one["name"]: properties_of(one.get("parameters")) for one in functions}
        """Of each tool's arguments."""
        self._arguments = {calls.arguments_key, *_ARGUMENTS}
        self.num_calls = self._num_false = self._num_parts = 0
        self._text = ""
        """What is not read yet."""
        self._held: list[str] | None = None
        """What was read of what may be a call; None: it is one, or text."""
        self._space = ""
        """White space, which belongs to a text if one follows."""
        self._out: list[str | CallPart] = []
        self._last = False
        self._steps = {"json": self._json, "named": self._named, "tagged": self._tagged}
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
        self._held, is_over = [], False
        try:
            yield from self._steps[self._calls.kind]()
        except _NoCall:
            pass
        except _Over:
            is_over = True
        if (held := self._unheld()) is not None:
            self._num_false += 1
            again = held if len(held) <= MAX_HEAD else ""
            self._say(mark + held[len(again) :])
            self._text = again + self._text
        elif is_over:
            self._text = ""

    def _unheld(self) -> str | None:
        held, self._held = self._held, None
        return None if held is None else "".join(held)

    def _say(self, text: str) -> None:
        text = self._space + text
        shown = text.rstrip()
        if len(text) > len(shown) + MAX_HEAD:
            shown = text
        self._space = text[len(shown) :]
        if shown:
            self._out.append(shown)

    # --- what is read

    def _advance(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        if self._held is not None:
            self._held.append(taken)
        return taken

    def _more(self) -> Steps:
        if self._last:
            raise _Over
        yield

    def _match(self, pattern: re.Pattern[str]) -> Generator[None, None, re.Match[str]]:
        """Raises _NoCall where it does not come within MAX_HEAD."""
        while (match := pattern.match(self._text, 0, MAX_HEAD)) is None:
            if len(self._text) >= MAX_HEAD:
                raise _NoCall
            yield from self._more()
        self._advance(match.end())
        return match

    def _find(self, *marks: str) -> Generator[None, None, str]:
        """Which of them comes next, the first of those that may, and is taken; "": another thing does."""
        while True:
            text = self._text.lstrip(_BETWEEN)
            self._advance(len(self._text) - len(text))
            may_come = [mark for mark in marks if mark and (mark.startswith(text) or text.startswith(mark))]
            if text and not may_come:
                return ""
            if may_come and text.startswith(may_come[0]):
                self._advance(len(may_come[0]))
                return may_come[0]
            yield from self._more()

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
                raise _NoCall
            if end >= 0:
                return "".join(parts).strip()
            yield from self._more()

    def _call(self, name: str) -> None:
        """From here on it is certain. Raises _NoCall: there were too many."""
        self._part()
        self._held = None
        self._space = ""
        self.num_calls += 1
        self._give(name=name)

    def _part(self) -> None:
        if self._num_parts >= MAX_PARTS:
            raise _NoCall
        self._num_parts += 1

    def _give(self, *, name: str = "", arguments: str = "") -> None:
        if name or arguments:
            self._out.append(CallPart(self.num_calls - 1, name, arguments))

    # --- JSON alone

    def _json(self) -> Steps:
        yield from self._match(_FIRST)
        if not self._text.startswith("{"):
            raise _NoCall
        while self._text.startswith("{"):
            self._advance(1)
            yield from self._object()
            yield from self._match(_NEXT_CALL)
        yield from self._find(self._calls.close)

    def _object(self) -> Steps:
        """Behind its brace. Keys in any order: the arguments may come before the name."""
        calls, name, arguments, is_given = self._calls, "", "{}", False
        while True:
            match = yield from self._match(_KEY)
            if match[2]:
                break
            key = match[1]
            self._part()
            if key in self._arguments and name and not is_given and self._text[:1] == "{":
                self._call(name)
                yield from self._value(shown=True)
                is_given = True
            else:
                if not calls.open and key not in (calls.name_key, "name", *self._arguments, *_BESIDE):
                    raise _NoCall
                value = yield from self._value()
                if key in (calls.name_key, "name"):
                    name = self._checked(value)
                elif key in self._arguments:
                    arguments = arguments_of(value)
            match = yield from self._match(_NEXT_MEMBER)
            if match[1] == "}":
                break
        if not name:
            raise _NoCall
        if not is_given:
            self._call(name)
            self._give(arguments=arguments)

    def _checked(self, value: str) -> str:
        """A name. Raises _NoCall; where nothing but JSON marks a call it must be that of a tool."""
        try:
            name = json.loads(value)
        except ValueError:
            raise _NoCall from None
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise _NoCall
        if not self._calls.open and name not in self._schemas:
            raise _NoCall
        return name

    # --- a name, then the arguments

    def _head(self) -> Generator[None, None, str]:
        """The name."""
        calls = self._calls
        most = MAX_LEAD + len(calls.lead)
        while (at := self._text.find(calls.lead, 0, most)) < 0:
            if len(self._text) >= most:
                raise _NoCall
            yield from self._more()
        self._advance(at + len(calls.lead))
        match = yield from self._match(self._name)
        return match[1]

    def _named(self) -> Steps:
        while True:
            name = yield from self._head()
            yield from self._match(_SOMETHING)
            if self._text[0] != "{":
                raise _NoCall
            self._call(name)
            yield from self._value(shown=True)
            if not (yield from self._another()):
                return

    def _another(self) -> Generator[None, None, bool]:
        """Behind the arguments: does another call of the same section follow?"""
        calls = self._calls
        try:
            if calls.end:
                yield from self._find(calls.end)
            found = yield from self._find(calls.close, calls.lead)
        except _Over:
            return False
        if found and found == calls.lead:
            self._text = found + self._text
            return True
        return False

    # --- a name, then each argument in a tag of its own

    def _tagged(self) -> Steps:
        while True:
            name = yield from self._head()
            self._call(name)
            properties = self._schemas.get(name, {})
            separator = "{"
            while (yield from self._found_key()):
                match = yield from self._match(self._key)
                known = re.match(r"""[^"'<>=\s]+""", match[1])
                argument = known[0] if known else match[1].strip()
                self._give(arguments=f"{separator}{json.dumps(argument, ensure_ascii=False)}: ")
                separator = ", "
                yield from self._tagged_value(properties.get(argument))
            self._give(arguments="}" if separator != "{" else "{}")
            if not (yield from self._another()):
                return

    def _found_key(self) -> Generator[None, None, bool]:
        """Another argument, before the call's end?"""
        calls = self._calls
        while (match := self._key_or_end.match(self._text)) is None:
            if len(self._text) > MAX_HEAD:
                return False
            yield from self._more()
        if match[1] != calls.key_open or self._num_parts >= MAX_PARTS:
            return False
        self._part()
        self._advance(match.end() + len(calls.key_open))
        return True

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

"""JSON in what a model writes: a value found in a text that comes in pieces, without being read twice, and mended."""

from __future__ import annotations

import json
import re
from typing import Any

_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r'[^"{}\[\],]*')
_HALF = re.compile("[\ud800-\udfff]")
"""Of a character: escapes may name one alone."""
_CLOSES = {"{": "}", "[": "]"}
MAX_DEPTH = 256


class ValueScan:
    """`feed` pieces of text, the first of which begins with the value; says where the value ends.

    Brackets and strings are looked at, not what stands between them: a model's slip there is for whoever reads it.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._in_string = False
        self._escaped = False
        self._begun = False
        self._scalar = False
        self.is_broken = False
        """No JSON value comes of it, from where it was said to end."""

    def feed(self, text: str) -> int:
        """How many of its characters belong to the value, if it ends here; -1: all, and it goes on."""
        at = 0
        while at < len(text):
            if self._in_string:
                at, is_over = self._string(text, at)
                if is_over:
                    return at
                continue
            if self._scalar or self._open:
                at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
                if at == len(text):
                    break
            is_over = self._take(text[at])
            if is_over or self.is_broken:
                return at if self._scalar or self.is_broken else at + 1
            at += 1
        return -1

    def _take(self, char: str) -> bool:
        """Of the structure. True: the value is over, with it or, of a number or a word, before it."""
        if self._scalar:
            if char in ",}]":
                return True
            self.is_broken = True
            return False
        self._begun, first = True, not self._begun
        if char == '"':
            self._in_string = True
        elif char in _CLOSES:
            self._open.append(_CLOSES[char])
            self.is_broken = len(self._open) > MAX_DEPTH
        elif first:
            self.is_broken = char in ",}]" or char.isspace()
            self._scalar = not self.is_broken
        elif char in "}]":
            self.is_broken = self._open.pop() != char
            return not self._open
        return False

    def _string(self, text: str, at: int) -> tuple[int, bool]:
        """Behind what of the string is here; is that the value's end?"""
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            at = _IN_STRING.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
            if at < len(text):
                self._escaped = text[at] == "\\"
                self._in_string = self._escaped
                at += 1
                if not self._in_string:
                    break
        return at, not (self._in_string or self._open)


def properties_of(schema: Any) -> dict[str, Any]:
    """The schemas of an object's members, where it is a schema that has any."""
    found = schema.get("properties") if isinstance(schema, dict) else None
    return found if isinstance(found, dict) else {}


def json_of(text: str) -> str:
    """A value that no schema says to be a text: the JSON that it is, or a text nevertheless."""
    try:
        return _told(json.loads(text))
    except (ValueError, RecursionError):
        return _told(text)


def arguments_of(value: str) -> str:
    """Of a call, as JSON: some write that as a text once more."""
    try:
        read = json.loads(value)
        if isinstance(read, str):
            value, read = _whole(read), json.loads(read)
        return value if isinstance(read, dict) else "{}"
    except (ValueError, RecursionError):
        return "{}"


def _told(value: Any) -> str:
    """As JSON. Raises ValueError: there is no such number in it."""
    return _whole(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _whole(text: str) -> str:
    """As UTF-8 can have it."""
    return _HALF.sub("\ufffd", text)

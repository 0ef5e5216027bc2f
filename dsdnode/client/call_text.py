"""A text as it comes, in which calls are looked for step by step: what may turn out to be text is held. Pure."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeVar

MAX_HEAD = 1024
"""Characters in which a name, or a key, must have come; so much is read again where it is no call after all."""
_BETWEEN = " \t\r\n`"
"""What may stand before a mark; some fence their JSON."""

T = TypeVar("T")
Steps = Generator[None, None, None]
"""Yields where more text is needed."""


class NoCall(Exception):
    """It is text."""


class Over(Exception):
    """The reply is, in the middle of a call."""


class CallText:
    def __init__(self) -> None:
        self._text = ""
        """What is not read yet."""
        self._held: list[str] | None = None
        """What was read of what may be a call; None: it is one, or text."""
        self._last = False
        """No more comes."""

    def _unheld(self) -> str | None:
        held, self._held = self._held, None
        return None if held is None else "".join(held)

    def _advance(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        if self._held is not None:
            self._held.append(taken)
        return taken

    def _more(self) -> Steps:
        if self._last:
            raise Over
        yield

    def _match(self, pattern: re.Pattern[str]) -> Generator[None, None, re.Match[str]]:
        """Raises NoCall where it does not come within MAX_HEAD."""
        while (match := pattern.match(self._text, 0, MAX_HEAD)) is None:
            if len(self._text) >= MAX_HEAD:
                raise NoCall
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

    def _or_text(self, steps: Generator[None, None, T]) -> Generator[None, None, T]:
        """What follows a call, which stands: if this is none it is text, from its beginning."""
        self._held = []
        found = yield from steps
        self._held = None
        return found

'''What the user types in a chat: a line, or several between """ and """.'''

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Protocol, TextIO

import click

from dsdnode.errors import BadInput
from dsdnode.files import output

QUOTES = '"""'
MAX_INPUT_CHARACTERS = 1 << 20
BOM = "\ufeff"
"""What some editors begin a file with."""


class Lines(Protocol):
    async def read(self) -> str | None:
        """The next input; None when there is no more."""


class TerminalLines:
    """prompt_toolkit's line with a history file (0600: it holds what was asked); none where it cannot be written."""

    def __init__(self, history: Path) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        try:
            history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            output(history).touch(mode=0o600)
            kept: Any = FileHistory(str(history))
        except (OSError, BadInput):
            kept = InMemoryHistory()
        self._session: Any = PromptSession(history=kept)

    async def read(self) -> str | None:
        while True:
            try:
                return await _quoted(lambda prompt: self._session.prompt_async(prompt))
            except EOFError:
                return None
            except KeyboardInterrupt:
                click.echo("(Ctrl-D or /bye leaves)")


class PipeLines:
    """Lines of a pipe or a file, read in a thread that nobody has to wait for when the chat ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    async def read(self) -> str | None:
        try:
            return await _quoted(lambda prompt: self._line())
        except EOFError:
            return None

    async def _line(self) -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()

        def read() -> None:
            line = self._stream.readline(MAX_INPUT_CHARACTERS)
            loop.call_soon_threadsafe(_settle, future, line)

        threading.Thread(target=read, daemon=True).start()
        line = await future
        if not line:
            raise EOFError
        return line.removeprefix(BOM).rstrip("\n")


def _settle(future: asyncio.Future[str], line: str) -> None:
    if not future.done():  # the chat may have ended meanwhile
        future.set_result(line)


async def _quoted(line: Any) -> str:
    """One line, or, when it begins with three quotes, everything up to the next three."""
    text: str = await line("> ")
    if not text.startswith(QUOTES):
        return text
    text = text.removeprefix(QUOTES)
    while QUOTES not in text and len(text) < MAX_INPUT_CHARACTERS:
        text += "\n" + await line("… ")
    return text.partition(QUOTES)[0].strip("\n")

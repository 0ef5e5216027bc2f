'''What the user types in a chat: a line, or several between """ and """.'''

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

import click

from dsdnode.errors import BadInput
from dsdnode.files import output

QUOTES = '"""'
MAX_INPUT_BYTES = 1 << 20
BOM = "\ufeff"
"""What some editors begin a file with."""

T = TypeVar("T")


class Lines(Protocol):
    async def read(self) -> str | None:
        """The next input; None when there is no more."""


class TerminalLines:
    """prompt_toolkit's line with a history file (0600: it holds what was asked); none where it cannot be written."""

    def __init__(self, history: Path) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        class Kept(FileHistory):  # type: ignore[misc]
            def store_string(self, string: str) -> None:
                """A full disk, or bytes that are no text, are no reason not to answer."""
                with contextlib.suppress(OSError):
                    super().store_string(string.encode("utf-8", "replace").decode())

        try:
            history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            output(history).touch(mode=0o600)
            kept: Any = Kept(str(history))
        except (OSError, BadInput):
            kept = InMemoryHistory()
        self._session: Any = PromptSession(history=kept, enable_suspend=True)

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
        self._num_lines = 0

    async def read(self) -> str | None:
        """Raises BadInput: what comes is not text, or nothing can be read."""
        try:
            return await _quoted(lambda prompt: self._line())
        except EOFError:
            return None

    async def _line(self) -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes | Exception] = loop.create_future()

        def read() -> None:
            try:
                line: bytes | Exception = self._stream.buffer.readline(MAX_INPUT_BYTES + 1)
            except Exception as error:  # whatever it is, somebody waits for it
                line = error
            with contextlib.suppress(RuntimeError):  # the chat, and its loop, have ended meanwhile
                loop.call_soon_threadsafe(_settle, future, line)

        threading.Thread(target=read, daemon=True).start()
        self._num_lines += 1
        line = _text(await future, self._stream.encoding, f"line {self._num_lines} of standard input", MAX_INPUT_BYTES)
        if not line:
            raise EOFError
        return line.removeprefix(BOM).rstrip("\r\n")


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():  # the chat may have ended meanwhile
        future.set_result(value)


def read_all(stream: TextIO, max_bytes: int) -> str:
    """A whole pipe or file. Raises BadInput."""
    try:
        data: bytes | Exception = stream.buffer.read(max_bytes + 1)
    except OSError as error:
        data = error
    return _text(data, stream.encoding, "what comes on standard input", max_bytes).removeprefix(BOM)


def _text(data: bytes | Exception, encoding: str, what: str, max_bytes: int) -> str:
    """Of what was read, or of why nothing was. Raises BadInput; and what is none of standard input's."""
    if isinstance(data, OSError):
        raise BadInput(f"cannot read standard input: {'it is closed' if data.errno == errno.EBADF else data.strerror}")
    if isinstance(data, Exception):
        raise data
    if len(data) > max_bytes:
        raise BadInput(f"{what} is longer than {max_bytes} bytes")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"the byte 0x{data[error.start]:02x} after {error.start} others"
        raise BadInput(f"{what} is not {encoding.upper()} text: {found}") from None


async def _quoted(line: Any) -> str:
    """One line, or, when it begins with three quotes, everything up to the next three."""
    text: str = await line("> ")
    if not text.startswith(QUOTES):
        return text
    text = text.removeprefix(QUOTES)
    while QUOTES not in text and len(text) < MAX_INPUT_BYTES:
        text += "\n" + await line("… ")
    return text.partition(QUOTES)[0].strip("\n")

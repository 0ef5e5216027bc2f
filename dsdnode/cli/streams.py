"""The standard streams, whatever they are: closed, full, of another encoding, read by nobody for minutes.

What is written is taken at once; a thread passes it on, and it alone waits for whoever reads. So a pager that is not
scrolled, or a terminal on Ctrl-S, holds no event loop: a daemon serves on, and a client answers pings.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TextIO, cast

from dsdnode.errors import DsdError

MAX_WAITING_BYTES = 1 << 20
"""Of a reply, before it is held back; of a log, before lines are lost."""
UNREAD_S = 1.0
"""A process that ends waits no longer for the next bit of its log to be read."""
UNENCODABLE = "dsdnode.unencodable"


class Stream(io.BufferedIOBase):
    """What is below `sys.stdout` or `sys.stderr` (`plain`, as Python made it); `write` never waits and never fails.

    With `lossy`, what does not fit or cannot be written is counted and lost. Else it waits, however much it is
    (`room` holds its author back). After a failure, which `room` and `finish` raise, nothing is kept any more.
    """

    def __init__(self, plain: TextIO, writer: Writer, *, lossy: bool) -> None:
        self.name = plain.name
        self.num_lost = 0
        self.num_waiting_bytes = 0
        self._file = plain.fileno()
        self._writer = writer
        self._lossy = lossy
        self._error: OSError | None = None
        self._over = False
        self._woken: list[Callable[[], object]] = []

    # --- io.BufferedIOBase

    def fileno(self) -> int:
        return self._file

    def isatty(self) -> bool:
        return os.isatty(self._file)

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        part = bytes(cast(bytes, data))
        with self._writer.changed:
            if self._lossy and self.num_waiting_bytes + len(part) > MAX_WAITING_BYTES:
                self.num_lost += 1
            elif part and not self._over:
                self.num_waiting_bytes += len(part)
                self._writer.put(self, part)
        return len(part)

    # --- for whoever writes

    async def room(self, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        """Until no more than that waits. Raises BrokenPipeError, DsdError."""
        loop = asyncio.get_running_loop()
        while True:
            with self._writer.changed:
                if self._done(max_waiting_bytes):
                    return
                woken = asyncio.Event()
                self._woken.append(partial(loop.call_soon_threadsafe, woken.set))
            await woken.wait()

    def finish(self, patience_s: float | None = None) -> None:
        """Block until all is written, or none of it for `patience_s`; Ctrl-C gives it up. Raises as `room` does."""
        try:
            with self._writer.changed:
                while not self._done(0) and self._writer.changed.wait(patience_s):
                    pass
        except KeyboardInterrupt:
            self.forget()
            raise

    def forget(self) -> None:
        """What still waits is of no use to anybody, nor is what will be written, nor why it is not."""
        with self._writer.changed:
            self._over, self._error = True, None
            self._writer.drop(self)

    def follows(self, other: Stream) -> bool:
        """Whoever reads that one, and somebody does, comes to this one too."""
        return self._writer is other._writer and not other._over

    def _done(self, max_waiting_bytes: int) -> bool:
        if self._error is None:
            return self._over or self.num_waiting_bytes <= max_waiting_bytes
        if isinstance(self._error, BrokenPipeError):
            raise self._error
        reason = "it is closed" if self._error.errno == errno.EBADF else self._error.strerror
        raise DsdError(f"cannot write to standard output: {reason}")

    # --- for the writer

    def written(self, num_bytes: int, error: OSError | None) -> None:
        """So many have left, or met an error."""
        self.num_waiting_bytes -= num_bytes
        if error is not None and self._lossy:
            self.num_lost += 1
        elif error is not None and not self._over:
            self.forget()
            self._error = error
        woken, self._woken = self._woken, []
        for wake in woken:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                wake()


class Writer:
    """Of one file: writes what its streams take, in that order."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._queue: deque[tuple[Stream, bytes]] = deque()
        self._thread: threading.Thread | None = None

    def put(self, stream: Stream, data: bytes) -> None:
        """Call this, and `drop`, with `changed` held."""
        self._queue.append((stream, data))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()
        self.changed.notify_all()

    def drop(self, stream: Stream) -> None:
        self._queue = deque(item for item in self._queue if item[0] is not stream)
        self.changed.notify_all()

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._queue)
                stream, data = self._queue.popleft()
            error = _write(stream.fileno(), data)
            with self.changed:
                stream.written(len(data), error)
                self.changed.notify_all()


def _write(file: int, data: bytes) -> OSError | None:
    """All of it, however long that takes; or why not."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(file, rest) :]
        except BlockingIOError:  # whoever began us made it so
            select.select([], [file], [])
        except OSError as error:
            return error
    return None


# --- those of this process


def take_over() -> None:
    """Put the streams of this process into order, before anything is opened, read or written."""
    codecs.register_error(UNENCODABLE, _encode)
    plain = sys.stdout, sys.stderr
    # In place of a closed one, a file that cannot be used that way: else a socket might come to have its number.
    sys.stdin = sys.stdin or _nowhere(os.O_WRONLY, "r")
    out = sys.stdout or _nowhere(os.O_RDONLY, "w")
    err = sys.stderr or _nowhere(os.O_WRONLY, "w")
    os.set_blocking(sys.stdin.fileno(), True)  # else what has not come yet would pass for the end
    cast(io.TextIOWrapper, sys.stdin).reconfigure(encoding=_encoding(sys.stdin))
    writer = Writer()
    same = os.path.samestat(os.fstat(out.fileno()), os.fstat(err.fileno()))
    sys.stdout = _text(out, Stream(out, writer, lossy=False), UNENCODABLE)
    sys.stderr = _text(err, Stream(err, writer if same else Writer(), lossy=True), "backslashreplace")

    def without_thread() -> None:
        sys.stdout, sys.stderr = plain

    os.register_at_fork(after_in_child=without_thread)


async def room() -> None:
    """Until standard output takes more. Raises BrokenPipeError, DsdError when it never will."""
    if (stream := _below(sys.stdout)) is not None:
        await stream.room()


async def caught_up() -> None:
    """As `room`, until nothing waits."""
    if (stream := _below(sys.stdout)) is not None:
        await stream.room(0)


def forget() -> None:
    """Nobody need read the rest of standard output."""
    if (stream := _below(sys.stdout)) is not None:
        stream.forget()


def finish() -> None:
    """Block until standard output has been read. Raises BrokenPipeError, DsdError."""
    if (stream := _below(sys.stdout)) is not None:
        stream.finish()


def leave() -> None:
    """The process ends: nothing of its output is lost, and a log that nobody reads holds it up no longer."""
    with contextlib.suppress(BrokenPipeError, DsdError, KeyboardInterrupt):
        finish()
    out, err = _below(sys.stdout), _below(sys.stderr)
    if out is not None and err is not None:
        with contextlib.suppress(KeyboardInterrupt):
            err.finish(None if err.follows(out) else UNREAD_S)


def num_lost(stream: TextIO) -> int:
    """Lines that it did not take since this was asked last; 0 while it takes none."""
    below = _below(stream)
    if below is None or 2 * below.num_waiting_bytes > MAX_WAITING_BYTES:
        return 0
    lost, below.num_lost = below.num_lost, 0
    return lost


def _below(stream: TextIO) -> Stream | None:
    below = getattr(stream, "buffer", None)
    return below if isinstance(below, Stream) else None


def _nowhere(flags: int, mode: str) -> TextIO:
    file = os.open(os.devnull, flags)
    os.set_inheritable(file, True)
    return cast(TextIO, os.fdopen(file, mode, closefd=False))


def _text(stream: TextIO, below: Stream, errors: str) -> TextIO:
    return io.TextIOWrapper(below, encoding=_encoding(stream), errors=errors, write_through=True)


def _encoding(stream: TextIO) -> str:
    """ASCII is what a system says that knows nothing better."""
    return "utf-8" if codecs.lookup(stream.encoding).name == "ascii" else stream.encoding


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a path or an argument leave as they came; of other characters a question mark is left."""
    assert isinstance(error, UnicodeEncodeError)
    char = ord(error.object[error.start])
    return bytes([char - 0xDC00]) if 0xDC80 <= char <= 0xDCFF else "?", error.start + 1

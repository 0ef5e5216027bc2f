"""Files that are read and written, and folders that are trusted.

An input may be a pipe, as a shell's <(...) is, but not one that nobody writes into. An output is a regular file or a
name that is free. A link is followed: what it points to is written, the link stays. Anything else is refused in words:
a device or a pipe would be replaced, or be waited for without end.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from dsdnode.errors import BadInput

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_KINDS = {
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
WRITER_S = 5.0
"""So long somebody may take to open the other end of a pipe."""
SILENT_S = 60.0
"""So long he may write nothing: he may be asked for a passphrase."""


def shown(path: Path) -> str:
    """The path for people and for other processes: bytes that are not UTF-8 stand as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def at_home(said: str) -> Path:
    """What a user has written, with the home folder that a ~ at its beginning stands for. Raises BadInput."""
    if "\0" in said:
        raise BadInput(f"{said!r} is no path: it has a NUL in it")
    try:
        return Path(said).expanduser()
    except RuntimeError:
        name = said.partition("/")[0]
        raise BadInput(f"{said}: there is no home folder {name} here (a file of that name is ./{said})") from None


def reading(path: Path) -> BinaryIO:
    """To be read; of a pipe that nothing comes from `read` raises TimeoutError. Raises OSError, ValueError."""
    if stat.S_ISFIFO(path.stat().st_mode):
        return cast(BinaryIO, io.BufferedReader(_Pipe(os.open(path, os.O_RDONLY | os.O_NONBLOCK))))
    return path.open("rb")


class _Pipe(io.RawIOBase):
    """An end to read from that waits for whoever writes, but not for ever."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._patience_s = WRITER_S

    def fileno(self) -> int:
        return self._file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while True:
            has_come, _, _ = select.select([self._file], [], [], self._patience_s)
            try:
                num = os.readv(self._file, [buffer])
            except BlockingIOError:  # somebody has it open
                if self._patience_s == SILENT_S and not has_come:
                    raise TimeoutError(errno.ETIMEDOUT, "it is a pipe, and nothing comes from it") from None
                self._patience_s = SILENT_S
                continue
            if not num and not has_come:
                raise TimeoutError(errno.ETIMEDOUT, "it is a pipe that nobody writes into")
            self._patience_s = SILENT_S
            return num

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()


def output(path: Path) -> Path:
    """Where it lands what is written to `path`, links followed. Raises BadInput where no file can be written."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        kind = stat.S_IFREG  # it is to be made, perhaps at the end of a link
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}") from None
    if kind != stat.S_IFREG:
        raise BadInput(f"{path} is {_KINDS.get(kind, 'special')}, not a file that can be written: name another")
    target = path.resolve()
    if not target.parent.is_dir():
        raise BadInput(f"there is no folder {target.parent} to write {target.name} into")
    return target


@contextmanager
def words(path: Path) -> Iterator[None]:
    """What the system says while `path` is written (a full disk, a folder that is shut) is the user's: BadInput."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` in one step when the context is left, and is gone if it is left by an
    exception. Its mode: that of the file it replaces, else as the umask has it. Raises BadInput as `output`, OSError.
    """
    target = output(path)
    aside = target.with_name(f".dsdnode-{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, target.stat().st_mode & 0o777)
            yield file
        os.replace(aside, target)
    except BaseException:
        aside.unlink()
        raise


def check_own(folder: Path) -> None:
    """Raises BadInput for a folder where others can put files, or take ours away: they would choose key and swarm."""
    try:
        status = folder.stat()
    except OSError:
        return  # whoever uses it is told
    if status.st_uid != os.geteuid():
        raise BadInput(f"the data dir {folder} is another user's: choose one of your own (--data-dir)")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadInput(f"others may write to the data dir {folder}: chmod go-w it, or choose another (--data-dir)")

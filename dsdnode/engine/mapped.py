"""The model file behind an engine. llama.cpp maps it: whoever writes into it changes the weights of a running worker,
and nothing fails. What is computed from then on is of no model that anybody knows."""

from __future__ import annotations

import os
from pathlib import Path

from dsdnode.errors import ModelRefused


class MappedFile:
    """Made before the file is hashed and mapped. `written` costs a microsecond.

    What happens to its name alone is nothing: replaced, moved or deleted, the mapping keeps the old file.
    """

    def __init__(self, path: Path) -> None:
        """Raises ModelRefused."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # (a pipe would be waited for)
        except OSError as error:
            raise ModelRefused(f"{path}: cannot be read ({error.strerror or error})") from None
        self._first = os.fstat(self._file)
        self._frame = self._look_around(self._first)
        self._touched_ns = self._first.st_ctime_ns

    def close(self) -> None:
        """From now on it passes for written."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def written(self) -> bool:
        """Is, or may be, in the file what was not there at first? True for ever, then."""
        if self._file < 0:
            return True
        now, first = os.fstat(self._file), self._first
        if (now.st_size, now.st_mtime_ns) != (first.st_size, first.st_mtime_ns):
            return True
        if now.st_ctime_ns == self._touched_ns:
            return False
        frame = self._look_around(now)
        if frame == self._frame:  # nothing else explains it: written to, and the time of writing set back
            return True
        self._frame, self._touched_ns = frame, now.st_ctime_ns
        return False

    def replaced(self) -> bool:
        """Does the path lead to another file by now, or nowhere?"""
        return not self._is_at_path(os.fstat(self._file))

    def _look_around(self, status: os.stat_result) -> tuple[object, ...]:
        """What changes a file's time of change without its content: mode, owner, links and name."""
        named = self._is_at_path(status)
        return status.st_mode, status.st_uid, status.st_gid, status.st_nlink, named

    def _is_at_path(self, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(status, self._path.stat())
        except OSError:
            return False

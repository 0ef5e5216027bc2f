"""The model file behind an engine. llama.cpp maps it: whoever writes into it changes the weights of a running worker,
and nothing fails. What is computed from then on is of no model that anybody knows."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dsdnode.engine.gguf import file_sha256
from dsdnode.engine.gguf_parts import parts_of
from dsdnode.errors import ModelRefused

QUIET_S = 1.0
"""Whoever copies a file into another's place writes more often than that."""


class MappedFile:
    """Made before the model is hashed and mapped: its file, or all of its parts. `written` costs a microsecond a file.

    What happens to their names alone is nothing: replaced, moved or deleted, the mapping keeps the old file.
    """

    def __init__(self, path: Path) -> None:
        """Raises ModelRefused."""
        self._path = path
        self._parts: list[_Part] = []
        try:
            for part in parts_of(path):
                self._parts.append(_Part(part))
        except ModelRefused:
            self.close()
            raise
        self._digest = ""
        self._cache_folder: Path | None = None

    async def remember(self, cache_folder: Path | None) -> None:
        """What is in it at first, for `again`. Raises ModelRefused."""
        self._cache_folder = cache_folder
        self._digest = self._digest or await asyncio.to_thread(file_sha256, self._path, cache_folder)

    async def again(self) -> MappedFile | None:
        """It was written to. Wait until nobody does any more; a new look at it, where all in it is as it was."""
        try:
            while not await (now := MappedFile(self._path))._settled(self._cache_folder):
                now.close()
        except ModelRefused:
            return None
        if now._digest != self._digest:
            now.close()
            return None
        return now

    async def _settled(self, cache_folder: Path | None) -> bool:
        """Has nobody written to it for QUIET_S, and is it at its path still? Then it is known what is in it."""
        try:
            await asyncio.sleep(QUIET_S)
            if not self.written():
                await self.remember(cache_folder)
            return not (self.written() or self.replaced())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """From now on it passes for written."""
        for part in self._parts:
            part.close()

    def written(self) -> bool:
        """Is, or may be, in the files what was not there at first? True for ever, then."""
        return any(part.written() for part in self._parts)

    def replaced(self) -> bool:
        """Does a path lead to another file by now, or nowhere?"""
        return any(part.replaced() for part in self._parts)


class _Part:
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
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def written(self) -> bool:
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

"""The process's memory, watched: the one thing that strangers can fill without a message ever arriving.

libzmq's limits count frames one by one and messages when they are whole. A message of endless frames is neither.
A look that fails (no descriptor left to read the size by) is followed by the next one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from mmap import PAGESIZE

import psutil
import structlog

log = structlog.get_logger(__name__)

INTERVAL_S, LONGEST_S = 0.05, 0.2
"""Looks are rarer where there is much room: each wakes an idle node, which takes a tenth of a millisecond."""
FLOOD_BYTES_S = 1.25e9
"""Ten gigabits: as much as a fast network brings, and more than libzmq's one thread decrypts."""
FREED_S = 0.5
"""Until what libzmq held of a connection that was closed is free."""
SETTLE_S = 2.0
"""After an excess: until what was freed has been given back, and the rest is the new normal."""


class ResidentSize:
    """What this process has in memory."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        try:
            self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # another system, or no descriptor left
            self._file = -1

    def num_bytes(self) -> int:
        """Raises OSError, psutil.Error, MemoryError."""
        if self._file < 0:  # (psutil opens and parses that file each time, which takes five times as long)
            return int(self._process.memory_info().rss)
        return int(os.pread(self._file, 256, 0).split()[1]) * PAGESIZE

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


class MemoryWatch:
    """Acts when the process has grown by `limit_bytes` since the watch began, or since the last excess.

    First with `remedy`, which says whether it did anything, and if that does not help within FREED_S, with `on_excess`.
    """

    def __init__(self, limit_bytes: int, remedy: Callable[[], bool], on_excess: Callable[[], None]) -> None:
        self._limit_bytes = limit_bytes
        self._remedy = remedy
        self._on_excess = on_excess
        self._tried = False
        self._size = ResidentSize()
        self._loop = asyncio.get_running_loop()
        self._begin()

    def close(self) -> None:
        self._timer.cancel()
        self._size.close()

    def _size_bytes(self) -> int | None:
        """None: it cannot be told just now."""
        try:
            return self._size.num_bytes()
        except (OSError, psutil.Error, MemoryError) as error:
            log.debug("memory not measured", reason=str(error))
            return None

    def _pause_s(self, grown_bytes: int) -> float:
        """In which no flood brings more than half of what is left."""
        left_s = (self._limit_bytes - grown_bytes) / FLOOD_BYTES_S
        return max(INTERVAL_S, min(left_s / 2, LONGEST_S))

    def _begin(self) -> None:
        self._start_bytes = self._size_bytes()
        self._timer = self._loop.call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        size_bytes, after_s, then = self._size_bytes(), INTERVAL_S, self._look
        try:
            if size_bytes is None:
                return
            if self._start_bytes is None:
                self._start_bytes = size_bytes
            elif size_bytes - self._start_bytes <= self._limit_bytes:
                self._tried, after_s = False, self._pause_s(size_bytes - self._start_bytes)
            elif not self._tried:
                self._tried, after_s = True, FREED_S
                after_s = FREED_S if self._remedy() else 0.0
            else:
                self._tried, after_s, then = False, SETTLE_S, self._begin
                self._on_excess()
        finally:
            self._timer = self._loop.call_later(after_s, then)

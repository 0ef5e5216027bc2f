"""Logs: structlog on stderr, the standard library's records through the same renderer. Never a prompt, never a key.

What strangers do is logged, so a file of it has a size that they cannot get beyond; and of each event there are so many
lines a minute, of which the next one says how many were left out.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

import structlog

from dsdnode.cli import render, streams

QUIET = ("asyncio", "httpx", "httpcore", "uvicorn")
"""Libraries of which only warnings are passed on: among the rest are addresses with signatures in them, which are as
good as keys."""
MAX_LOG_BYTES = 8 << 20
"""Of a log file, and of the one before it: days of an ordinary node, and what anybody's disk can bear."""
MAX_LINES = 60
"""Of one event, in a minute: one a second is more than anybody reads."""
MINUTE_S = 60.0


class Sieve:
    """A processor of structlog that lets so many lines of each event through, by the clock that it is given.

    Events are words of the code, so they are few; reasons may be a stranger's, and do not count.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: dict[str, tuple[float, int]] = {}
        """Of each event: when its minute began, and how many there were."""

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Raises structlog.DropEvent for one too many."""
        name, now = str(event.get("event")), self._now()
        since, num = self._seen.get(name, (now, 0))
        if now >= since + MINUTE_S:
            if num > MAX_LINES:
                event["left_out"] = num - MAX_LINES
            since, num = now, 0
        self._seen[name] = since, num + 1
        if num >= MAX_LINES:
            raise structlog.DropEvent
        return event


class Handler(logging.StreamHandler[TextIO]):
    """Tells of the lines that were lost while nobody read them."""

    def emit(self, record: logging.LogRecord) -> None:
        if num_lines := streams.num_lost(self.stream):
            words = "%d lines before this one are lost: nobody took them"
            super().emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, words, (num_lines,), None))
        super().emit(record)


def _clean(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Text of strangers, errors and libraries must not steer the terminal (JSON escapes what would)."""
    return {key: render.clean(value) if isinstance(value, str) else value for key, value in event.items()}


def set_up(level: str, style: str, stream: TextIO | None = None) -> None:
    """Route everything to stderr: `style` pretty, json, or auto (pretty on a terminal); NO_COLOR is heeded."""
    stream = stream or sys.stderr
    pretty = style == "pretty" or (style == "auto" and stream.isatty())
    colors = pretty and stream.isatty() and not os.environ.get("NO_COLOR")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    plain = structlog.dev.plain_traceback  # rich's shows what variables hold: prompts, keys
    last: list[Any] = (
        [_clean, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
        if pretty
        else [structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            Sieve(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Rotating(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        """stderr goes where the log goes, for what is said without it: an abort, a last error."""
        stream = super()._open()
        os.dup2(stream.fileno(), sys.stderr.fileno())
        return stream


def to_file(path: Path) -> None:
    """After `set_up`: log into `path`; when it is full it becomes PATH.1, in place of the one that was."""
    root = logging.getLogger()
    handler = _Rotating(path, maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(root.handlers[0].formatter)
    root.handlers[:] = [handler]

"""Logs: structlog on stderr, the standard library's records through the same renderer. Never a prompt, never a key."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from dsdnode.cli import render, streams


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
    logging.getLogger("asyncio").setLevel(logging.WARNING)

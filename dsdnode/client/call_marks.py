"""What is looked for in what a model writes, by the marks of its calls. Pure.

The marks are a stranger's: how far each expression looks is bounded.
"""

from __future__ import annotations

import re

from dsdnode.wire.calls import CallFormat

NAME = r"[\w./-]{1,128}"
SKIPPED = r"[^<\[{|\n]{0,64}?"
"""Beside a name: the number of a call, the type of an argument."""


def patterns_of(calls: CallFormat) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Of a name with what follows it; of a key in marks; of what comes before another key, or the end."""
    mid = re.escape(calls.mid) if calls.mid else r"(?![\w./-])(?=[\s\S])"
    whole = "" if re.match(NAME, calls.mid) else "+"  # no shorter name is tried: none could be followed by `mid`
    ways = "|".join(re.escape(mark) for mark in (calls.key_open, calls.end or calls.close) if mark)
    return (
        re.compile(rf"\s*+({NAME}{whole}){SKIPPED}\s*{mid}\s*"),
        re.compile(rf"({SKIPPED}){re.escape(calls.key_close.rstrip())}"),
        re.compile(rf"[\s\S]{{0,64}}?(?=({ways}))"),
    )


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)

"""What is looked for in what a model writes, by the marks of its calls. Pure.

The marks are a stranger's: how far each expression looks is bounded.
"""

from __future__ import annotations

import re

from dsdnode.wire.calls import CallFormat

CHARACTER = r"[\w./-]"
NAME = rf"{CHARACTER}{{1,128}}"
KEY = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"\s*:\s*(?=\S)|(\}))')
"""Of a member, up to its value; or no member, but the end."""
NEXT_MEMBER = re.compile(r"\s*([,}])")
SOMETHING = re.compile(r"\s*(?=\S)")
FIRST = re.compile(r"\s*(?:\[\s*(?=\S)|(?=[^\s\[]))")
"""What stands before the first call, and before another one, or what follows the last."""
NEXT_CALL = re.compile(r"[\s,;\]`]*(?=[^\s,;\]`])")
SKIPPED = r"[^<\[{|\n]{0,64}?"
"""Beside a name: the number of a call, the type of an argument."""


def patterns_of(calls: CallFormat) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Of a name with what follows it; of a key in marks; of what comes before another key, or the end."""
    ways = "|".join(re.escape(mark) for mark in (calls.key_open, calls.end or calls.close) if mark)
    return (
        re.compile(rf"\s*+{_name_before(calls.mid)}\s*"),
        re.compile(rf"({SKIPPED}){re.escape(calls.key_close.rstrip())}"),
        re.compile(rf"[\s\S]{{0,64}}?(?=({ways}))"),
    )


def _name_before(mid: str) -> str:
    """A name, and `mid`. What was taken for the name, and white space before `mid`, is not tried again otherwise: by a
    stranger's mark and text that took 30 ms for one name."""
    if not mid:
        return rf"({NAME}+){SKIPPED}\s*(?![\w./-])(?=[\s\S])"
    mark = re.escape(mid.lstrip()) or r"(?<=\s)"
    name = rf"(?:(?!{mark}){CHARACTER}){{1,128}}+" if re.match(NAME, mid) else f"{NAME}+"
    return rf"({name}){SKIPPED}\s*+{mark}"


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)

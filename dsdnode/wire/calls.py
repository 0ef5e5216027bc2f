"""How a model writes that it calls a tool: read from its chat template (engine/calling.py), told with Accepted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_MARK = 128
"""Characters of a mark. The longest of the templates that we know has 40."""
MAX_NAMES = 512
"""Of tools."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Mark = Annotated[str, Meta(max_length=MAX_MARK)]


class CallFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call is what stands between `open` and `close`, in one of three kinds. An empty `open`: the reply is the call.

    `json`: objects, in a list or not, that have the name under `name_key`, the arguments under `arguments_key`.
    `named`: LEAD name MID {"argument": ...} END.
    `tagged`: LEAD name MID, then for each argument KEY_OPEN its name KEY_CLOSE its value VALUE_CLOSE; then END. A value
    is a text as it is where the tool's schema says so, and JSON elsewhere.
    """

    kind: Literal["json", "named", "tagged"] = "json"
    open: Mark = "<tool_call>"
    close: Mark = "</tool_call>"
    name_key: Mark = "name"
    arguments_key: Mark = "arguments"
    lead: Mark = ""
    mid: Mark = ""
    end: Mark = ""
    key_open: Mark = ""
    key_close: Mark = ""
    value_close: Mark = ""

    def __post_init__(self) -> None:
        """Whoever reads by it must get on: a stranger says it."""
        needed = {"json": (), "named": (self.open,), "tagged": (self.open, self.key_open, self.key_close)}[self.kind]
        if self.kind == "tagged":
            needed += (self.value_close, self.end or self.close)
        is_dark = self.kind == "tagged" and bool(self.end) and self.end.startswith(self.key_open)
        if not all(mark.strip() for mark in needed) or (self.open and not self.open.strip()) or is_dark:
            raise ValueError(f"calls of kind {self.kind} cannot be told apart by such marks")

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(
            mark
            for mark in (
                self.open, self.close, self.lead, self.mid, self.end, self.key_open, self.key_close, self.value_close,
            )
            if mark
        )  # fmt: skip


PLAIN = CallFormat()
"""What models are told to write whose template does not say: Hermes' way, which most have seen."""


class CallRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a reply is to call (Constraint of kind `calls`): of `names`, and of no other tool; where it is `strict` with
    arguments that are valid by the tool's schema. `free`: or nothing, with words in the place of calls or before them.
    `once`: one call at most."""

    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_NAMES)]
    strict: Annotated[tuple[Name, ...], Meta(max_length=MAX_NAMES)] = ()
    free: bool = False
    once: bool = False


def is_text(schema: Any) -> bool:
    """Is a value of it, in a call of kind `tagged`, written as it is?"""
    kind = schema.get("type") if isinstance(schema, dict) else None
    return kind == "string" or (isinstance(kind, list) and "string" in kind)

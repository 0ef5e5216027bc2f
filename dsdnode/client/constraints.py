"""What the text of a reply is asked to be: checked before anybody is bothered with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from dsdnode.errors import BadInput
from dsdnode.wire.calls import CallRule
from dsdnode.wire.replies import MAX_CONSTRAINT, Constraint

MAX_DEPTH = 64
"""Of a schema, and of tools: whoever reads them has a stack with an end."""


def json_object() -> Constraint:
    """Any JSON object."""
    return json_schema({"type": "object"})


def json_schema(schema: Any) -> Constraint:
    """JSON that is valid by this schema (an object, or a boolean). Raises BadInput: too large, or none.

    What of it is not supported a drafter says.
    """
    if not isinstance(schema, dict | bool):
        raise BadInput(f"a JSON schema is an object, not {type(schema).__name__}")
    check_depth(schema, "the JSON schema is")
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise BadInput(f"the JSON schema is no JSON: {error}") from None
    return _constraint("json_schema", text, "the JSON schema")


def regex(text: str) -> Constraint:
    """All of the text matches this regular expression (without look-around and back references). Raises BadInput."""
    return _constraint("regex", text, "the regular expression")


def lark(text: str) -> Constraint:
    """The text can be derived from this grammar, in llguidance's variant of Lark. Raises BadInput."""
    return _constraint("lark", text, "the grammar")


def calls(names: Sequence[str], *, strict: Sequence[str], free: bool = False, once: bool = False) -> Constraint:
    """The reply calls some of the request's tools: of `names`, those in `strict` with arguments that are valid by their
    schemas. `free`: or says something, before it calls or in place of it; `once`: one call at most. Raises BadInput."""
    rule = CallRule(names=tuple(names), strict=tuple(strict), free=free, once=once)
    return _constraint("calls", msgspec.json.encode(rule).decode(), "the list of tools")


def _constraint(kind: Any, text: str, what: str) -> Constraint:
    if not text:
        raise BadInput(f"{what} is empty")
    if len(text) > MAX_CONSTRAINT:
        raise BadInput(f"{what} is too large: {len(text)} characters, {MAX_CONSTRAINT} at most")
    return Constraint(kind, text)


def check_depth(value: Any, what: str) -> None:
    """Of JSON. Raises BadInput."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list | tuple)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise BadInput(f"{what} too deep: {MAX_DEPTH} levels at most")

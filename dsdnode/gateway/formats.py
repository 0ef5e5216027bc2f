"""What a reply's text is to be, as each dialect asks for it: one of client/constraints.py, or nothing."""

from __future__ import annotations

from typing import Any

from dsdnode.client import constraints
from dsdnode.errors import BadInput
from dsdnode.wire.replies import Constraint


def openai_format(asked: Any, where: str) -> Constraint | None:
    """`response_format` of chat completions, `text.format` of responses, which has the schema beside the type. Raises
    BadInput."""
    if asked is None:
        return None
    kind = asked.get("type") if isinstance(asked, dict) else None
    match kind:
        case "text":
            return None
        case "json_object" if isinstance(asked.get("schema"), dict):  # as llama.cpp has it
            return constraints.json_schema(asked["schema"])
        case "json_object":
            return constraints.json_object()
        case "json_schema":
            holder = asked.get("json_schema", asked)
            if not isinstance(holder, dict) or "schema" not in holder:
                raise BadInput(f"{where}: a json_schema has its schema under `schema`")
            return constraints.json_schema(holder["schema"])
    raise BadInput(f"{where}: type is text, json_object or json_schema, not {kind!r}")


def ollama_format(asked: Any) -> Constraint | None:
    """`format`: "json", a schema, or nothing. Raises BadInput."""
    if asked in (None, ""):
        return None
    if asked == "json":
        return constraints.json_object()
    if not isinstance(asked, dict):
        raise BadInput('format: "json", or a JSON schema')
    return constraints.json_schema(asked)

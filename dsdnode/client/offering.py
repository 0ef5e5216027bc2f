"""The tools that a reply may call, as drafters are told of them: checked before anybody is bothered with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dsdnode.client.constraints import check_depth
from dsdnode.errors import BadInput


class _Function(msgspec.Struct):
    name: str


class _Tool(msgspec.Struct):
    function: _Function


def tools_json(tools: Sequence[Mapping[str, Any]]) -> str:
    """Of OpenAI's shape: {"type": "function", "function": {"name", ...}}; "" where there are none. Raises BadInput."""
    if not tools:
        return ""
    try:
        msgspec.convert(tools, Sequence[_Tool])
        text = msgspec.json.encode(tools).decode()
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"the tools cannot be used: {error}") from None
    check_depth(tools, "the tools are")
    return text

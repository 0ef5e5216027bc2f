"""What a text is to be, in each dialect: what of it reaches the swarm, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dsdnode.wire.replies import Constraint
from tests.gateway.conftest import Served, hello

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
OBJECT = Constraint("json_schema", '{"type":"object"}')
SCHEMATIC = Constraint("json_schema", json.dumps(SCHEMA, separators=(",", ":")))
CHAT, RESPONSES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/api/chat"


def named(schema: Any) -> dict[str, Any]:
    return {"name": "x", "schema": schema, "strict": True}


ASKED: list[tuple[str, dict[str, Any], Constraint | None]] = [
    (CHAT, {"response_format": {"type": "text"}}, None),
    (CHAT, {"response_format": {"type": "json_object"}}, OBJECT),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": named(SCHEMA)}}, SCHEMATIC),
    (CHAT, {"regex": "a+"}, Constraint("regex", "a+")),
    (RESPONSES, {"text": {"format": {"type": "json_schema", **named(SCHEMA)}}}, SCHEMATIC),
    (RESPONSES, {"text": {"format": {"type": "json_object"}}}, OBJECT),
    (OLLAMA, {"format": "json"}, OBJECT),
    (OLLAMA, {"format": SCHEMA}, SCHEMATIC),
    (OLLAMA, {"format": ""}, None),
]
WRONG: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"response_format": {"type": "xml"}}, "response_format"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": named([1])}}, "JSON schema"),
    (CHAT, {"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
    (CHAT, {"regex": "a" * 70_000}, "too large"),
    (RESPONSES, {"text": {"format": {"type": "grammar"}}}, "text.format"),
    (OLLAMA, {"format": "yaml"}, "format"),
]


def body(path: str, more: dict[str, Any]) -> dict[str, Any]:
    if path == RESPONSES:
        return {"input": "hello", **more}
    return hello(**({"model": "demo", "stream": False} if path == OLLAMA else {}), **more)


@pytest.mark.parametrize(("path", "more", "expected"), ASKED)
async def test_it_is_asked_of_the_swarm(
    served: Served, path: str, more: dict[str, Any], expected: Constraint | None
) -> None:
    answer = await served.http.post(path, json=body(path, more))
    assert answer.status_code == 200, answer.text
    assert served.swarm.asked[0].constraint == expected


@pytest.mark.parametrize(("path", "more", "words"), WRONG)
async def test_what_is_none_is_a_400_that_says_so(served: Served, path: str, more: dict[str, Any], words: str) -> None:
    answer = await served.http.post(path, json=body(path, more))
    assert answer.status_code == 400 and words in answer.text
    assert not served.swarm.asked

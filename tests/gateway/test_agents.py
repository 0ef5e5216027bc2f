"""Agents at work, through programs' own requests, in the order in which they send them: one like Codex, one like Claude
Code. The words are ours; fields, kinds of items and what changes from request to request are theirs."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import anthropic
import openai

from tests.gateway.conftest import Served

SHELL: dict[str, Any] = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command and returns its output.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "array", "items": {"type": "string"}}, "workdir": {"type": "string"}},
        "required": ["command"],
        "additionalProperties": False,
    },
}
PLAN: dict[str, Any] = {
    "type": "function",
    "name": "update_plan",
    "description": "Says what is done and what is next.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"plan": {"type": "array"}}, "required": ["plan"]},
}


def writes(text: str, name: str, **arguments: Any) -> list[Any]:
    """What the model says, a few characters at a time."""
    call = f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
    whole = f"{text}\n{call}" if text else call
    return [*(whole[at : at + 5] for at in range(0, len(whole), 5)), "stop"]


def like_codex(items: list[Any]) -> dict[str, Any]:
    return {
        "model": "demo",
        "instructions": "You are a coding agent in a terminal. Be precise and safe.",
        "input": items,
        "tools": [SHELL, PLAN, {"type": "web_search", "external_web_access": False}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199aaaa-0000-7000-8000-000000000000",
        "text": {"verbosity": "medium"},
    }


async def test_an_agent_like_codex(served: Served) -> None:
    """It looks, fails, mends, and says so: each request has all items of those before it."""
    client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
    items: list[Any] = [
        _said("developer", "<permissions>The file system is read-only.</permissions>"),
        _said("user", "<environment>cwd /home/carol/site, shell bash</environment>"),
        _said("user", "Why does the test fail?"),
    ]
    script = [
        writes("I run it.", "shell", command=["bash", "-lc", "pytest -x"], workdir="/home/carol/site"),
        writes("", "update_plan", plan=[{"step": "mend \u201cadd\u201d", "status": "in_progress"}]),
        ["It adds", " twice.", "stop"],
    ]
    calls: list[Any] = []
    for written in script:
        served.swarm.script = written
        stream: Any = await client.responses.create(**like_codex(items))
        done = [event.item async for event in stream if event.type == "response.output_item.done"]
        for item in done:
            items.append(item.model_dump(exclude_none=True))
            if item.type == "function_call":
                calls.append(item)
                output = json.dumps({"output": "1 failed", "metadata": {"exit_code": 1}})
                items.append({"type": "function_call_output", "call_id": item.call_id, "output": output})
    assert [(one.name, json.loads(one.arguments)["command"] if one.name == "shell" else None) for one in calls] == [
        ("shell", ["bash", "-lc", "pytest -x"]),
        ("update_plan", None),
    ]
    assert items[-1]["content"][0]["text"] == "It adds twice."
    asked = [request.messages for request in served.swarm.asked]
    assert [turn["role"] for turn in asked[2]] == ["system", "user", "user", *["assistant", "tool"] * 2]
    assert asked[2][0]["content"].startswith("You are a coding agent") and "read-only" in asked[2][0]["content"]
    for before, after in pairwise(asked):
        assert list(after[: len(before)]) == list(before), "what is kept of the conversation serves on"
    assert [tool["function"]["name"] for tool in served.swarm.asked[0].tools] == ["shell", "update_plan"]


def _said(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


READ: dict[str, Any] = {
    "name": "Read",
    "description": "Reads a file.",
    "input_schema": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"file_path": {"type": "string"}, "limit": {"type": "number"}},
        "required": ["file_path"],
        "additionalProperties": False,
    },
}
CACHED = {"cache_control": {"type": "ephemeral"}}


def like_claude_code(number: int, messages: list[Any]) -> dict[str, Any]:
    """Its first line is another one each time."""
    return {
        "model": "demo",
        "max_tokens": 32000,
        "messages": messages,
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.{number}; cch=0{number}a;"},
            {"type": "text", "text": "You are an agent at a terminal.", **CACHED},
            {"type": "text", "text": "Be brief. Use your tools.", **CACHED},
        ],
        "tools": [READ, {"name": "Bash", "input_schema": {"type": "object"}, "eager_input_streaming": True}],
        "metadata": {"user_id": "user_0_account__session_0"},
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "extra_body": {"context_management": {"edits": []}, "output_config": {"effort": "high"}},
        "extra_headers": {"anthropic-beta": "interleaved-thinking-2025-05-14"},
    }


async def test_an_agent_like_claude_code(served: Served) -> None:
    """It counts, reads two files, one of which is not there, and answers."""
    client = anthropic.AsyncAnthropic(base_url=served.url, auth_token="any", max_retries=0)
    reminder = {"type": "text", "text": "<system-reminder>No todos yet.</system-reminder>"}
    messages: list[Any] = [
        {"role": "user", "content": [reminder, {"type": "text", "text": "What is in a.txt?", **CACHED}]}
    ]
    counted = {key: one for key, one in like_claude_code(0, messages).items() if key in ("model", "messages", "tools")}
    assert (await client.messages.count_tokens(**counted)).input_tokens > 20
    script = [
        writes("Let me look.", "Read", file_path="/home/carol/a.txt", limit=20),
        writes("", "Bash", command="ls -la 'my files' && echo \u00fc\\n"),
        ["Two", " lines.", "stop"],
    ]
    results: list[dict[str, Any]] = [{"content": "1\tone\n2\ttwo"}, {"content": "no such file", "is_error": True}]
    for number, written in enumerate(script):
        served.swarm.script = written
        async with client.messages.stream(**like_claude_code(number, messages)) as stream:
            message = await stream.get_final_message()
        messages.append(
            {"role": "assistant", "content": [one.model_dump(exclude_none=True) for one in message.content]}
        )
        used = [one for one in message.content if one.type == "tool_use"]
        assert message.stop_reason == ("tool_use" if used else "end_turn")
        for one in used:
            result = {"type": "tool_result", "tool_use_id": one.id, **results[number], **CACHED}
            messages.append({"role": "user", "content": [result]})
    assert message.content[-1].text == "Two lines."
    asked = [request.messages for request in served.swarm.asked[1:]]
    assert asked[0][0] == {"role": "system", "content": "You are an agent at a terminal.\nBe brief. Use your tools."}
    for before, after in pairwise(asked):
        assert list(after[: len(before)]) == list(before), "what is kept of the conversation serves on"
    *_, called, result = asked[2]
    command = json.loads(called["tool_calls"][0]["function"]["arguments"])["command"]
    assert command == "ls -la 'my files' && echo \u00fc\\n"
    assert result["content"] == "Error: no such file" and result["name"] == "Bash"


async def test_the_billing_header_of_an_agent_was_part_of_the_prompt(served: Served) -> None:
    """In a block of its own, at the beginning of one, or of a plain text."""
    header, words = "x-anthropic-billing-header: a=1;", "You are an agent."
    for system in (f"{header}\n{words}", [{"type": "text", "text": f"{header}\n{words}"}], [
        {"type": "text", "text": header}, {"type": "text", "text": words},
    ]):  # fmt: skip
        body = {"system": system, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        assert (await served.http.post("/v1/messages", json=body)).status_code == 200
    assert {request.messages[0]["content"] for request in served.swarm.asked} == {words}

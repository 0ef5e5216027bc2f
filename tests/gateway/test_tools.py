"""Carol's program lets the model look up the weather: it is told of the tool, calls it, and gets the result."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import openai
import pytest

from dsdnode.client import constraints
from dsdnode.gateway.tools import call, settled
from tests.gateway.conftest import Served

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Of a city.", "parameters": SCHEMA},
}


def named(name: str) -> dict[str, Any]:
    """As chat completions have it."""
    return {"type": "function", "function": {"name": name}}


ASKED: Any = [{"role": "user", "content": "Rain in Ulm and Bonn?"}]
CALLING = [
    "I lo",
    "ok.\n<tool",
    '_call>{"name": "get_',
    'weather", "argu',
    'ments": {"city": ',
    '"Ulm"}}</tool_',
    "call>\n",
]
TWICE = [*CALLING, '<tool_call>{"name": "get_weather", "arguments": {"city": "Bonn"}}</tool_call>', "stop"]
BOTH = [("get_weather", {"city": "Ulm"}), ("get_weather", {"city": "Bonn"})]


@pytest.fixture
def openai_client(served: Served) -> openai.AsyncOpenAI:
    served.swarm.script = TWICE
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_messages_that_become_one_are_joined_when_all_of_them_are_there(role: str) -> None:
    """A thousand of 8 kB each: whoever joins one after the other copies 4 GB, and all others wait."""
    said, peaks = "x" * 8192, []

    def told() -> Iterator[dict[str, Any]]:
        for index in range(1024):
            asked = {"tool_calls": [call(f"c{index}", "get_weather", "{}")]} if role == "assistant" else {}
            yield {"role": role, "content": said, **asked}
        peaks.append(tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    (one,) = settled(told())
    tracemalloc.stop()
    assert peaks[0] < 2 << 20
    assert len(one["content"]) == 1024 * 8192 + 1023 * (2 if role == "system" else 1)
    assert [of["id"] for of in one.get("tool_calls", ())] == [f"c{index}" for index in range(1024) if len(one) > 2]


async def test_openais_chat(served: Served, openai_client: openai.AsyncOpenAI) -> None:
    """The call, and what came of it in the next turn."""
    ask: Any = openai_client.chat.completions.create
    whole = await ask(model="demo", messages=ASKED, tools=[TOOL])
    (choice,) = whole.choices
    called = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    assert [(one.function.name, json.loads(one.function.arguments)) for one in called] == BOTH
    assert len({one.id for one in called}) == 2 and called[0].type == "function"
    assert served.swarm.asked[0].tools == [TOOL]
    served.swarm.script = ["Yes", " and no.", "stop"]
    results = [{"role": "tool", "tool_call_id": one.id, "content": f"rain {at}"} for at, one in enumerate(called)]
    then = await ask(model="demo", messages=[*ASKED, choice.message, *results], tools=[TOOL])
    assert then.choices[0].message.content == "Yes and no." and then.choices[0].finish_reason == "stop"
    _, said, result, _ = served.swarm.asked[1].messages
    assert [one["id"] for one in said["tool_calls"]] == [one.id for one in called] and said["content"] == "I look."
    assert (result["role"], result["content"]) == ("tool", "rain 0")
    assert (result["tool_call_id"], result["name"]) == (called[0].id, "get_weather")


async def test_openais_stream(openai_client: openai.AsyncOpenAI) -> None:
    ask: Any = openai_client.chat.completions.create
    stream = await ask(model="demo", messages=ASKED, tools=[TOOL], stream=True)
    chunks = [chunk.choices[0] async for chunk in stream]
    deltas = [part for chunk in chunks for part in chunk.delta.tool_calls or ()]
    heads = [part for part in deltas if part.id]
    assert [(part.index, part.function.name) for part in heads] == [(0, "get_weather"), (1, "get_weather")]
    for index in (0, 1):
        parts = [part for part in deltas if part.index == index]
        assert json.loads("".join(part.function.arguments for part in parts)) == BOTH[index][1]
        assert all(part.function.name is None for part in parts[1:])
    assert len([part for part in deltas if part.index == 0]) > 1, "its arguments come as they are written"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "I look."
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]


async def test_openais_responses(served: Served, openai_client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **TOOL["function"]}
    whole = await openai_client.responses.create(model="demo", input=ASKED, tools=[tool, {"type": "web_search"}])
    output: Any = whole.output
    message, *calls = output
    assert message.content[0].text == "I look." and [tool.name for tool in whole.tools] == ["get_weather"]
    assert [(one.name, json.loads(one.arguments)) for one in calls] == BOTH
    served.swarm.script = ["Yes.", "stop"]
    results = [{"type": "function_call_output", "call_id": one.call_id, "output": "rain"} for one in calls]
    history: Any = [*ASKED, *(one.model_dump() for one in whole.output), *results]
    then = await openai_client.responses.create(model="demo", input=history, tools=[tool])
    assert then.output_text == "Yes."
    turns = served.swarm.asked[1].messages
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool"]
    assert turns[1]["content"] == "I look." and len(turns[1]["tool_calls"]) == 2


async def test_openais_responses_as_a_stream(served: Served, openai_client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **TOOL["function"]}
    async with openai_client.responses.stream(model="demo", input=ASKED, tools=[tool]) as stream:
        events: list[Any] = [event async for event in stream]
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [arguments for _, arguments in BOTH]
    assert [event.output_index for event in done] == [1, 2]
    raw = await served.events("/v1/responses", {"input": "hi", "stream": True, "tools": [tool]})
    assert [data["sequence_number"] for _, data in raw] == list(range(len(raw)))
    added = [data["item"]["id"] for name, data in raw if name == "response.output_item.added"]
    ended = [data["item"]["id"] for name, data in raw if name == "response.output_item.done"]
    assert added == ended and [one["id"] for one in raw[-1][1]["response"]["output"]] == added


async def test_anthropics_messages(served: Served) -> None:
    served.swarm.script = TWICE
    client = anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0)
    tool: Any = {"name": "get_weather", "description": "Of a city.", "input_schema": SCHEMA}
    whole = await client.messages.create(model="demo", max_tokens=99, messages=ASKED, tools=[tool])
    text, *calls = whole.content
    assert (text.text, whole.stop_reason) == ("I look.", "tool_use")
    assert [(one.name, one.input) for one in calls] == BOTH and served.swarm.asked[0].tools == [TOOL]
    async with client.messages.stream(model="demo", max_tokens=99, messages=ASKED, tools=[tool]) as stream:
        final = await stream.get_final_message()
    assert [(one.name, one.input) for one in final.content[1:]] == BOTH and final.stop_reason == "tool_use"
    served.swarm.script = ["Yes.", "stop"]
    results: Any = [
        {"type": "tool_result", "tool_use_id": one.id, "content": [{"type": "text", "text": "rain"}]} for one in calls
    ]
    said: Any = [*ASKED, {"role": "assistant", "content": whole.content}]
    said += [{"role": "user", "content": [*results, {"type": "text", "text": "So?"}]}]
    await client.messages.create(model="demo", max_tokens=99, messages=said, tools=[tool])
    turns = served.swarm.asked[2].messages
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool", "user"]
    assert turns[2]["name"] == "get_weather" and turns[2]["content"] == "rain" and turns[4]["content"] == "So?"


async def test_ollamas_chat(served: Served) -> None:
    served.swarm.script = TWICE
    client = ollama.AsyncClient(host=served.url)
    whole = await client.chat(model="demo", messages=ASKED, tools=[TOOL])
    assert [(one.function.name, one.function.arguments) for one in whole.message.tool_calls] == BOTH
    parts = [part async for part in await client.chat(model="demo", messages=ASKED, tools=[TOOL], stream=True)]
    calls = [one for part in parts for one in part.message.tool_calls or ()]
    assert [(one.function.name, one.function.arguments) for one in calls] == BOTH and parts[-1].done
    said = [*ASKED, whole.message, {"role": "tool", "tool_name": "get_weather", "content": "rain"}]
    await client.chat(model="demo", messages=said, tools=[TOOL])
    assert served.swarm.asked[2].messages[2]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("asked", "offered", "num_calls"),
    [({}, 1, 2), ({"tool_choice": "none"}, 0, 0), ({"parallel_tool_calls": False}, 1, 1)],
)
async def test_whether_it_may_call(served: Served, asked: dict[str, Any], offered: int, num_calls: int) -> None:
    served.swarm.script = TWICE
    body = {"messages": ASKED, "tools": [TOOL], **asked}
    (choice,) = (await served.http.post("/v1/chat/completions", json=body)).json()["choices"]
    assert len(served.swarm.asked[0].tools) == offered and len(choice["message"].get("tool_calls", ())) == num_calls


async def test_a_call_was_asked_for_and_text_came(served: Served) -> None:
    """In each dialect's words; what the reply is to be holds its drafter to it."""
    other = {"type": "function", "function": {**TOOL["function"], "name": "get_news"}}
    both: dict[str, Any] = {"tools": [TOOL, other]}
    flat: dict[str, Any] = {"input": "hi", "tools": [{"type": "function", **one["function"]} for one in both["tools"]]}
    schemas = [{"name": one["name"], "input_schema": SCHEMA} for one in flat["tools"]]
    anthropics: dict[str, Any] = {"max_tokens": 99, "tools": schemas}
    names = ["get_weather", "get_news"]
    for path, body, choice, expected in (
        ("chat/completions", both, "required", constraints.calls(names, strict=names)),
        ("chat/completions", both, named("get_news"), constraints.calls(names[1:], strict=names[1:])),
        ("responses", flat, "required", constraints.calls(names, strict=names)),
        ("responses", flat, {"type": "function", "name": "get_news"}, constraints.calls(names[1:], strict=names[1:])),
        ("messages", anthropics, {"type": "any"}, constraints.calls(names, strict=names)),
        (
            "messages", anthropics, {"type": "tool", "name": "get_news", "disable_parallel_tool_use": True},
            constraints.calls(names[1:], strict=names[1:], once=True),
        ),
        (
            "chat/completions", {**both, "parallel_tool_calls": False, "response_format": {"type": "json_object"}},
            "required", constraints.calls(names, strict=names, once=True),
        ),
    ):  # fmt: skip
        served.swarm.script = [TWICE[-2], "stop"]
        answer = await served.http.post(f"/v1/{path}", json={"messages": ASKED, **body, "tool_choice": choice})
        assert answer.status_code == 200, answer.text
        asked = served.swarm.asked[-1]
        assert asked.constraint == expected and len(asked.tools) == 2
        assert path != "responses" or answer.json()["tool_choice"] == choice


async def test_strict_arguments_were_none_that_its_schema_allows(served: Served) -> None:
    """A schema of the reply's words goes before: then it calls nothing."""
    strict: dict[str, Any] = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    for more, expected in (
        ({}, constraints.calls(["get_weather"], strict=["get_weather"], free=True)),
        ({"response_format": {"type": "json_object"}}, constraints.json_object()),
        ({"tool_choice": "none"}, None),
    ):
        await served.http.post("/v1/chat/completions", json={"messages": ASKED, "tools": [strict], **more})
        assert served.swarm.asked[-1].constraint == expected
    assert served.swarm.asked[0].tools == [TOOL], "templates are told of no such thing"
    tool = {"name": "get_weather", "strict": True, "input_schema": SCHEMA}
    await served.http.post("/v1/messages", json={"messages": ASKED, "max_tokens": 9, "tools": [tool]})
    assert served.swarm.asked[-1].constraint == served.swarm.asked[0].constraint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Write <tool_call> before it.", "stop"),
        ('<tool_call>{"name": "get_weather", "argum', "length"),
        ('<tool_call>{"city": "Ulm"}</tool_call>', "stop"),
    ],
)
async def test_what_merely_began_like_a_call_was_lost(served: Served, text: str, reason: str) -> None:
    served.swarm.script = [*text, reason]
    answer = await served.http.post("/v1/chat/completions", json={"messages": ASKED, "tools": [TOOL]})
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == text and choice["finish_reason"] == reason
    assert "tool_calls" not in choice["message"]


async def test_content_was_empty_text_beside_calls(served: Served) -> None:
    served.swarm.script = TWICE[1:]
    served.swarm.script[0] = "\n<tool"
    answer = await served.http.post("/v1/chat/completions", json={"messages": ASKED, "tools": [TOOL]})
    assert answer.json()["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize(
    ("path", "asked", "named"),
    [
        ("/v1/chat/completions", {"tool_choice": "required"}, "no tools"),
        ("/v1/chat/completions", {"tool_choice": "often", "tools": [TOOL]}, "often"),
        ("/v1/chat/completions", {"tool_choice": named("get_news"), "tools": [TOOL]}, "get_news"),
        ("/v1/chat/completions", {"tool_choice": {"type": "function"}, "tools": [TOOL]}, "has a name"),
        ("/v1/chat/completions", {"tool_choice": "required", "tools": [TOOL], "regex": "a"}, "several"),
        ("/v1/chat/completions", {"tools": [TOOL, TOOL]}, "same name"),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        ("/v1/responses", {"input": "hi", "tools": [{"type": "custom", "name": "patch"}]}, "custom"),
        ("/v1/messages", {"max_tokens": 9, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        ("/v1/messages", {"max_tokens": 9, "tools": [{"name": "add"}], "tool_choice": "some"}, "some"),
    ],
)
async def test_what_cannot_be_offered_was_dropped_in_silence(
    served: Served, path: str, asked: dict[str, Any], named: str
) -> None:
    answer = await served.http.post(path, json={"messages": ASKED, **asked})
    assert answer.status_code == 400 and named in answer.json()["error"]["message"] and not served.swarm.asked

"""What programs send out of habit: fields that say nothing, other servers' words for the same, and bodies as editors
and old clients write them. Nothing of it is refused for its form, and nothing that changes a reply is dropped."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from typing import Any

import pytest

from dsdnode.client import constraints
from dsdnode.gateway.bodies import OTHERS_KNOBS, USUAL_TOKENS
from dsdnode.gateway.doors import Rules, check_origin
from tests.gateway.conftest import Served, hello
from tests.gateway.test_tools import ASKED, TOOL

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
OLLAMA, GENERATE, SHOW, COUNT = "/api/chat", "/api/generate", "/api/show", "/v1/messages/count_tokens"
APP = "https://app.example"
SCHEMA = {"type": "object", "required": ["a"]}
NEWS = {"type": "function", "function": {"name": "get_news"}}
CALLED: dict[str, Any] = {"role": "assistant", "content": None}
LEAST: dict[str, dict[str, Any]] = {
    CHAT: hello(), TEXT: {"prompt": "Once"}, RESPONSES: {"input": "hello"}, MESSAGES: hello(max_tokens=9),
    COUNT: hello(), OLLAMA: hello(model="demo", stream=False), GENERATE: {"model": "demo", "prompt": "hello"},
    SHOW: {"model": "demo"},
}  # fmt: skip
"""Of each path what it takes to be answered."""


async def ask(served: Served, path: str, **more: Any) -> Any:
    answer = await served.http.post(path, json={**LEAST[path], **more})
    assert answer.status_code == 200, answer.text
    return served.swarm.asked[-1] if served.swarm.asked else None


async def refused(served: Served, path: str, **more: Any) -> str:
    answer = await served.http.post(path, json={**LEAST[path], **more})
    assert answer.status_code == 400 and not served.swarm.asked, answer.text
    return answer.text


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (OLLAMA, {"messages": None}),
        (GENERATE, {"prompt": None}),
        (SHOW, {"model": None, "name": "demo"}),
        (COUNT, {"max_tokens": None}),
        (COUNT, {"max_tokens": 0}),
        (CHAT, {"top_logprobs": 0}),
        (OLLAMA, {"logprobs": False, "top_logprobs": 0}),
        (TEXT, {"best_of": 2, "n": 2}),
        (RESPONSES, {"input": [{"type": None, "role": "user", "content": "hi"}]}),
    ],
)
async def test_a_field_that_says_nothing_is_no_fault(served: Served, path: str, more: dict[str, Any]) -> None:
    await ask(served, path, **more)


async def test_seeds_of_any_size(served: Served) -> None:
    seeds = [(await ask(served, CHAT, seed=seed)).seed for seed in (2**64 - 2, -(2**63) - 5, 2**70 + 7, 7)]
    assert all(0 <= seed < 2**63 for seed in seeds) and seeds[-1] == 7
    assert (await ask(served, OLLAMA, options={"seed": 2**64 + 7})).seed == 7


@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSES])
async def test_as_many_tokens_as_are_usual_and_none_at_all(served: Served, path: str) -> None:
    name = "max_output_tokens" if path == RESPONSES else "max_tokens"
    assert "max_tokens is 1 or more" in await refused(served, path, **{name: 0})
    assert (await ask(served, path, **{name: -1})).max_tokens == USUAL_TOKENS


async def test_an_empty_stop_stops_nothing(served: Served) -> None:
    assert (await ask(served, CHAT, stop="")).stop == ()
    assert (await ask(served, CHAT, stop=["", "END"])).stop == ("END",)
    assert (await ask(served, MESSAGES, stop_sequences=["", "END"])).stop == ("END",)
    assert (await ask(served, OLLAMA, options={"stop": [""]})).stop == ()


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
        (TEXT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
        (MESSAGES, {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}}),
        (MESSAGES, {"output_format": {"type": "json_schema", "schema": SCHEMA}}),
    ],
)
async def test_a_schema_is_held_to_wherever_it_stands(served: Served, path: str, more: dict[str, Any]) -> None:
    assert (await ask(served, path, **more)).constraint == constraints.json_schema(SCHEMA)


@pytest.mark.parametrize(
    ("path", "more", "named"),
    [
        (CHAT, {"grammar": 'root ::= "a"'}, "grammar"),
        (CHAT, {"json_schema": SCHEMA}, "response_format"),
        (TEXT, {"guided_regex": "a+"}, "guided_regex"),
        (RESPONSES, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        (CHAT, {"web_search_options": {}}, "web_search_options"),
        (OLLAMA, {"options": {"mirostat": 2, "typical_p": 0.3}}, "mirostat, typical_p"),
        (TEXT, {"min_tokens": 5, "stop_token_ids": [7]}, "min_tokens, stop_token_ids"),
        (CHAT, {"continue_final_message": True, "add_generation_prompt": False}, "add_generation_prompt"),
        (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "a1"}}]}, "messages[0].audio"),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}, "not its id"),
        (MESSAGES, {"mcp_servers": [{"type": "url", "url": "https://x"}]}, "mcp_servers"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "has a text"),
    ],
)
async def test_what_would_change_the_reply_was_dropped_in_silence(
    served: Served, path: str, more: dict[str, Any], named: str
) -> None:
    assert named in await refused(served, path, **more)


async def test_what_other_servers_do_nothing_with_is_sent_all_the_time(served: Served) -> None:
    idle = {name: values[0] for name, values in OTHERS_KNOBS.items()}
    await ask(served, CHAT, **idle)
    await ask(served, OLLAMA, options={**idle, "mirostat_tau": 5.0, "typical_p": 1.0})


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
async def test_embeddings_are_refused_by_name(served: Served, path: str) -> None:
    answer = await served.http.post(path, json={"model": "demo", "input": "hello"})
    assert answer.status_code == 400 and "embeddings" in answer.text


@pytest.mark.parametrize(("mode", "must"), [("auto", False), ("required", True)])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_some_of_the_tools_may_be_called(served: Served, path: str, mode: str, must: bool) -> None:
    """Carol's program offers two, of which one may be called this time."""
    allowed: dict[str, Any] = {"mode": mode, "tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    choice: dict[str, Any] = {"type": "allowed_tools", "allowed_tools": allowed}
    tools: list[Any] = [TOOL, NEWS]
    if path == RESPONSES:
        choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "get_weather"}]}
        tools = [{"type": "function", **one["function"]} for one in tools]
    asked = await ask(served, path, tools=tools, tool_choice=choice)
    assert [one["function"]["name"] for one in asked.tools] == ["get_weather"]
    assert asked.constraint == (constraints.calls(["get_weather"], strict=["get_weather"]) if must else None)


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        ({"mode": "auto", "tools": [{"name": "get_news"}]}, "get_news"),
        ({"mode": "often", "tools": [{"name": "get_weather"}]}, "auto or required"),
        ({"mode": "auto", "tools": []}, "a list of tools"),
        ({"mode": "auto", "tools": ["get_weather"]}, "has a name"),
        (None, "a list of tools"),
    ],
)
async def test_what_is_not_offered_cannot_be_allowed(served: Served, allowed: Any, words: str) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert words in await refused(served, CHAT, tools=[TOOL], tool_choice=choice)


@pytest.mark.parametrize("choice", ["allowed_tools", "function", "tool"])
async def test_a_choice_that_says_not_which_is_refused_in_words(served: Served, choice: str) -> None:
    assert "an object that says which" in await refused(served, CHAT, tools=[TOOL], tool_choice=choice)


async def test_calls_as_they_were_said_before_there_were_several(served: Served) -> None:
    call = {"name": "get_weather", "arguments": '{"city": "Ulm"}'}
    messages = [
        *ASKED,
        {**CALLED, "function_call": call},
        {"role": "function", "name": "get_weather", "content": "rain"},
    ]
    _, said, result = (await ask(served, CHAT, messages=messages)).messages
    assert said["tool_calls"][0]["function"] == call
    assert (result["role"], result["name"], result["content"]) == ("tool", "get_weather", "rain")


async def test_calls_without_ids_or_arguments(served: Served) -> None:
    call = {"id": None, "type": "function", "function": {"name": "get_weather", "arguments": None}}
    asked = await ask(served, CHAT, messages=[*ASKED, {**CALLED, "tool_calls": [call]}])
    assert asked.messages[1]["tool_calls"][0]["function"]["arguments"] == "{}"
    bare = {"function": {"name": "get_weather", "arguments": None}}
    asked = await ask(served, OLLAMA, messages=[*ASKED, {**CALLED, "tool_calls": [bare]}])
    assert asked.messages[1]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "reasoning"])
async def test_what_a_model_thought_before_is_not_asked(served: Served, kind: str) -> None:
    parts = [{"type": kind, "thinking": "hm"}, {"type": "text", "text": "Yes."}]
    asked = await ask(served, CHAT, messages=[*ASKED, {"role": "assistant", "content": parts}])
    assert asked.messages[1]["content"] == "Yes."


async def test_a_body_as_editors_write_it(served: Served) -> None:
    body = json.dumps(hello()).encode()
    assert (await served.http.post(CHAT, content=b"\xef\xbb\xbf" + body)).status_code == 200
    plain = await served.http.post(CHAT, content=body, headers={"content-encoding": "Identity"})
    assert plain.status_code == 200
    packed = await served.http.post(CHAT, content=gzip.compress(body), headers={"content-encoding": "gzip"})
    assert packed.status_code == 400 and "gzip" in packed.json()["error"]["message"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"cut \ud83d", "cut \ufffd"),
        (r"\ude00 cut", "\ufffd cut"),
        (r"\ud83d\ud83d\ude00 \\ud83d \n", "\ufffd\U0001f600 \\ud83d \n"),
    ],
)
async def test_half_a_character_ended_a_conversation_for_ever(served: Served, written: str, read: str) -> None:
    """Agents cut what tools say in the middle of one, and send it again with every turn."""
    body = '{"messages": [{"role": "user", "content": "' + written + '"}]}'
    assert (await served.http.post(CHAT, content=body.encode())).status_code == 200
    assert served.swarm.asked[0].messages[0]["content"] == read


async def test_another_method_is_a_405_that_says_which(served: Served) -> None:
    answer = await served.http.get(CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("rules", [Rules("a key", [APP])])
async def test_a_page_of_the_web_may_reach_this_machine_where_it_was_allowed(served: Served) -> None:
    wants = {"origin": APP, "access-control-request-method": "POST", "access-control-request-private-network": "true"}
    before = await served.http.options(CHAT, headers=wants)
    assert before.status_code == 200 and before.headers["access-control-allow-private-network"] == "true"
    assert (await served.http.options(CHAT, headers={**wants, "origin": "https://evil.example"})).status_code == 400


@pytest.mark.parametrize("origin", ["app://obsidian.md", "tauri://localhost", "chrome-extension://abcdef"])
def test_programs_that_are_made_of_pages_may_be_allowed(origin: str) -> None:
    assert check_origin(origin) == origin


async def test_javas_clients_offer_another_http_first(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """With each request; they are answered, and the log stays still."""
    caplog.set_level(logging.INFO)
    body = json.dumps(hello()).encode()
    offers = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + offers
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert "upgrade" not in caplog.text.lower()


async def test_models_as_each_program_reads_them(served: Served) -> None:
    """All fields that their own types require."""
    import anthropic
    import ollama
    import openai
    from pydantic import TypeAdapter

    found = (await served.http.get("/v1/models")).json()
    assert (await served.http.get("/v1/models/")).json() == found
    TypeAdapter(openai.types.Model).validate_python(found["data"][0])
    TypeAdapter(anthropic.types.ModelInfo).validate_json(json.dumps(found["data"][0]))
    client = anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0)
    assert [(one.id, one.display_name) async for one in client.models.list()] == [("demo", "demo")]
    assert [one.model for one in (await ollama.AsyncClient(host=served.url).ps()).models] == ["demo"]


async def test_responses_have_all_that_their_type_requires(served: Served) -> None:
    import openai.types.responses
    from pydantic import TypeAdapter

    whole = await served.http.post(RESPONSES, json={"input": "hello", "model": "demo"})
    TypeAdapter(openai.types.responses.Response).validate_json(whole.content)

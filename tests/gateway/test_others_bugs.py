"""What users of other servers saw, one test each: each name says what it looked like."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dsdnode.client.client import Finished
from dsdnode.errors import BadInput, NoPipeline, Overloaded
from dsdnode.gateway import streams
from dsdnode.gateway.doors import Rules, check_origin
from tests.gateway.conftest import WAIT, Served, hello, stats

CHAT = "/v1/chat/completions"
APP = "https://app.example"


async def chunks(served: Served, **more: Any) -> list[Any]:
    return [data for _, data in await served.events(CHAT, hello(stream=True, **more))]


async def test_usage_came_unasked_or_with_a_choice_or_behind_done(served: Served) -> None:
    *_, last, usage, done = await chunks(served, stream_options={"include_usage": True})
    assert last["choices"][0]["finish_reason"] == "stop" and last["usage"] is None
    assert usage["choices"] == [] and done == "[DONE]"
    assert {name: usage["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 12,
        "completion_tokens": 2,
        "total_tokens": 14,
    }
    assert all("usage" not in chunk for chunk in (await chunks(served))[:-1])


async def test_a_stream_said_done_without_a_finish_reason(served: Served) -> None:
    served.swarm.script = ["Hel", NoPipeline("nobody hosts layers 4:8")]
    said = await chunks(served)
    assert said[-1]["error"]["message"] == "nobody hosts layers 4:8"
    assert "[DONE]" not in said and all(c["choices"][0]["finish_reason"] is None for c in said if "choices" in c)


@pytest.mark.parametrize(("reason", "told"), [("length", "length"), ("context", "length"), ("stop", "stop")])
async def test_a_reply_that_was_cut_off_said_stop(served: Served, reason: str, told: str) -> None:
    served.swarm.script = ["Hel", reason]
    whole = (await served.http.post(CHAT, json=hello())).json()
    assert whole["choices"][0]["finish_reason"] == told == (await chunks(served))[-2]["choices"][0]["finish_reason"]


async def test_only_max_tokens_was_known_or_only_the_new_name(served: Served) -> None:
    await served.http.post(CHAT, json=hello(max_tokens=7))
    await served.http.post(CHAT, json=hello(max_completion_tokens=8, max_tokens=None))
    assert [request.max_tokens for request in served.swarm.asked] == [7, 8]


async def test_content_in_parts_or_null_was_refused(served: Served) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    messages = [
        {"role": "developer", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "hi"},
    ]
    assert (await served.http.post(CHAT, json={"messages": messages})).status_code == 200
    assert served.swarm.asked[0].messages[0] == {"role": "system", "content": "Hello"}
    assert served.swarm.asked[0].messages[1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio", "input_audio": {}}]
)
async def test_an_image_was_dropped_in_silence(served: Served, part: dict[str, Any]) -> None:
    answer = await served.http.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]})
    assert answer.status_code == 400 and part["type"] in answer.json()["error"]["message"]
    assert served.swarm.asked == []


@pytest.mark.parametrize(
    "field",
    [{"functions": [{}]}, {"modalities": ["audio"]}],
)  # fmt: skip
async def test_what_was_asked_for_and_cannot_be_done_was_dropped_in_silence(
    served: Served, field: dict[str, Any]
) -> None:
    answer = await served.http.post(CHAT, json=hello(**field))
    assert answer.status_code == 400 and next(iter(field)) in answer.json()["error"]["message"]


async def test_a_prompt_too_long_was_a_500_and_came_again_for_ever(served: Served) -> None:
    served.swarm.script = [BadInput("the prompt is 12003 tokens long; the context of demo here is 2048")]
    for stream in (False, True):
        answer = await served.http.post(CHAT, json=hello(stream=stream))
        assert answer.status_code == 400 and "2048" in answer.json()["error"]["message"]


async def test_a_full_swarm_was_an_error_without_a_time_to_come_again(served: Served) -> None:
    for error, status in ((Overloaded("no place"), 429), (NoPipeline("nobody"), 503)):
        served.swarm.script = [error]
        answer = await served.http.post(CHAT, json=hello(stream=True))
        assert answer.status_code == status and int(answer.headers["retry-after"]) > 0


async def test_unknown_paths_were_not_in_the_envelope(served: Served) -> None:
    assert (await served.http.get("/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await served.http.get(CHAT)).json()["error"]["message"] == f"GET is not for {CHAT}"
    assert (await served.http.post("/api/nothing")).json() == {"error": "there is no /api/nothing here"}
    assert (await served.http.post("/v1/messages/batches")).json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hung_up_went_on_costing(served: Served, path: str, stream: bool) -> None:
    """In prefill, when nothing has come yet, and in the middle."""
    for script in ([WAIT], ["Hel", WAIT]):
        served.swarm.script, served.swarm.began, served.swarm.left = script, asyncio.Event(), asyncio.Event()
        body = hello(stream=stream, max_tokens=9, model="demo", input="hello")
        asking = asyncio.create_task(served.http.post(path, json=body))
        async with asyncio.timeout(5):
            await served.swarm.began.wait()
            asking.cancel()
            await served.swarm.left.wait()


async def test_nothing_came_for_so_long_that_a_proxy_hung_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments to readers of events, nothing to readers of lines, who would take it for JSON."""
    monkeypatch.setattr(streams, "FIRST_S", 0.01)
    monkeypatch.setattr(streams, "PING_S", 0.01)
    served.swarm.script = [WAIT]
    async with served.http.stream("POST", CHAT, json=hello(stream=True)) as answer:
        assert await anext(answer.aiter_lines()) == ": ping"
    async with served.http.stream("POST", "/api/chat", json=hello(model="demo")) as answer:
        lines = answer.aiter_lines()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(lines), 0.1)


@pytest.mark.parametrize("rules", [Rules("a key", [APP])])
async def test_a_page_that_was_allowed_could_not_ask_because_the_preflight_has_no_key(served: Served) -> None:
    wants = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    before = await served.http.options(CHAT, headers=wants)
    assert before.status_code == 200 and "authorization" in before.headers["access-control-allow-headers"]
    answer = await served.http.post(CHAT, json=hello(), headers={"origin": APP, "authorization": "Bearer a key"})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == APP
    refused = await served.http.post(CHAT, json=hello(), headers={"origin": APP})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == APP


async def test_any_page_could_ask_and_read(served: Served) -> None:
    answer = await served.http.post(CHAT, json=hello(), headers={"origin": "https://evil.example"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert (await served.http.options(CHAT, headers=preflight)).status_code >= 400
    assert served.swarm.asked == []


async def test_a_name_that_was_turned_to_this_machine_could_ask(served: Served) -> None:
    answer = await served.http.post(CHAT, json=hello(), headers={"host": "evil.example"})
    assert answer.status_code == 403 and served.swarm.asked == []


async def test_responses_came_out_of_order_or_without_numbers(served: Served) -> None:
    events = await served.events("/v1/responses", {"input": "hello", "stream": True})
    assert [name for name, _ in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert all(data["type"] == name for name, data in events)
    assert events[-1][1]["response"]["output"][0]["content"][0]["text"] == "Hello"


async def test_an_id_of_a_response_that_is_not_kept_was_ignored(served: Served) -> None:
    answer = await served.http.post("/v1/responses", json={"input": "hi", "previous_response_id": "resp_1"})
    assert answer.status_code == 400 and "whole conversation" in answer.json()["error"]["message"]


async def test_an_image_beside_the_content_was_dropped_in_silence(served: Served) -> None:
    """Ollama's clients have it there."""
    asked = {"model": "demo", "messages": [{"role": "user", "content": "what is it?", "images": ["iVBORw0="]}]}
    answer = await served.http.post("/api/chat", json=asked)
    assert answer.status_code == 400 and "images" in answer.json()["error"]
    for field in ({"think": True}, {"context": [1]}, {"images": ["iVBORw0="]}):
        answer = await served.http.post("/api/generate", json={"model": "demo", "prompt": "hi", **field})
        assert answer.status_code == 400 and next(iter(field)) in answer.json()["error"]
    assert served.swarm.asked == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_loading_a_model_was_an_error(served: Served, path: str) -> None:
    assert (await served.http.post(path, json={"model": "demo"})).json()["done_reason"] == "load"
    assert (await served.http.post(path, json={"model": "demo", "keep_alive": 0})).json()["done_reason"] == "unload"
    assert (await served.http.post(path, json={"model": "other"})).status_code == 404
    assert served.swarm.asked == []


async def test_the_likeliest_token_alone_was_taken_for_any_token(served: Served) -> None:
    await served.http.post(CHAT, json=hello(top_p=0, temperature=1))
    assert 0 < served.swarm.asked[0].top_p < 1e-3


async def test_a_threshold_without_its_rule_was_dropped_in_silence(served: Served) -> None:
    answer = await served.http.post(CHAT, json=hello(threshold=0.5))
    assert answer.status_code == 400 and "threshold" in answer.json()["error"]["message"]
    await served.http.post(CHAT, json=hello(threshold=0.5, acceptance="relaxed"))
    assert [request.threshold for request in served.swarm.asked] == [0.5]


async def test_a_reply_that_a_drafter_gave_up_looked_whole(served: Served) -> None:
    served.swarm.script = ["Hel", Finished("cancelled", stats(1))]
    assert (await served.http.post(CHAT, json=hello())).status_code == 502
    said = await chunks(served)
    assert "cancelled" in said[-1]["error"]["message"] and "[DONE]" not in said


async def test_prompts_were_not_all_counted(served: Served) -> None:
    """Twelve tokens each, in two replies each."""
    answer = await served.http.post("/v1/completions", json={"prompt": ["one", "two", "three"], "n": 2})
    usage = answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (36, 15)


@pytest.mark.parametrize("origin", ["http://[::1", "null", "http://x:port"])
async def test_an_origin_that_is_none_was_a_bug_of_the_server(served: Served, origin: str) -> None:
    answer = await served.http.post(CHAT, json=hello(), headers={"origin": origin})
    assert answer.status_code == 403 and served.swarm.asked == []


@pytest.mark.parametrize(
    "origin",
    [
        *("http://[::1", "ftp://x", "https://", "https://x/", "x"),
        *("http://*", "https://*.x", "https://x:99999", "https://a b", "https://X", "https://u@x", "https://x:443"),
        *("https://x\0", "https://x?", "https://x, https://y"),
    ],
)
def test_an_origin_that_no_page_has_is_refused(origin: str) -> None:
    with pytest.raises(BadInput, match="an origin is"):
        check_origin(origin)


@pytest.mark.parametrize("origin", ["*", "https://x", "http://x-1.y.z:8080", "http://[::1]:3000", "http://x:443"])
def test_an_origin_that_a_page_has_is_taken(origin: str) -> None:
    assert check_origin(origin) == origin


@pytest.mark.parametrize("rules", [Rules("a key")])
async def test_a_key_was_not_seen_beside_another_one(served: Served) -> None:
    """Some programs send what they have of somebody else in the header that is not ours."""
    both = {"authorization": "Bearer another", "x-api-key": "a key"}
    assert (await served.http.post(CHAT, json=hello(), headers=both)).status_code == 200
    for wrong in ({"x-api-key": "a kex"}, {"authorization": "Basic a key"}, {}):
        assert (await served.http.post(CHAT, json=hello(), headers=wrong)).status_code == 401


@pytest.mark.parametrize("rules", [Rules("schl\u00fcssel \u20ac"), Rules("schl\u00fcssel")])
@pytest.mark.parametrize("written", ["utf-8", "latin-1"])
async def test_a_key_beyond_ascii_never_fitted(served: Served, rules: Rules, written: str) -> None:
    """Terminals send it in UTF-8, browsers in Latin-1 if it can be written so."""
    sent = rules.key.encode(written, "replace")
    answer = await served.http.post(CHAT, json=hello(), headers=[(b"authorization", b"Bearer " + sent)])
    assert answer.status_code == (200 if sent.decode(written) == rules.key else 401)


async def test_the_beginning_of_an_answer_was_taken_for_a_turn_of_its_own(served: Served) -> None:
    """Anthropic's models of old went on with it; here it would be another text."""
    messages = [{"role": "user", "content": "as JSON"}, {"role": "assistant", "content": "{"}]
    body = {"model": "demo", "max_tokens": 9, "messages": messages}
    answer = await served.http.post("/v1/messages", json=body)
    assert answer.status_code == 400 and "comes last" in answer.json()["error"]["message"]
    assert (await served.http.post("/v1/messages/count_tokens", json=body)).status_code == 200

"""The programs that people have, unpatched: packages of OpenAI, Anthropic and Ollama.

Each is imported by its tests alone: together they take four seconds, in every process that merely collects this file.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from dsdnode.client.client import Finished
from dsdnode.errors import ModelRefused, NoPipeline
from tests.gateway.conftest import Served, stats

if TYPE_CHECKING:
    import openai

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def openai_client(served: Served) -> openai.AsyncOpenAI:
    import openai

    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


async def test_openais_chat(served: Served, openai_client: openai.AsyncOpenAI) -> None:
    whole = await openai_client.chat.completions.create(
        model="demo", messages=HELLO, seed=7, temperature=0.5, stop=["END"], n=2, max_tokens=9
    )
    assert [choice.message.content for choice in whole.choices] == ["Hello", "Hello"]
    assert whole.usage.completion_tokens == 4 and whole.usage.prompt_tokens_details.cached_tokens == 5
    one, other = served.swarm.asked
    assert (one.model, one.temperature, one.stop, one.max_tokens) == ("demo", 0.5, ("END",), 9)
    assert one.seed == 7 != other.seed


async def test_openais_stream(openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.chat.completions.create(
        model="default", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.total_tokens == 14


async def test_openais_completions_responses_and_models(openai_client: openai.AsyncOpenAI) -> None:
    completed = await openai_client.completions.create(model="demo", prompt=["Once", "upon"], max_tokens=4)
    assert [choice.text for choice in completed.choices] == ["Hello", "Hello"]
    answered = await openai_client.responses.create(model="demo", instructions="Be short.", input="hello")
    assert answered.output_text == "Hello" and answered.usage is not None and answered.usage.output_tokens == 2
    async with openai_client.responses.stream(model="demo", input="hello") as stream:
        assert (await stream.get_final_response()).output_text == "Hello"
    assert [model.id async for model in openai_client.models.list()] == ["demo"]


async def test_openais_errors(served: Served, openai_client: openai.AsyncOpenAI) -> None:
    import openai

    served.swarm.script = [ModelRefused("no model named 'gpt' in this swarm (there is: demo)")]
    with pytest.raises(openai.NotFoundError, match="there is: demo"):
        await openai_client.chat.completions.create(model="gpt", messages=HELLO)
    served.swarm.script = [NoPipeline("nobody hosts layers 4:8")]
    with pytest.raises(openai.InternalServerError, match="layers 4:8"):
        await openai_client.chat.completions.create(model="demo", messages=HELLO)


async def test_anthropics_messages(served: Served) -> None:
    import anthropic

    client = anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0)
    system = "x-anthropic-billing-header: 4711\nBe short."
    whole = await client.messages.create(model="demo", max_tokens=9, system=system, messages=HELLO)
    assert [block.text for block in whole.content if block.type == "text"] == ["Hello"]
    assert (whole.stop_reason, whole.usage.input_tokens, whole.usage.cache_read_input_tokens) == ("end_turn", 7, 5)
    assert served.swarm.asked[0].messages[0] == {"role": "system", "content": "Be short."}
    served.swarm.script = ["Hel", "length"]
    async with client.messages.stream(model="demo", max_tokens=1, messages=HELLO) as stream:
        assert "".join([text async for text in stream.text_stream]) == "Hel"
        assert (await stream.get_final_message()).stop_reason == "max_tokens"
    stopped = msgspec.structs.replace(stats(1), stop_text="lo")
    served.swarm.script = ["Hel", Finished("stop", stopped)]
    whole = await client.messages.create(model="demo", max_tokens=9, messages=HELLO, stop_sequences=["lo", "x"])
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "lo")
    assert tuple(served.swarm.asked[-1].stop) == ("lo", "x")
    async with client.messages.stream(model="demo", max_tokens=9, messages=HELLO, stop_sequences=["lo"]) as stream:
        final = await stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "lo")
    served.swarm.script = [ModelRefused("no such model")]
    with pytest.raises(anthropic.NotFoundError, match="no such model"):
        await client.messages.create(model="claude", max_tokens=9, messages=HELLO)


@pytest.mark.parametrize(("said", "stop"), [("\n\n", "stop_sequence"), ("another", "end_turn"), ("", "end_turn")])
async def test_anthropics_stop_sequences(served: Served, said: str, stop: str) -> None:
    """`said`: which of them ended the reply, by the drafter's word; one that was not asked for is not believed."""
    served.swarm.script = ["Hel", Finished("stop", replace(stats(1), stop_text=said))]
    body = {"max_tokens": 9, "messages": HELLO, "stop_sequences": ["###", "\n\n"]}
    told = (await served.http.post("/v1/messages", json=body)).json()
    assert (told["stop_reason"], told["stop_sequence"]) == (stop, said if stop == "stop_sequence" else None)


async def test_ollamas_chat(served: Served) -> None:
    import ollama

    client = ollama.AsyncClient(host=served.url)
    assert [one.model for one in (await client.list()).models] == ["demo"]
    assert (await client.show("demo")).modelinfo["general.name"] == "demo"
    whole = await client.chat(model="demo", messages=HELLO, options={"num_predict": 9, "seed": 3})
    assert whole.message.content == "Hello" and whole.eval_count == 2 and whole.done_reason == "stop"
    assert (served.swarm.asked[0].max_tokens, served.swarm.asked[0].seed) == (9, 3)
    parts = [part.message.content async for part in await client.chat(model="demo:latest", messages=HELLO, stream=True)]
    assert parts == ["Hel", "lo", ""]
    assert (await client.generate(model="demo", prompt="hello")).response == "Hello"
    served.swarm.script = [ModelRefused("no such model")]
    with pytest.raises(ollama.ResponseError, match="no such model"):
        await client.chat(model="other", messages=HELLO)


async def test_many_clients_at_once(served: Served, openai_client: openai.AsyncOpenAI) -> None:
    asked = (openai_client.completions.create(model="demo", prompt="hello") for _ in range(50))
    assert [one.choices[0].text for one in await asyncio.gather(*asked)] == ["Hello"] * 50

"""How many tokens a prompt has, before it is asked for."""

from __future__ import annotations

import asyncio

import anthropic
import pytest

from dsdnode.errors import BadInput
from tests.gateway.conftest import WAIT, Served, hello


async def test_anthropics_count(served: Served) -> None:
    client = anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0)
    tool = {"name": "add", "input_schema": {"type": "object"}}
    found = await client.messages.count_tokens(
        model="demo",
        messages=[{"role": "user", "content": "hello"}],
        system="Be short.",
        tools=[tool],  # type: ignore[list-item]
    )
    assert found.input_tokens == len("^Be short.hello")
    (asked,) = served.swarm.asked
    assert asked.tools[0]["function"]["name"] == "add" and not served.swarm.began.is_set()
    served.swarm.script = [BadInput("the prompt is too long")]
    answer = await served.http.post("/v1/messages/count_tokens", json=hello())
    assert answer.status_code == 400 and answer.json()["error"]["message"] == "the prompt is too long"


async def test_llama_servers_tokens(served: Served) -> None:
    ids = (await served.http.post("/tokenize", json={"content": "hi ü"})).json()["tokens"]
    assert ids == [104, 105, 32, 252]
    assert (await served.http.post("/detokenize", json={"tokens": ids})).json() == {"content": "hi ü"}
    assert (await served.http.post("/tokenize", json={"content": ""})).json() == {"tokens": []}
    assert (await served.http.post("/detokenize", json={"tokens": [-1]})).status_code == 400


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens"])
async def test_who_hangs_up_has_nothing_read_any_more(served: Served, path: str) -> None:
    served.swarm.script = [WAIT]
    asking = asyncio.create_task(served.http.post(path, json=hello(content="hi", tokens=[1])))
    await served.swarm.reads.wait()
    asking.cancel()
    async with asyncio.timeout(10):
        await served.swarm.left.wait()

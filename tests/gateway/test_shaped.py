"""Penalties, biases and log-probabilities as programs ask for them and read them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.server import Gateway
from dsdnode.wire.logprobs import SaidPosition, SaidToken
from tests.gateway.conftest import Served, hello
from tests.node.shaped import shaped_reply
from tests.node.swarm import TARGET, fake_swarm

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "hello"}]
EURO = "€".encode()
TEXTS = ["Hel", "\ufffd", "\ufffd", "lo"]


def said(token: int, data: bytes, logprob: float = -0.5) -> SaidPosition:
    top = (SaidToken(token, logprob, data), SaidToken(99, -2.25, b"other"))
    return SaidPosition(top[0], top)


PIECES = [
    Piece((1,), "Hel", 0, logprobs=(said(1, b"Hel"),)),
    Piece((2,), "", 0, logprobs=(said(2, EURO[:2]),)),
    Piece((3, 4), "€lo", 2, logprobs=(said(3, EURO[2:]), said(4, b"lo"))),
    "stop",
]


@pytest.fixture
def client(served: Served) -> openai.AsyncOpenAI:
    served.swarm.script = list(PIECES)
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


async def test_what_openais_clients_may_ask_is_asked(served: Served, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(
        model="demo", messages=HELLO, presence_penalty=0.5, frequency_penalty=-1, logit_bias={"50": -100, "7": 3},
        logprobs=True, top_logprobs=2, extra_body={"repetition_penalty": 1.2, "repeat_last_n": 64},
    )  # fmt: skip
    await client.completions.create(model="demo", prompt="Once", logprobs=0, presence_penalty=2)
    nothing: Any = {"logprobs": False, "extra_body": {"top_logprobs": None}}
    await client.chat.completions.create(model="demo", messages=HELLO, **nothing)
    chat, text, plain = served.swarm.asked
    assert (chat.presence_penalty, chat.frequency_penalty, chat.logit_bias) == (0.5, -1, {50: -100, 7: 3})
    assert (chat.repetition_penalty, chat.repeat_last_n, chat.logprobs) == (1.2, 64, 2)
    assert (text.logprobs, text.presence_penalty) == (0, 2)
    unasked = GenerateRequest()
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_last_n", "logit_bias"):
        assert getattr(plain, name) == getattr(unasked, name)
    assert plain.logprobs == -1


async def test_chats_log_probabilities(client: openai.AsyncOpenAI) -> None:
    """Whole and as a stream: every token has its own, those of half a character too, with its bytes."""
    asked: Any = {"model": "demo", "messages": HELLO, "logprobs": True, "top_logprobs": 2}
    whole = await client.chat.completions.create(**asked)
    told = whole.choices[0].logprobs
    assert told is not None and told.content is not None
    assert [(one.token, one.logprob) for one in told.content] == [(text, -0.5) for text in TEXTS]
    assert b"".join(bytes(one.bytes or ()) for one in told.content).decode() == "Hel€lo"
    assert whole.choices[0].message.content == "Hel€lo"
    assert [(one.token, one.logprob) for one in told.content[3].top_logprobs] == [("lo", -0.5), ("other", -2.25)]
    chunks = [chunk.choices[0] async for chunk in await client.chat.completions.create(**asked, stream=True)]
    streamed = [one for chunk in chunks if chunk.logprobs is not None for one in chunk.logprobs.content or ()]
    assert streamed == told.content
    unasked = await client.chat.completions.create(model="demo", messages=HELLO)
    assert unasked.choices[0].logprobs is None


async def test_text_completions_log_probabilities(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "demo", "prompt": "Once", "logprobs": 2}
    told = (await client.completions.create(**asked)).choices[0].logprobs
    assert told is not None
    assert told.tokens == TEXTS and told.token_logprobs == [-0.5] * 4
    assert told.top_logprobs is not None and told.top_logprobs[0] == {"Hel": -0.5, "other": -2.25}
    assert told.text_offset == [0, 3, 4, 5]
    chunks = [chunk.choices[0] async for chunk in await client.completions.create(**asked, stream=True)]
    assert [token for one in chunks if one.logprobs for token in one.logprobs.tokens or ()] == told.tokens


async def test_responses_log_probabilities(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "demo", "input": "hello", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answered = await client.responses.create(**asked)
    part: Any = answered.output[0]
    assert [one.token for one in part.content[0].logprobs] == TEXTS
    async with client.responses.stream(**asked) as stream:
        deltas = [event.logprobs async for event in stream if event.type == "response.output_text.delta"]
    assert [one.token for delta in deltas for one in delta] == TEXTS


async def test_ollamas_options_and_log_probabilities(served: Served) -> None:
    served.swarm.script = list(PIECES)
    client = ollama.AsyncClient(host=served.url)
    options = {"repeat_penalty": 1.1, "repeat_last_n": 0, "presence_penalty": 1.5, "frequency_penalty": 0.25}
    await client.chat(model="demo", messages=HELLO, options=options)
    (asked,) = served.swarm.asked
    assert (asked.repetition_penalty, asked.repeat_last_n) == (1.1, 0)
    assert (asked.presence_penalty, asked.frequency_penalty) == (1.5, 0.25)
    body = {"model": "demo", "messages": HELLO, "logprobs": True, "top_logprobs": 1, "stream": False}
    told = (await served.http.post("/api/chat", json=body)).json()
    assert [one["token"] for one in told["logprobs"]] == TEXTS
    assert served.swarm.asked[-1].logprobs == 1


WRONG = {
    "presence_penalty": 2.01, "frequency_penalty": -3, "repetition_penalty": 0, "repeat_last_n": -5,
    "logit_bias": {"5": 101}, "top_logprobs": 21, "logprobs": "yes",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_out_of_its_range_is_a_400_that_names_it(served: Served, name: str) -> None:
    answer = await served.http.post(CHAT, json=hello(**{"logprobs": True, name: WRONG[name]}))
    assert answer.status_code == 400 and name in answer.json()["error"]["message"]
    assert served.swarm.asked == []


@pytest.mark.parametrize(
    "bias", [dict.fromkeys(map(str, range(301)), 1), {"the": 1}, {"-1": 1}, {"9" * 40: 1}, {"³": 1}]
)
async def test_a_bias_of_what_is_no_token_is_a_400(served: Served, bias: dict[str, int]) -> None:
    answer = await served.http.post(CHAT, json=hello(logit_bias=bias))
    assert answer.status_code == 400 and "logit_bias" in answer.json()["error"]["message"]
    answer = await served.http.post(CHAT, json=hello(top_logprobs=3))
    assert answer.status_code == 400 and "top_logprobs goes with logprobs" in answer.json()["error"]["message"]


async def test_a_shaped_reply_comes_all_the_way_from_the_judge(tmp_path: Path) -> None:
    """Alice's program, a gateway, a drafter and two stages."""
    async with fake_swarm(tmp_path) as swarm:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 2))
        await swarm.add("sue", layers=(2, 4))
        gateway = Gateway("127.0.0.1", 0, Rules())
        running = asyncio.create_task(gateway.run(await swarm.client()))
        asked: Any = {"max_tokens": 30, "seed": 3, "presence_penalty": 1.5, "frequency_penalty": 0.5}
        try:
            client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)
            told: Any = {**asked, "logit_bias": {"0": -100}, "temperature": 0.7, "logprobs": 2}
            whole = await client.completions.create(model="default", prompt=[5, 17, 42, 8], **told)
        finally:
            gateway.stop()
            gateway.stop()
            await running
    request = GenerateRequest(prompt_tokens=(5, 17, 42, 8), temperature=0.7, **asked, logit_bias={0: -100})
    tokens, logprobs = shaped_reply(TARGET, request)
    logprobs_told = whole.choices[0].logprobs
    assert whole.choices[0].text == "".join(chr(32 + token) for token in tokens)
    assert logprobs_told is not None and logprobs_told.token_logprobs is not None
    expected = [row[token] for row, token in zip(logprobs, tokens, strict=True)]
    assert logprobs_told.token_logprobs == pytest.approx(expected, abs=1e-4)

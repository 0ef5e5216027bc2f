"""Rogues (rogue.py) that take replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from dsdnode.engine.fake import fake_text
from dsdnode.net.rpc import Response
from dsdnode.speculation.sampling import Sampling
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.numbers import pack_tokens

from .rogue import Rogue, say
from .words import ids_of, prompt_of, words_of

END_TOKEN = 0
SAYS_S = 1.0


def _expected(rogue: Rogue, body: replies.GenerateBody) -> list[int]:
    """What is still to come of a reply."""
    asked = body.sampling
    sampling = Sampling(asked.temperature, asked.top_k, asked.top_p, asked.min_p, asked.seed)
    text = fake_text(rogue.village.model, prompt_of(body), body.max_tokens, sampling)
    return (text[: text.index(END_TOKEN)] if END_TOKEN in text else text)[len(body.tokens) :]


Speaks = Callable[[bytes, replies.Generate, replies.GenerateBody], Any]


def _accept(rogue: Rogue, speaks: Speaks, prompt: Callable[[Sequence[int]], Sequence[int]] = list) -> None:
    """Each request, with `prompt` for the one that was asked; then it `speaks` as it likes."""
    assert rogue.villager.draft is not None

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Response:
        if not buffers:
            return wire.Pong(), []
        body = decode_body(buffers[0], replies.GenerateBody)
        rogue.did("reply taken")
        rogue.spawn(speaks(peer, message, body))
        return replies.Accepted(message.request, body.model), [pack_tokens(list(prompt(prompt_of(body))))]

    rogue.on_request(replies.Generate, generate)


def mute(rogue: Rogue) -> None:
    """Accepts, and gives nothing: no word, or excuses, or pieces without a token."""
    way = rogue.rng.choice(("nothing", "excuses", "empty pieces"))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        for second in range(100):
            await asyncio.sleep(SAYS_S)
            if way == "excuses":
                say(rogue, client, replies.Waiting(asked.request, f"soon ({second})"))
            elif way == "empty pieces":
                say(rogue, client, replies.Piece(asked.request, len(body.tokens), 0), b"", b"")

    _accept(rogue, speaks)


def swap(rogue: Rogue) -> None:
    """Accepts another prompt than was asked, and goes silent, perhaps after some right tokens."""
    given = rogue.rng.choice((0, 1, 5))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        tokens = _expected(rogue, body)[:given]
        if tokens:
            say(rogue, client, replies.Piece(asked.request, len(body.tokens), 0), pack_tokens(tokens), b"x")

    _accept(rogue, speaks, lambda prompt: [*prompt[1:], 1 + prompt[0] % 16, 5])


def dribble(rogue: Rogue) -> None:
    """The right reply, a token at a time, each after a long while."""
    pause_s = rogue.rng.choice((1.0, 2.0, 6.0, 14.0))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        tokens, before = _expected(rogue, body), len(body.tokens)
        for index, token in enumerate(tokens):
            await asyncio.sleep(pause_s)
            text = words_of([token]).encode()
            say(rogue, client, replies.Piece(asked.request, before + index, 0), pack_tokens([token]), text)
        figures = replies.Statistics(completion_tokens=len(tokens))
        say(rogue, client, replies.Finished(asked.request, "stop"), encode_body(figures))

    _accept(rogue, speaks)


def misname(rogue: Rogue) -> None:
    """The right tokens of what was asked in words, but beside the ids of something else; after some it goes silent."""
    given = rogue.rng.choice((1, 5))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        tokens = _expected(rogue, body)[:given]
        if tokens:
            text = words_of(tokens).encode()
            say(rogue, client, replies.Piece(asked.request, len(body.tokens), 0), pack_tokens(tokens), text)

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Response:
        if not buffers:
            return wire.Pong(), []
        body = decode_body(buffers[0], replies.GenerateBody)
        rogue.did("reply taken")
        prompt = list(body.prompt_tokens)
        if not prompt:
            rogue.did("prompt misnamed")
            prompt = rogue.rng.choice((ids_of("user: something else"), [*prompt_of(body)[1:], 5]))
        rogue.spawn(speaks(peer, message, body))
        return replies.Accepted(message.request, body.model), [pack_tokens(prompt)]

    rogue.on_request(replies.Generate, generate)


def deny(rogue: Rogue) -> None:
    """Says that what is asked for cannot be done, at once or after some right tokens."""
    errors = ("BadInput", "ModelRefused", "NoPipeline", "PeerUnavailable", "WorkerDied", "WorkFailed", "Nonsense")
    error, given = rogue.rng.choice(errors), rogue.rng.choice((0, 0, 2))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        tokens = _expected(rogue, body)[:given]
        text = words_of(tokens).encode()
        say(rogue, client, replies.Piece(asked.request, len(body.tokens), 0), pack_tokens(tokens), text)
        await asyncio.sleep(0.1)
        say(rogue, client, replies.Finished(asked.request, "", error, "no"))

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Response:
        rogue.did("reply denied")
        return replies.Finished(message.request, "", error, "no"), []

    if given:
        _accept(rogue, speaks)
    else:
        rogue.on_request(replies.Generate, generate)

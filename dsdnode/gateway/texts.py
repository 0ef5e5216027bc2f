"""Texts and their ids, as llama-server has them: `POST /tokenize`, `/detokenize`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dsdnode.client.client import GenerateRequest, TextRead
from dsdnode.gateway.answers import unless_hung_up
from dsdnode.gateway.bodies import ANY_MODEL, read, refuse

TokenId = Annotated[int, Meta(ge=0, le=1 << 24)]


class TokenizeBody(msgspec.Struct, kw_only=True):
    """Control tokens in `content` are found, and the model's BOS stands first if it wants one."""

    content: str
    model: str | None = None
    with_pieces: bool | None = None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    tokens: Annotated[list[TokenId], Meta(max_length=1 << 20)]
    model: str | None = None


async def tokenize(request: Request) -> Response:
    body = await read(request, TokenizeBody)
    refuse({"with_pieces": bool(body.with_pieces)})
    if not body.content:
        return JSONResponse({"tokens": []})
    found = await _read_text(request, GenerateRequest(prompt=body.content, model=_model(body.model)))
    return JSONResponse({"tokens": list(found.tokens)})


async def detokenize(request: Request) -> Response:
    body = await read(request, DetokenizeBody)
    if not body.tokens:
        return JSONResponse({"content": ""})
    found = await _read_text(request, GenerateRequest(prompt_tokens=body.tokens, model=_model(body.model)))
    return JSONResponse({"content": found.text})


async def _read_text(request: Request, asked: GenerateRequest) -> TextRead:
    """Raises ClientDisconnect, and what the swarm raises."""
    return await unless_hung_up(request, request.app.state.swarm.read_text(asked))


def _model(name: str | None) -> str | None:
    return None if name in (None, *ANY_MODEL) else name

"""The gateway's paths, and what is around all of them: doors, CORS, and errors in the words of whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dsdnode.errors import BadInput, DsdError
from dsdnode.gateway import anthropic, ollama, openai, page, responses, texts
from dsdnode.gateway.doors import Doors, Rules
from dsdnode.gateway.failures import RETRY_AFTER_S, NotHere, NotSo, failure_of, refusal
from dsdnode.gateway.map import Here
from dsdnode.gateway.map import swarm as swarm_map
from dsdnode.gateway.metrics import Metrics, metrics
from dsdnode.gateway.port import Swarm
from dsdnode.gateway.watched import Watched
from dsdnode.node.status import NodeStatus
from dsdnode.swarm.info import ModelInfo

log = structlog.get_logger(__name__)

MAX_REASONS = 4
"""Models in a reason: anybody may name as many as he likes to the swarm."""
EMBEDDINGS = ("/v1/embeddings", "/api/embed", "/api/embeddings")
HERE_S = 3.0
"""A node beside us that stands still is silent after it: neither an eye nor Prometheus waits longer."""
HUNG_UP = 499
"""As nginx has it; nobody reads it."""


async def _nobody() -> None:
    return None


async def _unless_silent(here: Here) -> NodeStatus | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HERE_S):
            return await here()
    return None


def make_app(swarm: Swarm, rules: Rules, here: Here | None = None) -> Starlette:
    """`here`: the node beside it, if there is one."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", openai.chat_completions, methods=["POST"]),
            Route("/v1/completions", openai.completions, methods=["POST"]),
            Route("/v1/responses", responses.responses, methods=["POST"]),
            Route("/v1/models", openai.models, methods=["GET"]),
            Route("/v1/models/{name:path}", openai.one_model, methods=["GET"]),
            Route("/v1/messages", anthropic.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", anthropic.count_tokens, methods=["POST"]),
            Route("/tokenize", texts.tokenize, methods=["POST"]),
            Route("/detokenize", texts.detokenize, methods=["POST"]),
            Route("/api/chat", ollama.chat, methods=["POST"]),
            Route("/api/generate", ollama.generate, methods=["POST"]),
            Route("/api/tags", ollama.tags, methods=["GET"]),
            Route("/api/show", ollama.show, methods=["POST"]),
            Route("/api/ps", ollama.running, methods=["GET"]),
            *(Route(path, embeddings, methods=["POST"]) for path in EMBEDDINGS),
            Route("/api/version", ollama.version, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/swarm", swarm_map, methods=["GET"]),
            *page.ROUTES,
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=list(rules.origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                allow_private_network=True,  # browsers ask so before a public page reaches this machine
                expose_headers=["retry-after", "x-dsdnode-route"],
            ),
            Middleware(Doors, rules=rules),
        ],
        exception_handlers={
            DsdError: _refused,
            HTTPException: _no_such_path,
            ClientDisconnect: _hung_up,
            Exception: _failed,
        },
    )
    app.state.metrics = Metrics()
    app.state.swarm = Watched(swarm, app.state.metrics)
    app.state.rules = rules
    app.state.here = partial(_unless_silent, here or _nobody)
    return app


async def embeddings(request: Request) -> Response:
    raise BadInput("embeddings: not supported by this server; its models write text")


async def health(request: Request) -> Response:
    """200 once some model can be asked for; 503 with a reason before."""
    watched: Watched = request.app.state.swarm
    known = await watched.seen_models()
    if any(one.complete and one.drafters for one in known):
        return JSONResponse({"status": "ok"})
    rules: Rules = request.app.state.rules
    knows = not rules.key or rules.has_key(request.headers)
    reason = _lacking(known) if knows else "no model can be asked for; who sends the key is told why"
    return JSONResponse({"status": "unavailable", "reason": reason}, 503, {"retry-after": str(RETRY_AFTER_S)})


def _lacking(known: Sequence[ModelInfo]) -> str:
    missing = [f"{one.name}: {one.missing or 'nobody drafts for it'}" for one in known[:MAX_REASONS]]
    missing += [f"and {len(known) - MAX_REASONS} more"] * (len(known) > MAX_REASONS)
    return "; ".join(missing) or "nobody in this swarm hosts a model yet"


async def _refused(request: Request, error: Exception) -> Response:
    if failure_of(error).status >= 500:
        log.info("a request came to nothing", path=request.url.path, reason=str(error))
    return refusal(request.url.path, error)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        answer = refusal(path, NotSo(f"{request.method} is not for {path[:100]}"))
        answer.headers.update(error.headers or {})
        return answer
    if error.status_code == 404:
        return refusal(path, NotHere(f"there is no {path[:100]} here"))
    return refusal(path, BadInput(error.detail))


async def _hung_up(request: Request, error: Exception) -> Response:
    return Response(status_code=HUNG_UP)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("bug in the gateway", path=request.url.path, exc_info=error)
    return refusal(request.url.path, error)

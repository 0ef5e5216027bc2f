"""What goes wrong, as each of the three dialects says it: a status, a code, and the words of the error.

Programs ask again after 5xx and 429, so whatever would fail again is a 4xx.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from dsdnode.errors import (
    BadInput,
    DsdError,
    ModelRefused,
    NoPipeline,
    NotRunning,
    Overloaded,
    PeerMisbehaved,
    PeerUnavailable,
)

RETRY_AFTER_S = 5
"""A place at a drafter is free after a reply, a machine that restarts is back after seconds."""


class Unauthorized(DsdError):
    """The key is missing, or another one."""


class Forbidden(DsdError):
    """Pages of other origins, or names that lead here by trickery."""


class NotHere(DsdError):
    """There is no such path."""


class NotSo(DsdError):
    """The path is asked by another method."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`kind` as OpenAI and Anthropic call it; `retry`: the same may go well later."""

    status: int
    kind: str
    code: str
    retry: bool = False


_FAILURES: tuple[tuple[type[Exception], Failure], ...] = (
    (BadInput, Failure(400, "invalid_request_error", "bad_request")),
    (Unauthorized, Failure(401, "authentication_error", "invalid_api_key")),
    (Forbidden, Failure(403, "permission_error", "forbidden")),
    (NotHere, Failure(404, "not_found_error", "not_found")),
    (NotSo, Failure(405, "invalid_request_error", "method_not_allowed")),
    (ModelRefused, Failure(404, "not_found_error", "model_not_found")),
    (Overloaded, Failure(429, "rate_limit_error", "overloaded", retry=True)),
    (NoPipeline, Failure(503, "api_error", "no_pipeline", retry=True)),
    (NotRunning, Failure(503, "api_error", "no_swarm", retry=True)),
    (PeerUnavailable, Failure(503, "api_error", "no_peer", retry=True)),
    (PeerMisbehaved, Failure(502, "api_error", "bad_peer", retry=True)),
)
_BUG = Failure(500, "api_error", "internal_error")


def failure_of(error: Exception) -> Failure:
    return next((failure for kind, failure in _FAILURES if isinstance(error, kind)), _BUG)


def words(error: Exception) -> str:
    """Only what was raised on purpose is meant for whoever asks."""
    return str(error) if isinstance(error, DsdError) else "the gateway failed; its log says how"


def openai_error(error: Exception) -> dict[str, Any]:
    failure = failure_of(error)
    return {"error": {"message": words(error), "type": failure.kind, "param": None, "code": failure.code}}


def anthropic_error(error: Exception) -> dict[str, Any]:
    kind = "overloaded_error" if failure_of(error).status == 503 else failure_of(error).kind
    return {"type": "error", "error": {"type": kind, "message": words(error)}}


def ollama_error(error: Exception) -> dict[str, Any]:
    return {"error": words(error)}


def shaped(path: str, error: Exception) -> dict[str, Any]:
    """As the clients of that path expect it."""
    if path.startswith("/api/"):
        return ollama_error(error)
    return anthropic_error(error) if path.startswith("/v1/messages") else openai_error(error)


def refusal(path: str, error: Exception) -> JSONResponse:
    failure = failure_of(error)
    headers = {"retry-after": str(RETRY_AFTER_S)} if failure.retry else {}
    if failure.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(shaped(path, error), failure.status, headers)

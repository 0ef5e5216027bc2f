"""The map of the swarm, for the page and for whoever wants it as JSON: `GET /swarm`.

What strangers say of themselves is printable and short by the time it is here; of everything there is a most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dsdnode.client.client import ID_DIGITS
from dsdnode.gateway.watched import Flow, Watched
from dsdnode.node.status import NodeStatus
from dsdnode.swarm.info import ModelInfo, PeerInfo
from dsdnode.wire.codec import printable

MAX_PEERS, MAX_MODELS, MAX_FLOWS, MAX_RANGES = 200, 32, 32, 256
MAX_WORDS = 400

Here = Callable[[], Awaitable[NodeStatus | None]]
"""Of the node on this machine; None: there is none, or it is silent."""


async def swarm(request: Request) -> Response:
    watched: Watched = request.app.state.swarm
    here: Here = request.app.state.here
    (peers, models), node = await asyncio.gather(watched.known(), here())
    now = asyncio.get_running_loop().time()
    own = node.peer_id if node is not None else ""
    shown = sorted(peers, key=lambda one: (one.rtt_ms is None, not one.roles, one.peer_id))[:MAX_PEERS]
    told = {
        "peers": [_peer(one, own) for one in shown],
        "left_off": max(0, len(peers) - MAX_PEERS) + max(0, len(models) - MAX_MODELS),
        "models": [_model(one) for one in sorted(models, key=_rank)[:MAX_MODELS]],
        "replies": [_flow(one, now) for one in list(watched.flows.values())[:MAX_FLOWS]],
        "last": None if watched.last is None else _flow(watched.last, now),
        "node": None if node is None else _node(node),
    }
    return Response(msgspec.json.encode(told), media_type="application/json", headers={"cache-control": "no-store"})


def _rank(one: ModelInfo) -> tuple[bool, str, str]:
    return not one.complete, one.name, one.model_id


def _words(text: str) -> str:
    return printable(text[:MAX_WORDS])


def _peer(one: PeerInfo, own: str) -> dict[str, Any]:
    return {
        "id": one.peer_id[:ID_DIGITS],
        "name": _words(one.name),
        "roles": one.roles,
        "layers": one.layers,
        "model": _words(one.model),
        "model_ids": [model_id[:ID_DIGITS] for model_id in one.model_ids],
        "way": one.link,
        "rtt_ms": one.rtt_ms,
        "seen_s": one.seen_s,
        "fixed_ms": one.fixed_ms,
        "slope_ms": one.slope_ms,
        "queue": one.queue,
        "free_sessions": one.free_sessions,
        "here": one.peer_id == own,
    }


def _model(one: ModelInfo) -> dict[str, Any]:
    return {
        "name": _words(one.name),
        "id": one.model_id[:ID_DIGITS],
        "num_layers": one.num_layers,
        "coverage": one.coverage[:MAX_RANGES],
        "holes": one.holes[:MAX_RANGES],
        "drafters": one.drafters,
        "complete": one.complete,
        "missing": _words(one.missing),
        "newcomer": one.newcomer,
    }


def _flow(one: Flow, now: float) -> dict[str, Any]:
    took_s = one.last_s - (one.first_s or 0.0)
    return {
        "model": _words(one.model),
        "drafter": one.drafter[:ID_DIGITS],
        "stages": [{"id": stage.peer_id[:ID_DIGITS], "layers": stage.layers} for stage in one.route],
        "waits": _words(one.waits),
        "tokens": one.num_tokens,
        "since_s": round(now - one.began_s, 1),
        "tokens_per_second": round((one.num_tokens - 1) / took_s, 1) if took_s > 0 else None,
    }


def _node(one: NodeStatus) -> dict[str, Any]:
    """As `dsdnode status` has it, for people."""
    sent: Sequence[tuple[int, int]] = list(one.sent.values())
    return {
        "id": one.peer_id[:ID_DIGITS],
        "name": _words(one.name),
        "uptime_s": round(one.uptime_s),
        "roles": one.roles,
        "layers": one.layers,
        "reach": _words(one.reach),
        "known_peers": one.known_peers,
        "resting": _words(one.resting),
        "given": one.given,
        "sessions": one.sessions,
        "sent_messages": sum(num for num, _ in sent),
        "sent_bytes": sum(num_bytes for _, num_bytes in sent),
        "engines": [
            {
                "role": engine.role,
                "model": _words(engine.model),
                "context_tokens": engine.context_tokens,
                "fixed_ms": engine.fixed_ms,
                "slope_ms": engine.slope_ms,
                "queue": engine.queue,
                "trouble": _words(engine.quarantined),
            }
            for engine in one.engines
        ],
        "protection": one.protection,
    }

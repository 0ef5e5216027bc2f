"""What a reply tells of itself at its end: `run --json`, `/stats`, the last line of a chat's reply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from dsdnode.node.drafter.routes import Route
from dsdnode.pacing.estimates import PipelineCosts
from dsdnode.pacing.formulas import pass_s, plain_speed
from dsdnode.speculation.events import EventLog, PassEvent


def figures_of(log: EventLog, route: Route | None) -> dict[str, Any]:
    """JSON-able; units in the names."""
    result = asdict(log.statistics())
    result["plain_tokens_per_second"] = plain_estimate(log.passes)
    places, peers = (route.places, route.peers) if route is not None else ((), ())
    result["pipeline"] = [
        {"peer_id": peer.hex(), "layers": [place.start, place.end]} for place, peer in zip(places, peers, strict=True)
    ]
    return result


def plain_estimate(passes: Iterable[PassEvent]) -> float | None:
    """Tokens a second that plain decoding would have had of this pipeline, by what these passes cost (section 3)."""
    costs = PipelineCosts()
    for event in passes:
        costs.passed(event)
    known = costs.costs()
    return plain_speed(known) if costs.is_known and pass_s(known, 1) > 0 else None

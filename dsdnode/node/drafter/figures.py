"""What a drafter says of a reply when it is over."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from dsdnode.node.drafter.routes import Route
from dsdnode.pacing.estimates import PipelineEstimate
from dsdnode.pacing.formulas import plain_speed
from dsdnode.speculation.events import EventLog, PassEvent
from dsdnode.wire.replies import StageInfo, Statistics


def figures_of(log: EventLog, route: Route | None) -> Statistics:
    """What the log and the reply's last route know."""
    places, peers = (route.places, route.peers) if route is not None else ((), ())
    stages = (StageInfo(peer.hex(), (place.start, place.end)) for place, peer in zip(places, peers, strict=True))
    return replace(log.statistics(), plain_tokens_per_second=plain_estimate(log.passes), pipeline=tuple(stages))


def plain_estimate(passes: Iterable[PassEvent]) -> float | None:
    """Tokens a second that plain decoding would have had of this pipeline, by what these passes cost (section 3)."""
    costs = PipelineEstimate()
    for event in passes:
        costs.passed(event)
    known = costs.costs()
    return plain_speed(known) if costs.is_known and known.pass_s(1) > 0 else None

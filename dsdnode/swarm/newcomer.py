"""What one more machine would bring to a swarm, seen from outside: for people who have one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite
from statistics import median

import msgspec

from dsdnode.cost import CostLine
from dsdnode.errors import NoPipeline
from dsdnode.placement.parts import Means, as_record, choose_part
from dsdnode.placement.pipelines import View, choose_pipeline, speed, with_usual_speeds
from dsdnode.placement.ranges import size
from dsdnode.swarm.info import Newcomer
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord

ANYBODY = Contact(bytes(32), ())
MAX_SHARDS = 128
"""Of a model: where more host it one more is not missed, and any number of records can be made."""


def newcomer(shards: Sequence[ProviderRecord], silent: Collection[bytes], drafters: int, view: View) -> Newcomer | None:
    """`shards`: records of one model, at least one; those of `silent` peers do not count. It is taken to be as large,
    and as fast a layer, as is usual among them, and as far as they are. None: they are too many for an estimate."""
    kind = msgspec.structs.replace(shards[0], public_key=ANYBODY.public_key)
    living = with_usual_speeds([one for one in shards if one.peer_id not in silent])
    if len(living) > MAX_SHARDS:
        return None
    usual = living or shards
    layers = max(1, round(median(one.end - one.start for one in usual)))
    layer = CostLine.of_ms(
        median(one.fixed_ms / (one.end - one.start) for one in usual),
        median(one.slope_ms / (one.end - one.start) for one in usual),
    )
    far_s = median(view.rtt_s.values()) if view.rtt_s else 0.0
    view = View.of({**view.rtt_s, kind.peer_id: far_s})
    part = choose_part(living or [kind], drafters, Means(ANYBODY, layers, True, layer), view, lambda start, end: True)
    without, with_it = _speed(living, view), None
    if part.layers is not None:
        own = as_record(kind, ANYBODY, part.layers, layer.times(size(part.layers)))
        with_it = _speed([*living, own], view)
    return Newcomer(part.roles, part.layers, part.why, without, with_it)


def _speed(shards: Sequence[ProviderRecord], view: View) -> float | None:
    """Tokens a second, drafted for as is usual; None: they make no pipeline."""
    if not shards:
        return None
    try:
        expected = speed(choose_pipeline(shards, shards[0].num_layers, view), view)
    except NoPipeline:
        return None
    return round(expected, 1) if isfinite(expected) else None

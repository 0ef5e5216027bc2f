"""Which part a newcomer takes in a swarm that serves a model: which roles, and which layers.

What nobody hosts comes first, since without it nobody gets a token. Where the model is whole, the layers that the
fewest peers host do, for with the last of them the swarm stands still; and where all have a stand-in, those that make
the best pipeline faster. What a peer hosts already, or has on its disk, it keeps while that serves as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dsdnode.cost import CostLine
from dsdnode.errors import NoPipeline
from dsdnode.placement.layers import Fits, choose_layers
from dsdnode.placement.pipelines import View, choose_pipeline, speed
from dsdnode.placement.ranges import Range, num_hosts, num_missing, size
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord

ENOUGH_DRAFTERS = 2
"""With a draft model. One can go, and replies go on: a further one is worth no bytes on its way."""
MAX_TRIED = 32
"""Ranges: those in use first, then the largest. A search for each takes milliseconds, and anybody invents some."""
GAIN = 1.1
"""A pipeline must be faster by so much, or layers that are hosted by fewer peers count more: records are that exact."""


@dataclass(frozen=True, slots=True)
class Means:
    """What one machine could do for a model.

    `capacity_layers`: how many layers fit it, beside a draft model if it `drafts`, that is, has one or would fetch it.
    `layer`: a layer's cost line here.
    """

    contact: Contact
    capacity_layers: int
    drafts: bool
    layer: CostLine


@dataclass(frozen=True, slots=True)
class Part:
    """`roles`: none for a machine that is too small for any. `why`: in words, of the layers."""

    roles: tuple[str, ...]
    layers: Range | None = None
    why: str = ""


def choose_part(model: Sequence[ProviderRecord], num_drafters: int, means: Means, view: View, fits: Fits) -> Part:
    """`model`: records of the shards of one model, at least one; those of `means.contact` do not count.
    `num_drafters`: that have a draft model for it."""
    shards = [one for one in model if one.public_key != means.contact.public_key]
    drafts = means.drafts and (num_drafters < ENOUGH_DRAFTERS or means.capacity_layers > 0)
    if means.capacity_layers < 1:
        return Part(("drafter",) if drafts else ())
    layers, why = _layers(shards, model[0], means, view, fits)
    if size(layers) > means.capacity_layers:
        why = f"layers {layers[0]}:{layers[1]} have to stay together, and {means.capacity_layers} fit"
        return Part(("drafter",) if drafts else (), None, why)
    return Part(("drafter", "shard") if drafts else ("shard",), layers, why)


def _layers(
    shards: Sequence[ProviderRecord], kind: ProviderRecord, means: Means, view: View, fits: Fits
) -> tuple[Range, str]:
    num_layers, capacity = kind.num_layers, means.capacity_layers
    ranges = [(one.start, one.end) for one in shards]
    wanted = choose_layers(shards, num_layers, capacity, fits)
    lacking = num_missing(ranges, num_layers)
    if lacking:
        return wanted, f"{lacking} of {num_layers} layers are hosted by nobody"
    least = _replicas(wanted, ranges, num_layers)
    if least > 1:
        faster = _fastest(shards, kind, means, view)
        if faster is not None:
            return faster, "the best pipeline gets faster"
    return wanted, f"{least} {'peer hosts' if least == 1 else 'peers host'} them, and none fewer"


def still_serves(shards: Sequence[ProviderRecord], kept: Range) -> bool:
    """Are layers that a peer has on its disk of as much use to these shards' model as any others, as many at most?"""
    if not shards:
        return True
    ranges, num_layers = [(one.start, one.end) for one in shards], shards[0].num_layers
    return _serves(kept, choose_layers(shards, num_layers, size(kept)), ranges, num_layers)


def _serves(kept: Range, wanted: Range, ranges: Sequence[Range], num_layers: int) -> bool:
    """As well as those that the rules would have it take?"""
    left = num_missing([*ranges, kept], num_layers)
    if left != num_missing([*ranges, wanted], num_layers):
        return False
    return num_missing(ranges, num_layers) > left or (
        kept in ranges and _replicas(kept, ranges, num_layers) <= _replicas(wanted, ranges, num_layers) + 1
    )


def _replicas(part: Range, ranges: Sequence[Range], num_layers: int) -> int:
    """Peers that host the worst covered layer of it."""
    return min(num_hosts(ranges, num_layers)[slice(*part)])


def _fastest(shards: Sequence[ProviderRecord], kind: ProviderRecord, means: Means, view: View) -> Range | None:
    """The range, cut as it is by others, with which the best pipeline gains most; None: none gains enough."""
    try:
        now = choose_pipeline(shards, kind.num_layers, view)
    except NoPipeline:
        return None
    best, found = speed(now, view) * GAIN, None
    used = {(stage.record.start, stage.record.end) for stage in now}
    parts = {(one.start, one.end) for one in shards if one.end - one.start <= means.capacity_layers}
    tried = sorted(parts, key=lambda part: (part not in used, -size(part), part))[:MAX_TRIED]
    for part in sorted(tried):
        own = as_record(kind, means.contact, part, means.layer.times(size(part)))
        with_it = speed(choose_pipeline([*shards, own], kind.num_layers, view), view)
        if with_it > best:
            best, found = with_it, part
    return found


def as_record(kind: ProviderRecord, contact: Contact, layers: Range, cost: CostLine) -> ProviderRecord:
    """What the peer would announce, of the same model as `kind`, with these layers."""
    return msgspec.structs.replace(
        kind,
        public_key=contact.public_key,
        addresses=contact.addresses or kind.addresses,
        start=layers[0],
        end=layers[1],
        free_sessions=1,
        fixed_ms=1e3 * cost.fixed_s,
        slope_ms=1e3 * cost.slope_s,
        queue=0.0,
        round_trips=(),
        settled=True,
        relay_bytes_per_s=0.0,
    )

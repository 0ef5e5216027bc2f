"""Which layers a newcomer should host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import msgspec

from dsdnode.placement.ranges import Range, ends, missing, num_hosts, num_missing, size
from dsdnode.wire.records import ProviderRecord

Fits = Callable[[int, int], bool]
"""May layers [start, end) of the model be hosted by themselves? Some have to stay together."""


def _any(start: int, end: int) -> bool:
    return True


def choose_layers(records: Sequence[ProviderRecord], num_layers: int, capacity_layers: int, fits: Fits = _any) -> Range:
    """The layers [start, end) that help the swarm most, at most `capacity_layers` of them.

    First what is missing from a pipeline that is closest to whole, in equal pieces; then one more replica of the
    weakest range, cut exactly as it is, so that either can stand in for the other. A range too big for this peer is
    replaced by pieces of it. `records` are of one model. More than the capacity, where less does not fit; raises
    ValueError for no capacity.
    """
    if capacity_layers < 1:
        raise ValueError("no room for a single layer")
    shards = [record for record in records if record.role == "shard" and record.num_layers == num_layers]
    hosts = Counter((record.start, record.end) for record in shards)
    lacking = missing(hosts, (0, num_layers))
    if lacking:
        return _piece(lacking, capacity_layers, fits)
    each = num_hosts(hosts.elements(), num_layers)
    ordered = sorted(_tiling(hosts, num_layers), key=lambda part: (min(each[slice(*part)]), hosts[part], part))
    weakest = ordered[0]
    if size(weakest) <= capacity_layers:
        return weakest
    fitting = {part for part in hosts if size(part) <= capacity_layers}
    lacking = missing(fitting, weakest)
    if lacking:
        return _piece(lacking, capacity_layers, fits)
    return next(part for part in ordered if part in fitting)


def choose_in_turn(
    others: Sequence[ProviderRecord], own: ProviderRecord, capacity_layers: int, fits: Fits = _any
) -> Range:
    """The layers for `own`, which is not settled, among others that are not: they may all have come at once.

    As if they had come one after the other, by peer id: whoever claims layers that are taken by then chooses anew.
    Claims that touch no other stay, and so do those that could not bring a pipeline closer to whole by moving. All who
    know of each other come to the same end.
    """
    taken = [record for record in others if record.settled]
    claims = sorted([own, *(record for record in others if not record.settled)], key=lambda record: record.peer_id)
    free = {claim.peer_id: claim for claim in claims if not any(_overlap(claim, one) for one in taken)}
    for claim in claims:
        span = (claim.start, claim.end)
        if free.pop(claim.peer_id, None) is None:
            known = [*taken, *free.values()]
            instead = choose_layers(known, own.num_layers, capacity_layers if claim is own else size(span), fits)
            ranges = [(record.start, record.end) for record in known]
            lacking = num_missing([*ranges, span], own.num_layers)
            if not lacking or lacking > num_missing([*ranges, instead], own.num_layers):
                span = instead
        if claim is own:
            return span
        taken.append(moved := msgspec.structs.replace(claim, start=span[0], end=span[1]))
        free = {peer: later for peer, later in free.items() if not _overlap(later, moved)}
    raise AssertionError("own is among the claims")


def _overlap(one: ProviderRecord, other: ProviderRecord) -> bool:
    return one.start < other.end and other.start < one.end


def _piece(lacking: Sequence[Range], capacity_layers: int, fits: Fits) -> Range:
    """The first of the equal pieces that the longest missing run is cut into, or the next smaller one that fits, or
    else the next larger one."""
    start, end = max(lacking, key=lambda run: (size(run), -run[0]))
    num_pieces = -(-(end - start) // capacity_layers)
    wanted = start + -(-(end - start) // num_pieces)
    return start, next((last for last in (*range(wanted, start, -1), *range(wanted, end)) if fits(start, last)), end)


def _tiling(hosts: Collection[Range], num_layers: int) -> list[Range]:
    """The ranges that belong to at least one whole pipeline."""
    from_front, from_back = ends(hosts), {num_layers}
    for start, end in sorted(hosts, key=lambda part: -part[1]):
        if end in from_back:
            from_back.add(start)
    return [(start, end) for start, end in sorted(hosts) if start in from_front and end in from_back]

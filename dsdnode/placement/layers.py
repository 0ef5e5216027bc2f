"""Which layers a newcomer should host, and what a swarm lacks.

A stage runs exactly its own range, so ranges must tile: 0:5 and 3:8 cover eight layers and make no pipeline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from dsdnode.wire.records import ProviderRecord

Range = tuple[int, int]


def choose_layers(records: Sequence[ProviderRecord], num_layers: int, capacity_layers: int) -> Range:
    """The layers [start, end) that help the swarm most, at most `capacity_layers` of them.

    First what is missing from a pipeline that is closest to whole, in equal pieces; then one more replica of the
    weakest range, cut exactly as it is, so that either can stand in for the other. A range too big for this peer is
    replaced by pieces of it. `records` are of one model; raises ValueError for no capacity.
    """
    if capacity_layers < 1:
        raise ValueError("no room for a single layer")
    shards = [record for record in records if record.role == "shard" and record.num_layers == num_layers]
    hosts = Counter((record.start, record.end) for record in shards)
    missing = _missing(hosts, (0, num_layers))
    if missing:
        return _piece(missing, capacity_layers)
    ordered = sorted(_tiling(hosts, num_layers), key=lambda part: (_coverage(hosts, part), hosts[part], part))
    weakest = ordered[0]
    if _size(weakest) <= capacity_layers:
        return weakest
    fitting = {part for part in hosts if _size(part) <= capacity_layers}
    missing = _missing(fitting, weakest)
    if missing:
        return _piece(missing, capacity_layers)
    return next(part for part in ordered if part in fitting)


def choose_in_turn(others: Sequence[ProviderRecord], own: ProviderRecord, capacity_layers: int) -> Range:
    """The layers for `own`, which is not settled, among others that are not: they may all have come at once.

    As if they had come one after the other, by peer id: whoever claims layers that are taken by then chooses anew.
    Claims that touch no other stay, and so do those that could not bring a pipeline closer to whole by moving. All who
    know of each other come to the same end.
    """
    taken = [record for record in others if record.settled]
    claims = sorted([own, *(record for record in others if not record.settled)], key=lambda record: record.peer_id)
    for index, claim in enumerate(claims):
        span = (claim.start, claim.end)
        known = [*taken, *(later for later in claims[index + 1 :] if not any(_overlap(later, one) for one in taken))]
        if any(_overlap(claim, record) for record in taken):
            instead = choose_layers(known, own.num_layers, capacity_layers if claim is own else _size(span))
            ranges = [(record.start, record.end) for record in known]
            lacking = num_missing([*ranges, span], own.num_layers)
            if not lacking or lacking > num_missing([*ranges, instead], own.num_layers):
                span = instead
        if claim is own:
            return span
        taken.append(msgspec.structs.replace(claim, start=span[0], end=span[1]))
    raise AssertionError("own is among the claims")


def _overlap(one: ProviderRecord, other: ProviderRecord) -> bool:
    return one.start < other.end and other.start < one.end


def is_covered(ranges: Iterable[Range], num_layers: int) -> bool:
    """Do some of them, end to end, make the whole model?"""
    return num_layers in _ends(ranges)


def num_missing(ranges: Iterable[Range], num_layers: int) -> int:
    """Layers that the pipeline closest to whole lacks."""
    return sum(map(_size, _missing(set(ranges), (0, num_layers))))


def why_none(usable: Sequence[ProviderRecord], num_layers: int, name: str, num_failed: int) -> str:
    """What is missing of a model of `num_layers` layers, and what to do, in words for the user."""
    covered = {layer for record in usable for layer in range(record.start, record.end)}
    failed = f" ({num_failed} that did just failed)" if num_failed else ""
    gaps = _runs([layer for layer in range(num_layers) if layer not in covered])
    if gaps:
        remedy = "`dsdnode start --role shard --join ...` takes what is missing"
        return f"layers {_spell(gaps)} of {name} are hosted by nobody{failed}: {remedy}"
    parts = sorted({(record.start, record.end) for record in usable})
    lacking = _missing(parts, (0, num_layers))
    return (
        f"layers {_spell(lacking)} of {name} lack a host with just that range{failed}: "
        f"the ranges offered, {_spell(parts)}, overlap but do not join end to end"
    )


def _missing(parts: Collection[Range], span: Range) -> list[Range]:
    """What must be added to `parts` so that some of them tile `span`: as few layers as possible, then as few stages."""
    start, end = span
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {start: (0, 0, ())}
    for position in range(start + 1, end + 1):
        num, num_steps, layers = best[position - 1]
        options = [(num + 1, num_steps + 1, (*layers, position - 1))]
        for part_start, part_end in parts:
            if part_end == position and part_start >= start:
                num, num_steps, layers = best[part_start]
                options.append((num, num_steps + 1, layers))
        best[position] = min(options)
    return _runs(best[end][2])


def _piece(missing: Sequence[Range], capacity_layers: int) -> Range:
    """The first of the equal pieces that the longest missing run is cut into."""
    start, end = max(missing, key=lambda run: (_size(run), -run[0]))
    num_pieces = -(-(end - start) // capacity_layers)
    return start, start + -(-(end - start) // num_pieces)


def _tiling(hosts: Collection[Range], num_layers: int) -> list[Range]:
    """The ranges that belong to at least one whole pipeline."""
    from_front, from_back = _ends(hosts), {num_layers}
    for start, end in sorted(hosts, key=lambda part: -part[1]):
        if end in from_back:
            from_back.add(start)
    return [(start, end) for start, end in sorted(hosts) if start in from_front and end in from_back]


def _ends(ranges: Iterable[Range]) -> set[int]:
    """Of what some of them make, end to end, from the first layer on."""
    ends = {0}
    for start, end in sorted(ranges):
        if start in ends:
            ends.add(end)
    return ends


def _coverage(hosts: Mapping[Range, int], part: Range) -> int:
    """Peers that host the worst covered layer of `part`."""
    return min(
        sum(num for (start, end), num in hosts.items() if start <= layer < end) for layer in range(part[0], part[1])
    )


def _runs(layers: Sequence[int]) -> list[Range]:
    """Ascending layers as half-open ranges."""
    runs: list[Range] = []
    for layer in layers:
        if runs and runs[-1][1] == layer:
            runs[-1] = (runs[-1][0], layer + 1)
        else:
            runs.append((layer, layer + 1))
    return runs


def _spell(ranges: Sequence[Range]) -> str:
    return ", ".join(f"{start}:{end}" for start, end in ranges)


def _size(part: Range) -> int:
    return part[1] - part[0]

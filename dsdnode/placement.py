"""Who runs which layers: the fastest pipeline out of what is offered, and the range that a newcomer should host.

A stage runs exactly its own range, so ranges must tile: 0:5 and 3:8 cover eight layers and make no pipeline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dsdnode.errors import NoPipeline
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord

BLOCK_POSITIONS = 8
"""A usual block, for predicting times."""
HOP_S = 0.001
UNKNOWN_RTT_S = 0.05
FULL_S = 10.0
"""Added for a stage that said it has no free session: it is asked only where there is no other."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """A stage: the peer and the layers [start, end) that it runs."""

    record: ProviderRecord

    @property
    def peer(self) -> bytes:
        return self.record.peer_id

    @property
    def contact(self) -> Contact:
        return self.record.contact

    @property
    def start(self) -> int:
        return self.record.start

    @property
    def end(self) -> int:
        return self.record.end


def choose_pipeline(
    records: Sequence[ProviderRecord],
    num_layers: int,
    rtt_s: Mapping[bytes, float],
    exclude: Collection[bytes] = (),
    model_name: str = "",
) -> tuple[Place, ...]:
    """The pipeline over [0, num_layers) with the lowest predicted latency; among equals the shortest, then by peer id.

    `records` are of one model; those of drafters and of the peers in `exclude` (they just failed) do not count. `rtt_s`
    gives round trips by peer id, from the owner: a hop between two stages takes at most half of both their round trips,
    so a ring takes at most the sum. Raises NoPipeline, naming the layers that are missing.
    """
    hosted = [record for record in records if record.role == "shard" and record.num_layers == num_layers]
    usable = [record for record in hosted if record.peer_id not in exclude]
    best: dict[int, tuple[float, int, tuple[bytes, ...], tuple[Place, ...]]] = {0: (0.0, 0, (), ())}
    for record in sorted(usable, key=lambda record: (record.start, record.end, record.peer_id)):
        if record.start not in best:
            continue
        cost_s, num_hops, peers, places = best[record.start]
        cost_s += _stage_s(record, rtt_s)
        option = (cost_s, num_hops + 1, (*peers, record.peer_id), (*places, Place(record)))
        if record.end not in best or option[:3] < best[record.end][:3]:
            best[record.end] = option
    if num_layers not in best:
        name = model_name or (records[0].model_name if records else "") or "the model"
        raise NoPipeline(_why_none(usable, num_layers, name, num_failed=len(hosted) - len(usable)))
    return best[num_layers][3]


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


def _stage_s(record: ProviderRecord, rtt_s: Mapping[bytes, float]) -> float:
    compute_s = (record.fixed_ms + record.slope_ms * BLOCK_POSITIONS) / 1000
    full_s = 0.0 if record.free_sessions else FULL_S
    return HOP_S + rtt_s.get(record.peer_id, UNKNOWN_RTT_S) + compute_s + full_s


def _why_none(usable: Sequence[ProviderRecord], num_layers: int, name: str, num_failed: int) -> str:
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
    from_front, from_back = {0}, {num_layers}
    for start, end in sorted(hosts):
        if start in from_front:
            from_front.add(end)
    for start, end in sorted(hosts, key=lambda part: -part[1]):
        if end in from_back:
            from_back.add(start)
    return [(start, end) for start, end in sorted(hosts) if start in from_front and end in from_back]


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

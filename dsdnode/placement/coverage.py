"""Whether those who host layers of a model make the whole, end to end, and what is missing, in words for the user.

(Without numpy, which commands that only ask need not wait for; who runs what of a reply says pipelines.py.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dsdnode.placement.ranges import Range, missing
from dsdnode.wire.messages import MAX_POSITIONS
from dsdnode.wire.records import ProviderRecord


def hosting(records: Iterable[ProviderRecord], num_layers: int) -> list[ProviderRecord]:
    """Shards of a model of so many layers; of two of one peer the newer one alone: it hosts one range."""
    shards = [record for record in records if record.role == "shard" and record.num_layers == num_layers]
    return list({record.peer_id: record for record in sorted(shards, key=_age)}.values())


def _age(record: ProviderRecord) -> tuple[int, int, int]:
    return record.sequence, record.start, record.end


def longest_context(shards: Iterable[ProviderRecord], num_layers: int) -> int:
    """Positions that fit the pipeline with the most room, that of a pipeline being its narrowest stage's; 0: there is
    no pipeline. What one shard says of its own room changes nothing for those who go without it."""
    room = {0: MAX_POSITIONS}
    for shard in sorted(shards, key=lambda one: (one.start, one.end)):
        through = min(room.get(shard.start, 0), shard.context_tokens)
        room[shard.end] = max(room.get(shard.end, 0), through)
    return room.get(num_layers, 0)


def why_none(usable: Sequence[ProviderRecord], num_layers: int, name: str, num_failed: int) -> str:
    """What is missing of a model of `num_layers` layers, and what to do, in words for the user."""
    failed = f" ({num_failed} that did just failed)" if num_failed else ""
    gaps, reached = list[Range](), 0
    for start, end in [*sorted((record.start, record.end) for record in usable), (num_layers, num_layers)]:
        gaps += [(reached, start)] if start > reached else []
        reached = max(reached, end)
    if gaps:
        remedy = "`dsdnode start --role shard --join ...` takes what is missing"
        return f"layers {_spell(gaps)} of {name} are hosted by nobody{failed}: {remedy}"
    parts = sorted({(record.start, record.end) for record in usable})
    lacking = missing(parts, (0, num_layers))
    return (
        f"layers {_spell(lacking)} of {name} lack a host with just that range{failed}: "
        f"the ranges offered, {_spell(parts)}, overlap but do not join end to end"
    )


def _spell(ranges: Sequence[Range]) -> str:
    return ", ".join(f"{start}:{end}" for start, end in ranges)

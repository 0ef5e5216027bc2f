"""Who runs which layers of one reply: the pipeline with the most tokens per second, predicted from what peers publish.

Every peer's record says how long it takes for a block (cost line), how busy it is, and how far some others are; the
owner measures its own round trips. Out of these, pacing's formula for a stream gives the speed. The acceptance rate and
the block are assumed, as before anything is known of a reply: the order of pipelines hardly depends on them.

A stage runs exactly its own range, so ranges must tile: 0:5 and 3:8 cover eight layers and make no pipeline.
How the search goes, and why, is in docs/theory.md, section 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsdnode.cost import UNKNOWN, CostLine, PipelineCost
from dsdnode.errors import NoPipeline
from dsdnode.pacing.fits import BLOCK_POSITIONS
from dsdnode.pacing.formulas import stream_speed
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.placement.coverage import hosting, why_none
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ID_PREFIX_BYTES, ProviderRecord

MAX_BOTTLENECKS = 16
UNKNOWN_RTT_S = 0.05
"""To a peer that was not yet pinged: farther than most in one country, so that those who are known come first. By way
of a relay, twice as far."""
STATE_BYTES = 2
"""Of each value of a hidden state, as they usually travel (f16)."""
FULL_S = 10.0
"""Added for a stage that said it has no free session, more than any link: it is asked only where there is no other."""
BROKEN_S = 100.0
"""Added for a link, or a stage, each time that it lost something: even a full stage comes first."""
_CHUNK = 1 << 20
"""Pairs of stages looked at together."""

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PipelineStage:
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


@dataclass(frozen=True, slots=True)
class View:
    """What an owner knows beyond the records, by peer id.

    `rtt_s`: round trips from itself; `slowness`: how many times slower than its record a peer was seen to be;
    `sessions`: how many replies of its own go through a peer. `taste` differs from session to session.
    """

    rtt_s: Mapping[bytes, float]
    slowness: Mapping[bytes, float]
    sessions: Mapping[bytes, int]
    taste: bytes = b""
    tuning: Tuning = TUNING
    broken: Mapping[tuple[bytes, bytes], int] = field(default_factory=dict)
    """Pairs of peers, in either order, between which blocks were lost of late (a peer twice: at it), and how often."""

    @classmethod
    def of(cls, rtt_s: Mapping[bytes, float]) -> View:
        return cls(rtt_s, {}, {})


Chooser = Callable[[Sequence[ProviderRecord], int, View, Collection[bytes], str], tuple[PipelineStage, ...]]
"""How an owner chooses; `choose_pipeline` unless a simulation compares it with others."""


def choose_pipeline(
    records: Sequence[ProviderRecord],
    num_layers: int,
    view: View,
    exclude: Collection[bytes] = (),
    model_name: str = "",
) -> tuple[PipelineStage, ...]:
    """The pipeline over [0, num_layers) with the highest predicted speed; among equals by the view's taste, then by id.

    `records` are of one model; those of drafters and of the peers in `exclude` (they just failed) do not count, and of
    two of one peer only the newer one: it hosts one range. A link between two stages is as long as either of them
    measured it; one that neither did, as the longer of their round trips from the owner: the middle of what the
    triangle allows; to a stage that is called by way of a relay, as both together: all that it allows. Hidden states
    come to such a stage no faster than its relay lets them. Raises NoPipeline, naming the layers that are missing.
    """
    hosted = hosting(records, num_layers)
    usable = [record for record in hosted if record.peer_id not in exclude]
    stages = _Field(sorted(usable, key=lambda record: (record.peer_id, record.start, record.end)), view)
    best = stages.best()
    if best is None:
        name = model_name or (records[0].model_name if records else "") or "the model"
        raise NoPipeline(why_none(usable, num_layers, name, num_failed=len(hosted) - len(usable)))
    return tuple(PipelineStage(stages.records[index]) for index in best)


def with_usual_speeds(shards: Sequence[ProviderRecord]) -> list[ProviderRecord]:
    """Who has not measured itself is taken for as fast, a layer, as is usual among the others: not for the fastest."""
    measured = [shard for shard in shards if shard.cost != UNKNOWN]
    if not measured:
        return list(shards)
    fixed_ms = median(shard.fixed_ms / (shard.end - shard.start) for shard in measured)
    slope_ms = median(shard.slope_ms / (shard.end - shard.start) for shard in measured)
    return [
        shard
        if shard.cost != UNKNOWN
        else msgspec.structs.replace(
            shard,
            fixed_ms=fixed_ms * (shard.end - shard.start),
            slope_ms=slope_ms * (shard.end - shard.start),
        )
        for shard in shards
    ]


def predict(places: Sequence[PipelineStage], view: View) -> PipelineCost:
    """What to expect of a pipeline where nobody else is at work."""
    ring = _Field([place.record for place in places], replace(view, taste=b"", broken={}))
    line = list(range(len(places)))
    stages = (place.record.cost.times(view.slowness.get(place.peer, 1.0)) for place in places)
    return PipelineCost(tuple(stages), ring.network_s(line), payload_s=ring.payload_s(line))


def speed(places: Sequence[PipelineStage], view: View) -> float:
    """Predicted tokens per second of a pipeline, with those at work there that records and the view tell of."""
    ring = _Field([place.record for place in places], replace(view, taste=b""))
    return ring.speed(list(range(len(places))))


class _Field:
    """All stages that could be taken; a line is a list of indices into `records`."""

    def __init__(self, records: list[ProviderRecord], view: View) -> None:
        self.records = records
        self._tuning = tuning = view.tuning
        self._num_layers = records[0].num_layers if records else 0
        self._relayed = np.array([record.relay_bytes_per_s > 0 for record in records], bool)
        unknown_s = np.where(self._relayed, 2 * UNKNOWN_RTT_S, UNKNOWN_RTT_S)
        self._rtt_s = np.array(
            [view.rtt_s.get(one.peer_id, far_s) for one, far_s in zip(records, unknown_s, strict=True)]
        )
        self._carried_s = np.array([_carried_s(record) for record in records])
        """To bring it the hidden states of a position, by way of its relay."""
        self._loaded = [_loaded(record, view) for record in records]
        self._pace_s = np.array([line.at(BLOCK_POSITIONS) for line in self._loaded])
        full_s = np.array([FULL_S if record.free_sessions == 0 else 0.0 for record in records])
        taste = np.array([_taste(view.taste, record.peer_id) for record in records])
        lost_s = np.array([BROKEN_S * view.broken.get((record.peer_id,) * 2, 0) for record in records])
        self._own_s = self._pace_s + tuning.handling_s + full_s + lost_s + BLOCK_POSITIONS * self._carried_s
        self._own_s += tuning.spread * taste * (self._own_s + self._rtt_s)
        self._starts = np.array([record.start for record in records], int)
        self._ends = np.array([record.end for record in records], int)
        self._known = [{trip.peer: trip.rtt_ms / 1e3 for trip in record.round_trips} for record in records]
        self._broken: dict[bytes, dict[bytes, int]] = {}
        for (one, other), num in view.broken.items():
            self._broken.setdefault(one, {})[other] = num
            self._broken.setdefault(other, {})[one] = num
        self._by_prefix: dict[bytes, list[int]] = {}
        for index, record in enumerate(records):
            self._by_prefix.setdefault(record.peer_id[:ID_PREFIX_BYTES], []).append(index)

    def best(self) -> list[int] | None:
        """The shortest pass, then the shortest without that one's slowest stage, and so on, while that can pay."""
        best: tuple[float, list[int]] | None = None
        limit_s = float("inf")
        for _ in range(MAX_BOTTLENECKS):
            line = self._shortest(limit_s)
            if line is None or (best is not None and self._bound(line) <= best[0]):
                break
            found = self.speed(line)
            if best is None or found > best[0]:
                best = found, line
            limit_s = float(self._pace_s[line].max())
        return None if best is None else best[1]

    def speed(self, line: list[int]) -> float:
        """Tokens per second."""
        return stream_speed(self._cost(line), self._tuning.prior_rate, BLOCK_POSITIONS)

    def _bound(self, line: list[int]) -> float:
        """No stream over a pass of this length is faster, whatever its slowest stage is like."""
        pass_s = self._cost(line).pass_s(BLOCK_POSITIONS)
        return 1 / ((1 - self._tuning.prior_rate) * max(pass_s, 1e-9))

    def _cost(self, line: list[int]) -> PipelineCost:
        """With others at work; what a stage costs beside its decodes is counted with the links."""
        beside_s = float((self._own_s - self._pace_s - BLOCK_POSITIONS * self._carried_s)[line].sum())
        stages = tuple(self._loaded[index] for index in line)
        return PipelineCost(stages, self.network_s(line) + beside_s, payload_s=self.payload_s(line))

    def payload_s(self, line: list[int]) -> float:
        """Of a position, on each of the ring's links: as if all carried what those through relays carry."""
        return float(self._carried_s[line].sum()) / (len(line) + 1)

    def network_s(self, line: list[int]) -> float:
        """All links of the ring, one way each."""
        between = (self._links_s([one], [other])[0, 0] for one, other in pairwise(line))
        return float(self._rtt_s[line[0]] + self._rtt_s[line[-1]]) / 2 + float(sum(between))

    def _links_s(self, before: Sequence[int], after: Sequence[int]) -> Seconds:
        """One way, of each of `before` to each of `after`."""
        here_s, there_s = self._rtt_s[before], self._rtt_s[after]
        relayed = self._relayed[after]
        table: Seconds = np.where(relayed, np.add.outer(here_s, there_s), np.maximum.outer(here_s, there_s))
        rows, columns = ({index: at for at, index in enumerate(side)} for side in (before, after))
        for here, there, turned in ((rows, columns, False), (columns, rows, True)):
            for index, at in here.items():
                for prefix, rtt_s in self._known[index].items():
                    for other in self._by_prefix.get(prefix, ()):
                        if other in there:
                            table[(there[other], at) if turned else (at, there[other])] = rtt_s
        table /= 2
        for index, at in rows.items():
            enemies = self._broken.get(self.records[index].peer_id)
            if enemies:
                table[at] += [BROKEN_S * enemies.get(self.records[other].peer_id, 0) for other in after]
        return table

    def _shortest(self, limit_s: float) -> list[int] | None:
        """The line with the shortest pass, of stages that take less than `limit_s`."""
        allowed = self._pace_s < limit_s
        reached_s = np.where((self._starts == 0) & allowed, self._own_s + self._rtt_s / 2, np.inf)
        came_from = np.full(len(self.records), -1)
        for layer in sorted(set(self._starts.tolist()) - {0}):
            before = np.flatnonzero((self._ends == layer) & np.isfinite(reached_s)).tolist()
            after = np.flatnonzero((self._starts == layer) & allowed).tolist()
            if not before:
                continue
            width = max(1, _CHUNK // len(before))
            for part in (after[at : at + width] for at in range(0, len(after), width)):
                total_s = reached_s[before][:, None] + self._links_s(before, part)
                nearest = total_s.argmin(axis=0)
                reached_s[part] = total_s[nearest, np.arange(len(part))] + self._own_s[part]
                came_from[part] = np.array(before)[nearest]
        lasts = np.flatnonzero((self._ends == self._num_layers) & np.isfinite(reached_s))
        if not len(lasts):
            return None
        line = [int(lasts[(reached_s[lasts] + self._rtt_s[lasts] / 2).argmin()])]
        while came_from[line[0]] >= 0:
            line.insert(0, int(came_from[line[0]]))
        return line


def _loaded(record: ProviderRecord, view: View) -> CostLine:
    """Of one block, others at work there being decoded with it; it comes in the middle of a decode of theirs."""
    others = max(record.queue, view.sessions.get(record.peer_id, 0) / 2)
    alone = record.cost.times(view.slowness.get(record.peer_id, 1.0))
    return CostLine(alone.fixed_s, alone.slope_s * (1 + others)).times(1 + min(1.0, others) / 2)


def _carried_s(record: ProviderRecord) -> float:
    """The first stage gets token ids, which weigh nothing."""
    if not record.start or not record.relay_bytes_per_s:
        return 0.0
    return STATE_BYTES * record.width / record.relay_bytes_per_s


def _taste(session: bytes, peer: bytes) -> float:
    """From 0 to 1."""
    if not session:
        return 0.0
    return int.from_bytes(hashlib.sha256(session + peer).digest()[:4], "big") / 2**32

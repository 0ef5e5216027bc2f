"""What a start would do here: which roles, which layers, from which file, at what price.

The swarm is seen through its records and pings, the machine by what is free on it and by layers that it runs for a
moment. Nothing is announced, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dsdnode.config import AUTO, FIRST_ROLES, NodeConfig
from dsdnode.cost import UNKNOWN, CostLine
from dsdnode.node import probe
from dsdnode.node.engines import shard_path, span_of
from dsdnode.node.machine import Machine
from dsdnode.node.targets import Sources, Target, draft_of, target_of
from dsdnode.placement.layers import choose_layers
from dsdnode.placement.parts import Means, Part, as_record, choose_part
from dsdnode.placement.pipelines import View
from dsdnode.placement.ranges import Range, is_covered, size
from dsdnode.swarm.catalogue import models_of
from dsdnode.weights.pull import Pull
from dsdnode.weights.store import size as size_text
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import NO_HASH, ProviderRecord


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of the swarm: records, those of others that answer, and round trips to them, s."""

    records: tuple[ProviderRecord, ...] = ()
    rtt_s: Mapping[bytes, float] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Sequence[ProviderRecord], rtt_s: Mapping[bytes, float]) -> Found:
        """Who does not answer is none of it: any number of records can be made."""
        return cls(tuple(one for one in records if one.peer_id in rtt_s), rtt_s)


@dataclass(frozen=True, slots=True)
class Proposal:
    """`why`: in words, of roles and layers. `capacity_layers`: how many fit. `records`: what this machine would offer,
    at the speed that was measured. `memory_bytes`: of its engines, with full caches; `disk_bytes`: of layers that would
    be cut out, or fetched, and kept."""

    roles: tuple[str, ...]
    why: str = ""
    kind: ProviderRecord | None = None
    """Of the model that it would have a part in."""
    target: Target | None = None
    layers: Range | None = None
    capacity_layers: int = 0
    draft: Target | None = None
    records: tuple[ProviderRecord, ...] = ()
    memory_bytes: int = 0
    disk_bytes: int = 0

    @property
    def pulls(self) -> list[tuple[Pull, Range | None]]:
        """What is to be fetched: layers of the model, and all of a draft model."""
        wanted = ((self.target, self.layers), (self.draft, None))
        return [(one.pull, layers) for one, layers in wanted if one is not None and one.pull is not None]


async def propose(
    config: NodeConfig, contact: Contact, found: Found, machine: Machine, sources: Sources, *, timed: bool = False
) -> Proposal:
    """What `config` comes to in the swarm as it was `found`. `timed`: the engines are measured though nothing hangs on
    it. Raises ModelRefused, BadInput, as the start itself."""
    others = [one for one in found.records if one.public_key != contact.public_key]
    target = await target_of(config, others, sources)
    draft = await draft_of(config, target, others, sources)
    case = _Case(config, contact, others, found.rtt_s, machine, target, draft)
    return await case.proposal(await case.part(), timed)


@dataclass(frozen=True, slots=True)
class _Case:
    """All that is known where something is to be proposed."""

    config: NodeConfig
    contact: Contact
    others: Sequence[ProviderRecord]
    rtt_s: Mapping[bytes, float]
    machine: Machine
    target: Target | None
    draft: Target | None

    async def part(self) -> Part:
        config, target = self.config, self.target
        is_free = AUTO in config.roles
        if not is_free and target is None:
            return Part(config.roles)
        if target is None:
            return self._without_layers("no model of this swarm is on this disk, or at a source that it names (-m)")
        span = span_of(config, target.manifest, target.path or Path(target.manifest.model_name))
        if not is_free:
            return await self._told(target, span)
        capacity = self._capacity(target)
        if capacity < (1 if span is None else size(span)):
            needs = target.needs(config)
            least = needs.of_layers(1 if span is None else size(span))
            return self._without_layers(
                f"its layers take {size_text(least)} at least, and {size_text(self._memory)} are free"
            )
        if span is not None:
            return Part(FIRST_ROLES if self._drafts(target) else ("shard",), span, "this machine was given them")
        return await self._chosen(target, capacity)

    async def _told(self, target: Target, span: Range | None) -> Part:
        """The roles that the user named; of layers, those that the start itself would choose."""
        if span is not None:
            return Part(self.config.roles, span, "as it was told" if self.config.layers else "the file has them")
        num_layers = capacity = target.manifest.num_layers
        if self.config.max_memory_bytes is not None:
            needs = target.needs(self.config)
            capacity = needs.capacity_of(target.manifest.model_name, self.config.max_memory_bytes, num_layers)
        layers = choose_layers(self._shards(target), num_layers, capacity, target.fits())
        return Part(self.config.roles, layers, "the swarm needs them most")

    async def _chosen(self, target: Target, capacity: int) -> Part:
        """What brings the swarm most, of what fits this machine."""
        shards, kind = self._shards(target), target.kind(self.config, self.contact)
        is_whole = is_covered(((one.start, one.end) for one in shards), kind.num_layers)
        layer = await self._layer_cost(target) if is_whole else UNKNOWN
        means = Means(self.contact, capacity, self._drafts(target), layer)
        view = View.of({**self.rtt_s, kind.peer_id: 0.0})
        num_drafters = sum(one.weights_hash != NO_HASH for one in self._drafters(target))
        part = choose_part(shards or [kind], num_drafters, means, view, target.fits())
        return part if part.layers is not None else self._without_layers(part.why)

    def _without_layers(self, why: str) -> Part:
        """What is left for it."""
        if self._fitting_draft is not None:
            return Part(("drafter",), None, f"{why}; a draft model fits")
        more = f"; a draft model would take {size_text(self._bytes_of(self.draft))}" if self.draft else ""
        return Part(("bootstrap",), None, f"{why}{more}: it holds records, and relays for others")

    # --- what fits

    @property
    def _memory(self) -> int:
        return self.machine.memory_for(self.config.max_memory_bytes)

    @property
    def _fitting_draft(self) -> Target | None:
        return self.draft if self.draft is not None and self._bytes_of(self.draft) <= self._memory else None

    @property
    def _draft_bytes(self) -> int:
        """Of memory; without a draft model a drafter takes next to none."""
        return 0 if self._fitting_draft is None else self._bytes_of(self._fitting_draft)

    def _bytes_of(self, draft: Target) -> int:
        return draft.needs(self.config).of_layers(draft.manifest.num_layers)

    def _drafts(self, target: Target) -> bool:
        """Is there nobody else who drafts, or room for the draft model beside a layer? Layers are what is scarce."""
        if not self._drafters(target):
            return True
        needs = target.needs(self.config)
        return self._fitting_draft is not None and needs.of_layers(1) <= self._memory - self._draft_bytes

    def _capacity(self, target: Target) -> int:
        """Layers that fit beside it."""
        beside = self._draft_bytes if self._drafts(target) else 0
        needs = target.needs(self.config)
        return needs.capacity_layers(self._memory - beside, target.manifest.num_layers)

    # --- who is there

    def _shards(self, target: Target) -> list[ProviderRecord]:
        model_id = target.manifest.model_id
        return [one for one in self.others if one.role == "shard" and one.model_id == model_id]

    def _drafters(self, target: Target) -> list[ProviderRecord]:
        tokenizer = target.manifest.tokenizer_hash
        return [one for one in self.others if one.role == "drafter" and one.tokenizer_hash == tokenizer]

    # --- what comes of it

    async def _layer_cost(self, target: Target) -> CostLine:
        return await probe.sample_cost(self.config, target.manifest.width, target.layer_bytes)

    async def _stage_cost(self, target: Target, layers: Range) -> CostLine:
        if target.path is not None:
            return await probe.stage_cost(self.config, target.path, layers)
        layer_bytes = target.bytes_of(layers) // size(layers)
        return (await probe.sample_cost(self.config, target.manifest.width, layer_bytes)).times(size(layers))

    async def _draft_cost(self, draft: Target) -> CostLine:
        if draft.path is not None:
            return await probe.draft_cost(self.config, draft.path)
        return await self._stage_cost(draft, draft.held)

    async def proposal(self, part: Part, timed: bool) -> Proposal:
        records, memory, disk = [], 0, 0
        target = self.target if "shard" in part.roles else None
        draft = self._fitting_draft if "drafter" in part.roles else None
        if target is not None and part.layers is not None:
            memory += target.needs(self.config).of_layers(size(part.layers))
            disk += self._new_bytes(target, part.layers)
            cost = await self._stage_cost(target, part.layers) if timed else UNKNOWN
            records.append(as_record(target.kind(self.config, self.contact), self.contact, part.layers, cost))
        if draft is not None:
            memory += self._draft_bytes
            disk += self._new_bytes(draft, draft.held)
            cost = await self._draft_cost(draft) if timed else UNKNOWN
            kind = draft.kind(self.config, self.contact)
            whole = as_record(kind, self.contact, (0, kind.num_layers), cost)
            records.append(msgspec.structs.replace(whole, role="drafter"))
        elif "drafter" in part.roles and target is not None:
            reads = as_record(target.kind(self.config, self.contact), self.contact, (0, 1), UNKNOWN)
            records.append(msgspec.structs.replace(reads, role="drafter", weights_hash=NO_HASH))
        capacity = self._capacity(target) if target is not None else 0
        return Proposal(
            part.roles,
            self._why(part, draft),
            self._kind(),
            target,
            part.layers,
            capacity,
            draft,
            tuple(records),
            memory,
            disk,
        )

    def _why(self, part: Part, draft: Target | None) -> str:
        """With a word of a draft model that the user named, where it is left out."""
        is_named = bool(self.config.draft_model_source) or self.config.draft_model is not None
        if not is_named or self.draft is None or draft is not None or "bootstrap" in part.roles:
            return part.why
        takes = size_text(self._bytes_of(self.draft)) + (" beside a layer" if self._fitting_draft is not None else "")
        does = "it drafts without one" if "drafter" in part.roles else "it does not draft"
        left_out = f"the draft model that was named takes {takes}, and {size_text(self._memory)} are free: {does}"
        return "; ".join(filter(None, (part.why, left_out)))

    def _kind(self) -> ProviderRecord | None:
        """Of what it hosts, or else of what it would draft for."""
        if self.target is not None:
            return self.target.kind(self.config, self.contact)
        tokenizer = self.draft.manifest.tokenizer_hash if self.draft else ""
        models = [one for one in models_of(self.others) if one.tokenizer_hash == tokenizer]
        answering = {one.peer_id for one in self.others}
        return min(models, key=lambda one: one.rank(answering, ())).shards[0] if models else None

    def _new_bytes(self, target: Target, layers: Range) -> int:
        """Of layers that are not here, or are to be cut out first."""
        path = shard_path(self.config, target.manifest.model_id, *layers)
        is_here = target.path is not None and (layers == target.held or path.exists())
        return 0 if is_here else target.bytes_of(layers)

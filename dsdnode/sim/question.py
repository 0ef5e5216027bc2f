"""A swarm, and what somebody who could join it wants to know of it (plan.py answers, words.py says it)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dsdnode.engine.slow import PREFILL_SHARE
from dsdnode.placement.layers import choose_layers
from dsdnode.sim.scenario import Group, LoadTerms, NetworkTerms, Pair, Policies, Scenario, layers_of
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord

HANDLING_MS = 1.5
"""Of a message, beside its way: as tests/sim/reality.py gauges it in a swarm of its own on two cores."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine could be: ms a draft token; ms and ms a position of a stage with all layers."""

    draft_ms: float | None = None
    fixed_ms: float | None = None
    slope_ms: float = 0.0
    capacity_layers: int = 0
    """How many layers fit it; 0: a stage's share."""


@dataclass(frozen=True, slots=True)
class Question:
    """The swarm, without this machine. `alone`: tokens per second that the user gets without any swarm."""

    shards: tuple[Group, ...]
    drafters: tuple[Group, ...]
    links: NetworkTerms
    pair: Pair
    users: int = 1
    replies: int = 5
    reply_tokens: int = 200
    """Of made-up replies: recorded ones are replayed, one after the other, as long as they were."""
    alone: float | None = None
    mine: Machine = field(default_factory=Machine)
    home: str = ""
    """Region of the user, and of this machine."""
    crowded: bool = False
    """Several peers are at one address."""

    def scenario(self, policy: tuple[str, int], extra: tuple[Group, ...] = (), users: int = 1) -> Scenario:
        window, draft_max = policy
        return Scenario(
            peers=(*self.shards, *self.drafters, *extra),
            name="plan",
            links=self.links,
            pair=self.pair,
            load=LoadTerms(
                requests=max(self.replies, 2 * users if users > 1 else 1),
                users=users,
                prompt_tokens=64,
                reply_tokens=self.reply_tokens,
                replay=bool(self.pair.trace),
                regions=(self.home,),
            ),
            policies=Policies(window=window, draft_max=draft_max, wire="f32"),
        )


def drafter(draft_ms: float, regions: tuple[str, ...] = ("",)) -> Group:
    """`draft_ms` a token; a position that it is only fed costs a small part of that."""
    fed_ms = PREFILL_SHARE * draft_ms
    return Group("drafter", fixed_ms=draft_ms - fed_ms, position_ms=fed_ms, regions=regions)


def uniform(
    stages: int, fixed_ms: float, slope_ms: float, draft_ms: float, links: NetworkTerms, pair: Pair
) -> Question:
    """A swarm of equal stages, one replica each, and one drafter."""
    shards = Group("shard", stages, stages=stages, fixed_ms=fixed_ms, position_ms=slope_ms)
    return Question((shards,), (drafter(draft_ms),), links, replace(pair, layers=max(pair.layers, stages)))


def layers_for(question: Question) -> tuple[int, int]:
    """Those that the swarm needs most, by the node's own rule (placement/layers.py)."""
    records = [
        record
        for group in question.shards
        for index in range(group.count)
        for record in [record_of(group, index, question.pair.layers)]
    ]
    share = max(record.end - record.start for record in records)
    return choose_layers(records, question.pair.layers, question.mine.capacity_layers or share)


def record_of(group: Group, index: int, num_layers: int) -> ProviderRecord:
    """As a member of the group would announce itself."""
    start, end = layers_of(group, index, num_layers)
    contact = Contact(bytes(32), ("tcp://192.0.2.1:1",))
    return ProviderRecord(
        public_key=contact.public_key, addresses=contact.addresses, role="shard", weights_hash="0" * 64,
        architecture="simulated", model_name="", start=start, end=end, num_layers=num_layers, tokenizer_hash="0" * 64,
        vocab_size=1, width=1, context_tokens=1, free_sessions=1, fixed_ms=group.fixed_ms, slope_ms=group.position_ms,
    )  # fmt: skip

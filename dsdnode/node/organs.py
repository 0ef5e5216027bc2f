"""How a node gets its engines, and what else makes it a production node; a simulator gives it others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from dsdnode.config import AUTO, NodeConfig
from dsdnode.engine.nodraft import NoDraft
from dsdnode.engine.port import Engine, TextEngine
from dsdnode.models import demo_draft, demo_target
from dsdnode.net.rpc import Rpc
from dsdnode.node.batching.scheduler import Scheduler
from dsdnode.node.drafter.texts import Draft
from dsdnode.node.engines import Wish, start_draft, start_shard, text_tools
from dsdnode.node.fetching import User
from dsdnode.node.proposal import Proposal
from dsdnode.node.settling import moved, settle, until_needed_elsewhere
from dsdnode.node.surroundings import Surroundings
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.placement.pipelines import Chooser, choose_pipeline
from dsdnode.speculation.actions import MAX_BRANCHES
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.weights.store import Store
from dsdnode.wire.records import ProviderRecord, is_pinned


def no_source(role: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Organs:
    """How the node gets its engines; whether it has a disk, to remember the peers that it knows, and offers what it
    has to others; how it chooses pipelines and shares its engine out."""

    shard: Callable[[Discovery], Awaitable[Engine]]
    draft: Callable[[], Awaitable[TextEngine]]
    disk: bool = True
    offers: bool = True
    choose: Chooser = choose_pipeline
    scheduler: Callable[[], Scheduler] | None = None
    tuning: Tuning = TUNING
    texts: Callable[[], Draft] | None = None
    """How it reads with targets' own tokenizers, once it has a draft model; None: with that one's alone."""
    settle: Callable[[Rpc, Discovery, Pings], Awaitable[NodeConfig]] | None = None
    """Of a node that is to choose its roles itself: what it is once it has joined."""
    moves: Callable[[Discovery, Pings, ProviderRecord], Awaitable[bool]] | None = None
    """Of such a node's shard, and what it offers: returns True when `shard` is to be called again, for other layers;
    False: it stays for good."""
    surroundings: Surroundings | None = None
    """Of the machine, where they may speak against serving others."""
    source: Callable[[str], str] = no_source
    """Of a role's model: where others may fetch it, or ""."""


def organs_of(config: NodeConfig, user: User) -> Organs:
    """Those of a daemon: workers that run model files. `user`: who is asked for what `--role auto` comes to."""
    chosen = _Chosen(config, user)
    is_free = AUTO in config.roles
    return Organs(
        shard=chosen.shard,
        draft=chosen.draft,
        texts=chosen.texts,
        settle=chosen.settle if is_free else None,
        moves=chosen.moves if is_free and config.layers is None else None,
        source=chosen.source,
        surroundings=Surroundings(config),
    )


class _Chosen:
    """What a daemon runs, as it was told or as it has chosen."""

    def __init__(self, config: NodeConfig, user: User) -> None:
        self._config = config
        self._user = user
        self._proposal: Proposal | None = None
        self._wish: Wish | None = None
        self._rpc: Rpc | None = None

    async def settle(self, rpc: Rpc, discovery: Discovery, pings: Pings) -> NodeConfig:
        self._rpc = rpc
        self._config, self._proposal = await settle(self._config, rpc, discovery, pings, self._user)
        if self._proposal.layers is not None:
            self._wish = Wish(self._proposal.layers, self._proposal.capacity_layers)
        return self._config

    async def shard(self, discovery: Discovery) -> Engine:
        return await start_shard(self._config, self._config.model or demo_target(), discovery, self._wish)

    async def moves(self, discovery: Discovery, pings: Pings, own: ProviderRecord) -> bool:
        target = self._proposal.target if self._proposal else None
        if target is None or self._wish is None or self._rpc is None or not target.is_whole:
            return False
        if target.path is None and not self._user.has_agreed:
            return False
        capacity = self._wish.capacity_layers
        layers = await until_needed_elsewhere(discovery, pings, own, capacity, target.fits())
        if target.path is None:
            path = await moved(self._config, self._rpc, discovery, target, layers, self._user)
            self._config = replace(self._config, model=path)
        self._wish = Wish(layers, capacity)
        return True

    async def draft(self) -> TextEngine:
        if self._config.no_draft_model:
            return NoDraft(self._config.context_tokens, self._config.max_sessions * MAX_BRANCHES)
        return await start_draft(self._config, self._config.draft_model or demo_draft())

    def texts(self) -> Draft:
        return text_tools(None if self._config.no_draft_model else self._config.draft_model or demo_draft())

    def source(self, role: str) -> str:
        path = self._config.model if role == "shard" else self._config.draft_model
        store = Store(self._config.data_dir)
        known = next((one for one in store.entries() if path is not None and store.path_of(one) == path), None)
        return known.source if known is not None and is_pinned(known.source) else ""

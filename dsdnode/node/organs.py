"""How a node gets its engines, and what else makes it a production node; a simulator gives it others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dsdnode.config import AUTO, NodeConfig
from dsdnode.engine.port import Engine, TextEngine
from dsdnode.models import demo_draft, demo_target
from dsdnode.node.batching.scheduler import Scheduler
from dsdnode.node.engines import Wish, pair_differences, start_draft, start_shard
from dsdnode.node.settling import Agree, settle
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.placement.pipelines import Chooser, choose_pipeline
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings


async def unknown() -> str:
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
    differences: Callable[[], Awaitable[str]] = unknown
    """What keeps its draft model from drafting for its target, in words."""
    settle: Callable[[Discovery, Pings], Awaitable[NodeConfig]] | None = None
    """Of a node that is to choose its roles itself: what it is once it has joined."""


def organs_of(config: NodeConfig, agree: Agree) -> Organs:
    """Those of a daemon: workers that run model files. `agree`: of what `--role auto` comes to."""
    chosen, wish = config, None

    async def choose(discovery: Discovery, pings: Pings) -> NodeConfig:
        nonlocal chosen, wish
        chosen, proposal = await settle(config, discovery, pings, agree)
        if proposal.layers is not None:
            wish = Wish(proposal.layers, proposal.capacity_layers)
        return chosen

    return Organs(
        shard=lambda discovery: start_shard(chosen, chosen.model or demo_target(), discovery, wish),
        draft=lambda: start_draft(chosen, chosen.draft_model or demo_draft()),
        differences=lambda: pair_differences(chosen.draft_model or demo_draft(), chosen.model or demo_target()),
        settle=choose if AUTO in config.roles else None,
    )

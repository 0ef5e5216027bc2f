"""The swarms in which numbers are tried (tuning.py): rings and crowds of all kinds, deaths, peers that slow down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from dsdnode.sim.scenario import Group, LinkTerms, LoadTerms, NetworkTerms, Pair, Policies, Scenario
from dsdnode.sim.world import SimPeer, World

GPU, CPU, FAST = (9.7, 0.3, 3.0), (14.0, 6.0, 5.0), (1.0, 0.1, 0.8)
"""Milliseconds of a stage, a position more, and a draft token."""
WORKING_S = 0.3
Trouble = Callable[[World], Coroutine[Any, Any, None]]


async def none(world: World) -> None:
    pass


def slow_down(at_s: float, factor: float) -> Trouble:
    """A shard at work takes so many times as long from then on as its record says."""

    async def trouble(world: World) -> None:
        await asyncio.sleep(at_s)
        peer = await busiest(world, "shard")
        assert peer.engine is not None
        peer.engine.pace = factor

    return trouble


def die(role: str, at_s: float, *, silent: bool) -> Trouble:
    """Somebody at work, in the middle of a reply; `silent`: with the whole machine, so that nobody is told."""

    async def trouble(world: World) -> None:
        await asyncio.sleep(at_s)
        await world.end(await busiest(world, role), crash=True, silent=silent)

    return trouble


async def busiest(world: World, role: str) -> SimPeer:
    """Whoever of that role works the most just now."""
    engines = {peer.name: (peer, peer.engine) for peer in world.peers if peer.group.role == role and peer.engine}
    before = {name: engine.num_decodes for name, (_, engine) in engines.items()}
    await asyncio.sleep(WORKING_S)
    return max(engines.values(), key=lambda one: one[1].num_decodes - before[one[0].name])[0]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    scenario: Scenario
    trouble: Trouble = none

    @property
    def is_troubled(self) -> bool:
        return self.trouble is not none


def ring(
    name: str, stages: int, latency_ms: float, kind: tuple[float, float, float], acceptance: float, **more: Any
) -> Case:
    """One replica of each stage unless `replicas`; five replies of 100 tokens unless told otherwise."""
    fixed_ms, slope_ms, draft_ms = kind
    trouble = more.pop("trouble", none)
    replicas = more.pop("replicas", 1)
    links = NetworkTerms(latency_ms=latency_ms, handling_ms=0.5, **{
        key: more.pop(key) for key in ("jitter_ms", "loss", "bandwidth_mbit", "between") if key in more
    })  # fmt: skip
    draft: dict[str, Any] = {"fixed_ms": draft_ms * 0.94, "position_ms": draft_ms * 0.06, "max_sessions": 32}
    shard: dict[str, Any] = {"stages": stages, "fixed_ms": fixed_ms, "position_ms": slope_ms, "max_sessions": 32}
    pair = Pair(layers=32, acceptance=acceptance, **{
        key: more.pop(key) for key in ("state_bytes", "spread", "second") if key in more
    })  # fmt: skip
    groups = (
        Group("shard", stages * replicas, sequence_ms=more.pop("sequence_ms", 0.0), **shard),
        *more.pop("extra", ()),
        Group("drafter", more.pop("drafters", 1), **draft),
    )
    load = LoadTerms(**({"requests": 5, "prompt_tokens": 48, "reply_tokens": 100} | more))
    policies = Policies(window="throughput", draft_max=16)
    return Case(name, Scenario(groups, name, links, pair, load, policies, limit_s=3600.0), trouble)


SLOW_REPLICAS = (Group("shard", 4, stages=4, fixed_ms=30.0, position_ms=1.0, max_sessions=32, regions=("far",)),)
FAR = {"between": {"-far": LinkTerms(25.0), "far-far": LinkTerms(5.0)}}
CASES = {
    case.name: case
    for case in (
        ring("GPU 4, 10 ms", 4, 10, GPU, 0.8),
        ring("GPU 8, 50 ms", 8, 50, GPU, 0.7, requests=4, reply_tokens=60),
        ring("GPU 4, 100 ms, .9", 4, 100, GPU, 0.9),
        ring("GPU 4, 50 ms, .4", 4, 50, GPU, 0.4),
        ring("CPU 4, 10 ms", 4, 10, CPU, 0.8),
        ring("CPU 8, 30 ms", 8, 30, CPU, 0.85, requests=4, reply_tokens=60),
        ring("CPU 2, 2 ms, .15", 2, 2, CPU, 0.15, reply_tokens=200),
        ring("fast 3, 2 ms", 3, 2, FAST, 0.8),
        ring("fast 2, 0.2 ms, .6", 2, 0.2, FAST, 0.6),
        ring("slow drafter", 4, 10, (9.7, 0.3, 40.0), 0.6),
        ring("jitter", 4, 20, GPU, 0.8, jitter_ms=10.0),
        ring("20 Mbit/s", 4, 10, GPU, 0.8, bandwidth_mbit=20.0, state_bytes=8192),
        ring("loss", 3, 20, GPU, 0.8, loss=0.005, state_bytes=8192),
        ring("uneven text", 4, 30, GPU, 0.7, spread=0.95),
        ring("second choices", 4, 60, (10.0, 0.3, 3.0), 0.75, second=0.8),
        ring("short replies", 4, 20, GPU, 0.8, requests=25, reply_tokens=16),
        ring("a long reply", 4, 20, GPU, 0.75, requests=1, reply_tokens=600),
        ring("long prompts", 4, 20, CPU, 0.8, requests=3, prompt_tokens=600, reply_tokens=60),
        ring("4 users", 4, 10, GPU, 0.8, users=4, requests=8, reply_tokens=60),
        ring("12 users", 2, 10, (15.0, 1.0, 3.0), 0.75, users=12, requests=12, reply_tokens=40, sequence_ms=0.5),
        ring("16 users, CPU", 2, 5, CPU, 0.7, users=16, requests=16, reply_tokens=24),
        ring("replicas alike", 4, 10, GPU, 0.8, replicas=3, users=6, requests=12, reply_tokens=40),
        ring("replicas unlike", 4, 5, GPU, 0.8, extra=SLOW_REPLICAS, users=3, requests=6, reply_tokens=60, **FAR),
        ring("a stage slows down", 4, 10, GPU, 0.8, replicas=2, requests=3, reply_tokens=250, trouble=slow_down(2, 8)),
        ring("a stage dies", 4, 10, GPU, 0.8, replicas=2, trouble=die("shard", 6.0, silent=False)),
        ring("a machine vanishes", 4, 10, GPU, 0.8, replicas=2, trouble=die("shard", 6.0, silent=True)),
        ring("a drafter dies", 4, 10, GPU, 0.8, drafters=2, trouble=die("drafter", 6.0, silent=False)),
    )
}

"""Speculation section 3 against the simulated node: `python -m tests.sim.theory [--tokens 1000] [--replies 8]`.

Each scheme at its own best setting by the formulas, for the table of that section (H = N: the owner sits beside the
first stage), then for our ring (H = N + 1). Acceptance is drawn position by position, all alike. Beside section 3's
formula stands that of our own protocol (pacing/formulas.py: the Cycles). For plain decoding and rounds both are the
same. In section 3 a stream's correction leaves with a block, tau_b after the rejection, as if dead blocks stood in its
way; ours leaves alone and at once, for they are dropped: where positions are dear we are faster than that formula. The
stream is simulated as it is, and with corrections held back as section 3 has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import fsum
from typing import Any
from unittest.mock import patch

import structlog

from dsdnode.cli import render
from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.formulas import (
    bottleneck_s,
    constant_survival,
    plain_speed,
    rounds_speed,
    stream_cycle,
    stream_speed,
)
from dsdnode.sim.scenario import Group, LinkTerms, LoadTerms, NetworkTerms, Pair, Policies, Scenario
from dsdnode.sim.simulate import simulate
from dsdnode.speculation.owner.flow import Flow
from dsdnode.speculation.plan import CALL_S

WINDOWS = range(1, 25)
BLOCKS = range(1, 13)
MAX_WINDOW = 64


@dataclass(frozen=True)
class Setting:
    """A row of the table: `ring`: our own ring of N + 1 hops."""

    name: str
    stages: int
    latency_ms: float
    acceptance: float
    fixed_ms: float
    slope_ms: float
    draft_ms: float
    ring: bool = False

    @property
    def costs(self) -> PipelineCost:
        hops = self.stages + self.ring
        stages = (CostLine.of_ms(self.fixed_ms, self.slope_ms),) * self.stages
        return PipelineCost(stages, hops * self.latency_ms / 1e3, CostLine.of_ms(0.0, self.draft_ms))


def gpu(stages: int, latency_ms: float, acceptance: float, ring: bool = False) -> Setting:
    return Setting(f"GPU {stages}, {latency_ms:g} ms", stages, latency_ms, acceptance, 9.7, 0.3, 3, ring)


def cpu(stages: int, latency_ms: float, acceptance: float, ring: bool = False) -> Setting:
    return Setting(f"CPU {stages}, {latency_ms:g} ms", stages, latency_ms, acceptance, 14, 6, 5, ring)


TABLE = (gpu(4, 10, 0.8), gpu(4, 50, 0.6), gpu(4, 50, 0.9), cpu(4, 10, 0.8), cpu(8, 10, 0.9))
RING = tuple(Setting(**{**vars(row), "ring": True}) for row in TABLE)


@dataclass(frozen=True)
class Scheme:
    """At its best setting; tokens per second by `section_3`, and by `ours`, which describes our protocol.

    `held_s`: corrections are held back for so long, and until their block is full.
    """

    name: str
    policy: str
    draft_max: int
    section_3: float
    ours: float | None
    held_s: float | None = None


def schemes(row: Setting) -> Iterator[Scheme]:
    costs, alpha = row.costs, row.acceptance
    plain = plain_speed(costs)
    yield Scheme("plain", "fixed", 0, plain, plain)
    window = max(WINDOWS, key=lambda k: rounds_speed(costs, alpha, k))
    rounds = rounds_speed(costs, alpha, window)
    yield Scheme(f"rounds {window}", "fixed", window, rounds, rounds)
    block = max(BLOCKS, key=lambda b: stream_speed(costs, alpha, b))
    # As many as the ring holds, and none that come too late to matter.
    filling = block * (1 + round(costs.pass_s(block) / max(costs.slowest_s(block), block * costs.draft.slope_s)))
    window = min(MAX_WINDOW, max(block, filling))
    ours = 1 / stream_cycle(costs, constant_survival(alpha), block, window).token_s()
    name = f"stream {block}/{window}"
    stream = Scheme(name, f"stream:{block}:{window}", MAX_WINDOW, stream_speed(costs, alpha, block), ours)
    yield stream
    yield replace(stream, name=f"{name}, held back", ours=None, held_s=bottleneck_s(costs, block))


@contextmanager
def held_back(held_s: float) -> Iterator[None]:
    """An owner that holds its corrections back, as section 3 has it."""
    blocks, given = Flow.blocks, Flow._given
    made_s: dict[int, tuple[Any, float]] = {}
    now_s = 0.0

    def blocks_then(self: Flow, now: float, *rest: Any) -> Any:
        nonlocal now_s
        now_s = now
        return blocks(self, now, *rest)

    def given_later(self: Flow, epoch: Any, num_left: int, plan: Any) -> tuple[int, int] | None:
        sizes = given(self, epoch, num_left, plan)
        if sizes is None or num_left != 1 or plan.block == 1:
            return sizes
        num_draft = min(plan.block - 1, self._room)
        _, since_s = made_s.setdefault(id(epoch), (epoch, now_s))
        # Looked at after each call of the draft engine: half a call too early is as good as half a call too late.
        is_early = sizes[1] < num_draft or now_s < since_s + held_s - CALL_S / 2
        if is_early and (self.drafts.asked is not None or self._is_wanted(epoch, plan)):
            return None
        return sizes[0], min(sizes[1], num_draft)

    with patch.object(Flow, "blocks", blocks_then), patch.object(Flow, "_given", given_later):
        yield


def scenario(row: Setting, scheme: Scheme, tokens: int, replies: int) -> Scenario:
    home = () if row.ring else ("s0",)
    regions = tuple(f"s{i}" for i in range(row.stages))
    owner = home or ("owner",)
    between = {f"{one}-{one}": LinkTerms(0.0) for one in (*regions, *owner)}
    shards = Group(
        "shard", row.stages, stages=row.stages, regions=regions, fixed_ms=row.fixed_ms, position_ms=row.slope_ms
    )
    return Scenario(
        peers=(shards, Group("drafter", regions=owner, fixed_ms=row.draft_ms)),
        name=row.name,
        links=NetworkTerms(latency_ms=row.latency_ms, between=between),
        pair=Pair(layers=row.stages, acceptance=row.acceptance, spread=0.0),
        load=LoadTerms(requests=replies, prompt_tokens=16, reply_tokens=tokens, regions=owner),
        policies=Policies(window=scheme.policy, draft_max=scheme.draft_max),
        limit_s=1e6,
    )


def measure(row: Setting, scheme: Scheme, tokens: int, replies: int) -> float:
    """Tokens per second of all replies together, without their first passes. Plain decoding's are all alike: one."""
    replies = replies if scheme.draft_max else 1
    with nullcontext() if scheme.held_s is None else held_back(scheme.held_s):
        result = simulate(scenario(row, scheme, tokens, replies), seed=1)
    assert not result.lost and not result.wrong_tokens, result.errors
    return 1 / result.time_per_output_token_s.mean


def table(rows: tuple[Setting, ...], tokens: int, replies: int) -> str:
    """With the mean and the largest difference of what runs to our formulas, and of what section 3 has to its own."""
    lines, by_section_3, by_ours = [], [], []
    for row in rows:
        for scheme in schemes(row):
            speed = measure(row, scheme, tokens, replies)
            off = speed / scheme.section_3 - 1
            off_ours = None if scheme.ours is None else speed / scheme.ours - 1
            if off_ours is not None:
                by_ours.append(off_ours)
            if not scheme.policy.startswith("stream") or scheme.held_s is not None:
                by_section_3.append(off)
            figures = (speed, scheme.section_3, _percent(off), scheme.ours, _percent(off_ours))
            lines.append((row.name, row.acceptance, scheme.name, *figures))
    head = ("STAGES, LINK", "ALPHA", "SCHEME", "SIMULATED", "SECTION 3", "OFF BY", "OURS", "OFF BY")
    summary = f"section 3 of what it describes: {_summary(by_section_3)}; ours of what runs: {_summary(by_ours)}"
    return f"{render.table(head, lines)}\n{summary}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"


def _summary(differences: list[float]) -> str:
    sizes = [abs(difference) for difference in differences]
    return f"mean {100 * fsum(sizes) / len(sizes):.1f} %, worst {100 * max(sizes):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1000, help="of a reply")
    parser.add_argument("--replies", type=int, default=8)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for title, rows in (("H = N", TABLE), ("H = N + 1, our ring", RING)):
        print(f"{title}\n{table(rows, arguments.tokens, arguments.replies)}\n", flush=True)


if __name__ == "__main__":
    main()

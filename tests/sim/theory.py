"""Speculation section 3 against the simulated node: `python -m tests.sim.theory [--tokens 1000] [--replies 8]`.

Each scheme at its own best setting by the formulas, for the table of that section (H = N: the owner sits beside the
first stage), then for our ring (H = N + 1). Acceptance is drawn position by position, all alike. Where positions are
dear our stream is up to 8 % faster than its formula: a correction leaves alone, and pays P(1), not P(b).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum

import structlog

from dsdnode.cli import render
from dsdnode.sim.scenario import Group, Links, LinkTerms, Load, Pair, Policies, Scenario
from dsdnode.sim.simulate import simulate
from dsdnode.speculation.speeds import Costs, pass_s, plain_speed, rounds_speed, slowest_s, stream_speed

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
    def costs(self) -> Costs:
        hops = self.stages + self.ring
        stage = (self.fixed_ms / 1e3, self.slope_ms / 1e3)
        return Costs((stage,) * self.stages, hops * self.latency_ms / 1e3, self.draft_ms / 1e3)


def gpu(stages: int, latency_ms: float, acceptance: float, ring: bool = False) -> Setting:
    return Setting(f"GPU {stages}, {latency_ms:g} ms", stages, latency_ms, acceptance, 9.7, 0.3, 3, ring)


def cpu(stages: int, latency_ms: float, acceptance: float, ring: bool = False) -> Setting:
    return Setting(f"CPU {stages}, {latency_ms:g} ms", stages, latency_ms, acceptance, 14, 6, 5, ring)


TABLE = (gpu(4, 10, 0.8), gpu(4, 50, 0.6), gpu(4, 50, 0.9), cpu(4, 10, 0.8), cpu(8, 10, 0.9))
RING = tuple(Setting(**{**vars(row), "ring": True}) for row in TABLE)


def schemes(row: Setting) -> Iterator[tuple[str, str, int, float]]:
    """Scheme, window policy, draft_max and tokens per second by the formula, each at its best setting."""
    costs, alpha = row.costs, row.acceptance
    yield "plain", "fixed", 0, plain_speed(costs)
    window = max(WINDOWS, key=lambda k: rounds_speed(costs, alpha, k))
    yield f"rounds {window}", "fixed", window, rounds_speed(costs, alpha, window)
    block = max(BLOCKS, key=lambda b: stream_speed(costs, alpha, b))
    # As many as the ring holds, and none that come too late to matter.
    filling = block * (1 + round(pass_s(costs, block) / max(slowest_s(costs, block), block * costs.draft_s)))
    window = min(MAX_WINDOW, max(block, filling))
    yield f"stream {block}/{window}", f"stream:{block}:{window}", MAX_WINDOW, stream_speed(costs, alpha, block)


def scenario(row: Setting, policy: str, draft_max: int, tokens: int, replies: int) -> Scenario:
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
        links=Links(latency_ms=row.latency_ms, between=between),
        pair=Pair(layers=row.stages, acceptance=row.acceptance, spread=0.0),
        load=Load(requests=replies, prompt_tokens=16, reply_tokens=tokens, regions=owner),
        policies=Policies(window=policy, draft_max=draft_max),
        limit_s=1e6,
    )


def measure(row: Setting, policy: str, draft_max: int, tokens: int, replies: int) -> float:
    """Tokens per second of all replies together, without their first passes."""
    result = simulate(scenario(row, policy, draft_max, tokens, replies), seed=1)
    assert not result["lost"] and not result["wrong_tokens"], result["errors"]
    return float(1 / result["time_per_output_token_s"]["mean"])


def table(rows: tuple[Setting, ...], tokens: int, replies: int) -> tuple[str, float]:
    """The table as text, and the largest difference."""
    lines, differences = [], []
    for row in rows:
        for name, policy, draft_max, formula in schemes(row):
            speed = measure(row, policy, draft_max, tokens, replies)
            differences.append(speed / formula - 1)
            lines.append((row.name, row.acceptance, name, formula, speed, f"{100 * differences[-1]:+.1f} %"))
    text = render.table(("STAGES, LINK", "ALPHA", "SCHEME", "FORMULA", "SIMULATED", "OFF BY"), lines)
    mean = fsum(map(abs, differences)) / len(differences)
    return f"{text}\nmean {100 * mean:.1f} %", max(map(abs, differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1000, help="of a reply")
    parser.add_argument("--replies", type=int, default=8)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for title, rows in (("H = N", TABLE), ("H = N + 1, our ring", RING)):
        text, worst = table(rows, arguments.tokens, arguments.replies)
        print(f"{title}\n{text}, worst {100 * worst:.1f} %\n", flush=True)


if __name__ == "__main__":
    main()

"""What each scheme could reach at best: the formulas of speculation section 3 with the costs of this very swarm."""

from __future__ import annotations

from collections.abc import Sequence

from dsdnode.bench.config import BenchConfig, PerShard
from dsdnode.bench.schemes import Scheme
from dsdnode.client.client import ReplyStats
from dsdnode.cost import CostLine, PipelineCost
from dsdnode.node.status import NodeStatus
from dsdnode.pacing.formulas import hedged_speed, plain_speed, rounds_speed, stream_speed

MAX_BLOCK = 8
MAX_WINDOW = 32
_BYTES_PER_VALUE = {"f32": 4.0, "f16": 2.0, "q8": 1.0625}


def costs_of(
    config: BenchConfig,
    num_shards: int,
    latency_ms: PerShard,
    wire: str,
    statuses: Sequence[NodeStatus],
    width: int,
) -> PipelineCost:
    """Emulated times as they were asked for, the others as the daemons, one engine each, measured them. Hops: one into
    each shard, one back to the owner."""
    shapes = config.links(latency_ms).shapes(num_shards)
    measured = [CostLine.of_ms(one.engines[0].fixed_ms, one.engines[0].slope_ms) for one in statuses]
    emulated = config.emulate_ms(num_shards)
    stages = measured[:num_shards] if emulated is None else [CostLine.of_ms(*one) for one in emulated]
    draft_s = measured[-1].at(1) if config.draft_ms is None else config.draft_ms / 1e3
    slowest_mbit = min((shape.bandwidth_mbit for shape in shapes if shape.bandwidth_mbit > 0), default=0.0)
    position_bits = 8 * width * _BYTES_PER_VALUE[wire or "f32"]
    return PipelineCost(
        stages=tuple(stages),
        network_s=sum(shape.latency_s for shape in shapes),
        draft=CostLine(0.0, draft_s),
        payload_s=position_bits / (slowest_mbit * 1e6) if slowest_mbit else 0.0,
    )


def bound(scheme: Scheme, costs: PipelineCost, stats: Sequence[ReplyStats]) -> float | None:
    """Tokens per second at the acceptance that these replies had, with the best block where the policy may choose."""
    if scheme.alone:
        return None
    if scheme.plain:
        return plain_speed(costs)
    tokens, judged = sum(one.completion_tokens for one in stats), sum(one.judged for one in stats)
    accepted, covered = sum(one.accepted for one in stats), sum(one.covered for one in stats)
    if not judged or not tokens:
        return None
    rejections = judged - accepted
    alpha = accepted / judged
    if scheme.window == "fixed":
        return rounds_speed(costs, alpha, scheme.draft_max or 1)
    rounds = [rounds_speed(costs, alpha, window) for window in range(1, MAX_WINDOW + 1)]
    if scheme.window in ("throughput:rounds", "awc"):
        return max(rounds)
    alpha = 1 - rejections / tokens
    if scheme.window.startswith("stream:"):
        return stream_speed(costs, alpha, int(scheme.window.split(":")[1]))
    blocks = range(1, MAX_BLOCK + 1)
    stream = [stream_speed(costs, alpha, block) for block in blocks]
    if scheme.window == "throughput:stream":
        return max(stream)
    share = covered / rejections if rejections else 0.0
    hedged = [hedged_speed(costs, alpha, block, share) for block in blocks]
    return max(plain_speed(costs), *rounds, *stream, *hedged)

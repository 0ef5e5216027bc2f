"""Tokens per second of every scheme, from what stages, links and draft model cost. Speculation sections 2 and 3.

Two sorts of formula. `plain_speed` ... `hedged_speed` are those of section 3, for a constant acceptance rate; rounds
and plain are exact, the stream's is what a reply is measured against. `run_s` and the `Cycle`s are sharper, and what
the controller decides by: any survival curve, a bounded window, and our stream as it is, in which the correction leaves
alone and at once, so that a draft token wrong at depth 0 costs P(1), not P(b). Against the owner's machine over a ring
in miniature (243 settings: alpha .1 to .85, 0 to 10 ms, 2 to 8 stages, blocks 1 to 4): half within 3 %, the worst,
without any latency, 18 % off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from dsdnode.cost import PipelineCost
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.speculation.plan import CALL_S, MIN_CHANCE, Mode, Plan

MAX_RUN = 96
"""Draft tokens in a row that are looked at; longer runs count as so long."""
MAX_WINDOW = 64
HEDGES = (1, 2)
Survival = Sequence[float]
"""[m]: probability that a run of right draft tokens has at least m; [0] = 1, MAX_RUN + 1 values."""


def drafting_s(costs: PipelineCost, block: int) -> float:
    """b d, in calls as short as a stream's are."""
    in_a_call = max(1, int(CALL_S / max(costs.draft.at(1), 1e-9)))
    return block * costs.draft.slope_s + ceil(block / in_a_call) * costs.draft.fixed_s


def bottleneck_s(costs: PipelineCost, block: int) -> float:
    """tau_b = max(b d, max c_s(b), b payload): one block after another cannot come faster."""
    return max(drafting_s(costs, block), costs.slowest_s(block), block * costs.payload_s)


# --- section 3 ----------------------------------------------------------------------------------------------------


def plain_speed(costs: PipelineCost) -> float:
    """1 / P(1)."""
    return 1 / costs.pass_s(1)


def round_s(costs: PipelineCost, window: int) -> float:
    """k d + P(k + 1); of a window of 0, P(1)."""
    return window * costs.draft.slope_s + (costs.draft.fixed_s if window else 0.0) + costs.pass_s(window + 1)


def rounds_speed(costs: PipelineCost, acceptance_rate: float, window: int) -> float:
    """E / (k d + P(k + 1)), E = (1 - alpha^(k+1)) / (1 - alpha)."""
    tokens = sum(acceptance_rate**depth for depth in range(window + 1))
    return tokens / round_s(costs, window)


def stream_speed(costs: PipelineCost, acceptance_rate: float, block: int) -> float:
    """1/(1 - alpha) / (tau_b / (1 - alpha^b) + P(b)); all right: b / tau_b."""
    return hedged_speed(costs, acceptance_rate, block, 0.0, 0.0)


def hedged_speed(
    costs: PipelineCost,
    acceptance_rate: float,
    block: int,
    covered_share: float,
    extra_share: float = TUNING.hedged_share,
) -> float:
    """The stream's, where (1 - alpha)(1 - h) of the tokens pay P: a bound, as if a live branch were as far as the line.

    Of the blocks `extra_share` have another of one position beside them, which costs stages and draft model their time.
    """
    interval_s = _hedged_interval_s(costs, block, extra_share)
    if acceptance_rate >= 1:
        return block / interval_s
    missed = 1 - acceptance_rate
    token_s = interval_s * missed / (1 - acceptance_rate**block)
    return 1 / (token_s + missed * (1 - covered_share) * costs.pass_s(block))


def line_bound(costs: PipelineCost, acceptance_rate: float) -> float:
    """1 / ((1 - alpha) P(1)): no single line of draft tokens is faster as links dominate."""
    return plain_speed(costs) / max(1e-9, 1 - acceptance_rate)


def _hedged_interval_s(costs: PipelineCost, block: int, extra_share: float) -> float:
    draft_s = drafting_s(costs, block) + extra_share * costs.draft.slope_s
    stage_s = costs.slowest_s(block) + extra_share * costs.slowest_s(1)
    return max(draft_s, stage_s, (block + extra_share) * costs.payload_s)


# --- what a plan will do ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cycle:
    """From one rejection (or verdict, where each is waited for) to the next, on average.

    `used_s`: how long the slowest stage works for it, dead blocks among it: what others who wait there pay; of that
    `shared_s` is what a decode costs whatever is in it, which all who share the decode pay together. (A stream's many
    small blocks are not given that: where others wait, it is the first to make room.)
    """

    tokens: float
    seconds: float
    used_s: float
    shared_s: float = 0.0

    def token_s(self, num_others: float = 0.0) -> float:
        """Seconds a token; with others waiting also those that it takes from each of them."""
        taken_s = self.used_s - self.shared_s + self.shared_s / (num_others + 1)
        return (self.seconds + num_others * taken_s) / self.tokens


@dataclass(frozen=True, slots=True)
class HedgeValue:
    """`covered_share` of the rejections are covered by a branch, and bring `free_tokens` each without a pass.

    `blocks_share` of the blocks carry a hedge, for each that is allowed; another one brings `second_share` of it.
    """

    covered_share: float = TUNING.covered_share
    free_tokens: float = TUNING.free_tokens
    blocks_share: float = TUNING.hedged_share
    second_share: float = TUNING.second_hedge

    def tokens(self, hedges: int) -> float:
        """A rejection's, on average."""
        return self.covered_share * self.free_tokens * (1 + self.second_share * (hedges - 1))


def constant_survival(acceptance_rate: float) -> list[float]:
    return [acceptance_rate**depth for depth in range(MAX_RUN + 1)]


def plain_cycle(costs: PipelineCost) -> Cycle:
    return Cycle(1.0, costs.pass_s(1), costs.slowest_s(1), costs.slowest_s(0))


def rounds_cycle(costs: PipelineCost, survival: Survival, window: int) -> Cycle:
    used_s, shared_s = costs.slowest_s(window + 1), costs.slowest_s(0)
    return Cycle(sum(survival[: window + 1]), round_s(costs, window), used_s, shared_s)


def run_s(costs: PipelineCost, num_accepted: int, block: int, window: int, extra_share: float = 0.0) -> float:
    """From a rejection until the verdict that ends a run of so many right draft tokens: the stream, step by step.

    The correction's own pass decides the first draft token; block j decides up to draft token j b + 1.
    """
    pace = _Pace(costs, block, window, extra_share)
    if num_accepted <= 0:
        return pace.restart_s + costs.pass_s(1)
    num_more = (num_accepted - 1) // block
    return pace.restart_s + pace.first_s + num_more * pace.interval_s + num_more // pace.per_window * pace.gap_s


def reach_of(survival: Survival) -> int:
    """How deep is drafted: draft tokens that are hardly ever needed are not."""
    return next((depth for depth, chance in enumerate(survival) if chance < MIN_CHANCE), MAX_RUN)


def stream_cycle(
    costs: PipelineCost, survival: Survival, block: int, window: int, hedging: HedgeValue | None = None, hedges: int = 0
) -> Cycle:
    """The expectation of `run_s`."""
    reach = reach_of(survival)
    extra_share = (hedging or HedgeValue()).blocks_share * hedges
    block, window = min(block, reach), min(window, reach)
    pace = _Pace(costs, block, window, extra_share)
    reached, num_more = survival[1], sum(survival[block + 1 :: block])
    num_gaps = sum(survival[block * pace.per_window + 1 :: block * pace.per_window])
    seconds = pace.restart_s + (1 - reached) * costs.pass_s(1) + reached * pace.first_s
    seconds += num_more * pace.interval_s + num_gaps * pace.gap_s
    num_dead = min(pace.per_window, costs.pass_s(block) / max(pace.interval_s, 1e-9)) / 2
    used_s = (1 + extra_share) * costs.slowest_s(1)
    used_s += (reached + num_more + num_dead) * (costs.slowest_s(block) + extra_share * costs.slowest_s(1))
    tokens = sum(survival) + (hedging.tokens(hedges) if hedging and hedges else 0.0)
    return Cycle(tokens, seconds, used_s)


class _Pace:
    """Of a stream that starts with a correction. `first_s`: until the first block's verdict. `interval_s`: between two;
    after each `per_window` of them, where the window does not cover a pass, `gap_s` more. `restart_s`: how long the
    correction waits for a dead block in work at the slowest stage, which is not interrupted.
    """

    __slots__ = ("first_s", "gap_s", "interval_s", "per_window", "restart_s")

    def __init__(self, costs: PipelineCost, block: int, window: int, extra_share: float) -> None:
        block_s, stage_s, draft_s = costs.pass_s(block), costs.slowest_s(block), drafting_s(costs, block)
        handled_s = (1 + extra_share) * costs.handling_s
        stages_s = stage_s + extra_share * costs.slowest_s(1)
        self.interval_s = max(_hedged_interval_s(costs, block, extra_share), stages_s + handled_s)
        self.per_window = max(1, window // block)
        self.gap_s = max(0.0, block_s - self.per_window * self.interval_s)
        call_s = min(draft_s, max(costs.draft.at(1), CALL_S))
        behind_s = min(1.0, draft_s / max(self.interval_s, 1e-9)) * call_s / 2
        self.first_s = max(draft_s + behind_s, costs.slowest_s(1)) + block_s
        paced_s = max(self.interval_s + self.gap_s / self.per_window, 1e-9)
        busy = max(0.0, min(1.0, stage_s / paced_s) - self.gap_s / max(block_s, 1e-9))
        latency_s = costs.network_s / costs.num_hops
        self.restart_s = busy * max(0.0, stage_s - latency_s) ** 2 / (2 * max(stage_s, 1e-9))


def stream_window(
    costs: PipelineCost,
    survival: Survival,
    block: int,
    jitter_s: float = 0.0,
    runs_in_flight: float = TUNING.runs_in_flight,
) -> int:
    """Draft tokens in flight: enough to cover a pass, not more than are likely to be right. A multiple of the block.

    More than that is not free even where nobody else waits: a correction has to pass the block in work at each stage.
    """
    interval_s = max(bottleneck_s(costs, block), 1e-6)
    cover = block * (costs.pass_s(block) + jitter_s) / interval_s
    useful = runs_in_flight * sum(survival)
    return min(MAX_WINDOW, block * max(2, ceil(min(cover, useful) / block - 0.2)))


def options(
    costs: PipelineCost,
    survival: Survival,
    modes: Sequence[Mode],
    blocks: Iterable[int],
    hedging: HedgeValue | None = None,
    jitter_s: float = 0.0,
    tuning: Tuning = TUNING,
) -> Iterator[tuple[Plan, Cycle]]:
    """Every plan worth a thought, with what it will do; plain decoding first."""
    if "plain" in modes:
        yield Plan("plain", 0, 0), plain_cycle(costs)
    for block in blocks:
        if "rounds" in modes:
            yield Plan("rounds", block, block), rounds_cycle(costs, survival, block)
        window = stream_window(costs, survival, block, jitter_s, tuning.runs_in_flight)
        if "stream" in modes:
            yield Plan("stream", block, window), stream_cycle(costs, survival, block, window)
        for hedges in HEDGES if "hedged" in modes else ():
            wider = min(MAX_WINDOW, block * ceil(tuning.hedged_window * window / block))
            cycle = stream_cycle(costs, survival, block, window, hedging or HedgeValue(), hedges)
            yield Plan("hedged", block, wider, hedges), cycle

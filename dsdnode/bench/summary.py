"""From replies to figures: medians over prompts, totals over tokens, ratios prompt by prompt."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dsdnode.bench.measure import MeasuredCrowd, MeasuredReply
from dsdnode.bench.prompts import Prompt, answer_of
from dsdnode.client.client import ReplyStats
from dsdnode.wire.replies import PlanChange


@dataclass(frozen=True, slots=True)
class NearTie:
    """Of prompt number `prompt`: the first token that is not plain's, both, and the target's gap between its first two
    choices there (logits): one of them by a rounding, where it is tiny."""

    prompt: int
    position: int
    tokens: tuple[int | None, int | None]
    gap: float


@dataclass(frozen=True, slots=True)
class SchemeResult:
    """As `--json` prints it. Speeds are medians over prompts of decoding after the first token; `speedup` the median of
    the ratios to plain, prompt by prompt."""

    scheme: str
    tokens_per_second: float | None
    speedup: float | None
    acceptance_rate: float | None
    tokens_per_pass: float | None
    wasted_share: float | None
    cpu_ms_per_token: float | None
    """Of all processes, but for the client's and the links'."""
    bytes_per_token: float | None
    messages_per_token: float | None
    time_to_first_token_s: float | None
    bound_tokens_per_second: float | None
    of_bound: float | None
    text_equal: bool
    near_ties: tuple[NearTie, ...]


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """`alone_tokens_per_second`: the same replies one after another."""

    num_sessions: int
    total_tokens_per_second: float
    alone_tokens_per_second: float
    reply_s_p50: float
    reply_s_p99: float
    fairness: float
    """Jain's index of the replies' own speeds: 1 when all are alike."""


@dataclass(frozen=True, slots=True)
class Details:
    """What there is beyond the results. `link_bytes_per_token`: with encryption, framing and the swarm's upkeep.
    `late_*`: over the second half of each reply's tokens. `right` of `num_known`:
    replies whose final answer is right. `plans`: the longest reply's windows and modes."""

    scheme: str
    num_replies: int
    num_tokens: int
    link_bytes_per_token: float | None
    worker_cpu_ms_per_token: float | None
    """Of the scheme's, what the layers take."""
    speedup_quartiles: tuple[float, float] | None
    end_to_end_tokens_per_second: float | None
    late_tokens_per_second: float | None
    late_speedup: float | None
    relaxed_share: float | None
    covered_share: float | None
    num_differing_replies: int
    right: int
    num_known: int
    recoveries: int
    plans: tuple[PlanChange, ...]
    sessions: tuple[CrowdResult, ...]


def result_of(
    replies: Sequence[MeasuredReply],
    plain: Mapping[int, MeasuredReply],
    bound: float | None,
    near_ties: Sequence[NearTie],
) -> SchemeResult:
    """Of one scheme's replies; `plain`: plain's, by prompt."""
    tokens_per_second = _median(speed(reply) for reply in replies)
    ratios = _ratios(replies, plain, speed)
    num_tokens = sum(len(reply.tokens) for reply in replies)
    used_share = _share(replies, lambda one: one.accepted, lambda one: one.drafted)
    return SchemeResult(
        scheme=replies[0].scheme.name,
        tokens_per_second=tokens_per_second,
        speedup=_median(ratios),
        acceptance_rate=_share(replies, lambda one: one.accepted, lambda one: one.judged),
        tokens_per_pass=_share(replies, lambda one: one.completion_tokens, lambda one: one.passes),
        wasted_share=None if used_share is None else max(0.0, 1 - used_share),
        cpu_ms_per_token=1e3 * sum(sum(reply.cpu_s) for reply in replies) / num_tokens if num_tokens else None,
        bytes_per_token=sum(reply.num_bytes for reply in replies) / num_tokens if num_tokens else None,
        messages_per_token=sum(reply.num_messages for reply in replies) / num_tokens if num_tokens else None,
        time_to_first_token_s=_median(reply.stats.time_to_first_token_s for reply in replies),
        bound_tokens_per_second=bound,
        of_bound=tokens_per_second / bound if bound and tokens_per_second else None,
        text_equal=not differing(replies, plain),
        near_ties=tuple(near_ties),
    )


def details_of(
    replies: Sequence[MeasuredReply],
    plain: Mapping[int, MeasuredReply],
    crowds: Sequence[MeasuredCrowd],
    prompts: Sequence[Prompt],
) -> Details:
    ratios = _ratios(replies, plain, speed)
    known = [(reply, prompts[reply.prompt].result) for reply in replies if prompts[reply.prompt].result is not None]
    num_tokens = sum(len(reply.tokens) for reply in replies)
    longest = max(replies, key=lambda reply: len(reply.tokens))
    return Details(
        scheme=replies[0].scheme.name,
        num_replies=len(replies),
        num_tokens=num_tokens,
        link_bytes_per_token=sum(reply.num_link_bytes for reply in replies) / num_tokens if num_tokens else None,
        worker_cpu_ms_per_token=1e3 * sum(reply.cpu_s[0] for reply in replies) / num_tokens if num_tokens else None,
        speedup_quartiles=_quartiles(ratios),
        end_to_end_tokens_per_second=_median(len(reply.tokens) / reply.took_s for reply in replies),
        late_tokens_per_second=_median(late_speed(reply) for reply in replies),
        late_speedup=_median(_ratios(replies, plain, late_speed)),
        relaxed_share=_share(replies, lambda one: one.relaxed, lambda one: one.completion_tokens),
        covered_share=_share(replies, lambda one: one.covered, lambda one: one.judged - one.accepted),
        num_differing_replies=len(differing(replies, plain)),
        right=sum(answer_of(reply.text) == result for reply, result in known),
        num_known=len(known),
        recoveries=sum(reply.stats.recoveries for reply in replies),
        plans=longest.stats.plans,
        sessions=tuple(_crowd(crowd, replies) for crowd in crowds),
    )


def differing(replies: Sequence[MeasuredReply], plain: Mapping[int, MeasuredReply]) -> list[tuple[MeasuredReply, int]]:
    """Replies whose tokens are not plain's, and the first position where."""
    found = []
    for reply in replies:
        other = plain[reply.prompt].tokens
        if reply.tokens != other:
            same = (i for i, (a, b) in enumerate(zip(other, reply.tokens, strict=False)) if a != b)
            found.append((reply, next(same, min(len(other), len(reply.tokens)))))
    return found


def speed(reply: MeasuredReply) -> float | None:
    """Tokens per second after the first pass, on the drafter's clock."""
    return reply.stats.tokens_per_second or None


def late_speed(reply: MeasuredReply) -> float | None:
    """Of the second half of the tokens, as they reached the client: a policy has adapted by then."""
    half = [(at_s, num) for at_s, num in reply.arrivals if num >= len(reply.tokens) / 2]
    if len(half) < 2 or half[-1][0] <= half[0][0]:
        return None
    return (half[-1][1] - half[0][1]) / (half[-1][0] - half[0][0])


def as_json(one: SchemeResult | Details) -> dict[str, Any]:
    """Numbers with four digits that count."""
    rounded: dict[str, Any] = _rounded(msgspec.to_builtins(one))
    return rounded


def _crowd(crowd: MeasuredCrowd, alone: Sequence[MeasuredReply]) -> CrowdResult:
    took = sorted(reply.took_s for reply in crowd.replies)
    speeds = [len(reply.tokens) / reply.took_s for reply in crowd.replies]
    squares = sum(value * value for value in speeds)
    return CrowdResult(
        num_sessions=crowd.num_sessions,
        total_tokens_per_second=sum(len(reply.tokens) for reply in crowd.replies) / crowd.took_s,
        alone_tokens_per_second=sum(len(reply.tokens) for reply in alone) / sum(reply.took_s for reply in alone),
        reply_s_p50=_percentile(took, 0.5),
        reply_s_p99=_percentile(took, 0.99),
        fairness=sum(speeds) ** 2 / (len(speeds) * squares) if squares else 1.0,
    )


def _ratios(
    replies: Sequence[MeasuredReply],
    plain: Mapping[int, MeasuredReply],
    measure: Callable[[MeasuredReply], float | None],
) -> list[float]:
    pairs = [(measure(reply), measure(plain[reply.prompt])) for reply in replies]
    return [mine / its for mine, its in pairs if mine and its]


def _share(
    replies: Sequence[MeasuredReply], part: Callable[[ReplyStats], int], whole: Callable[[ReplyStats], int]
) -> float | None:
    """Of all replies together."""
    total = sum(whole(reply.stats) for reply in replies)
    return sum(part(reply.stats) for reply in replies) / total if total else None


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _quartiles(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value

"""What a run came to, as numbers: the same scenario and seed give the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dsdnode.net.port import Priority
from dsdnode.sim.links import Traffic
from dsdnode.sim.load import Outcome
from dsdnode.sim.world import SimPeer, World
from dsdnode.wire.replies import PlanChange

MAX_SHOWN_PEERS = 64
MAX_SHOWN_REPLIES = 16
"""With the history of their windows."""
DIGITS = 6


class Spread(msgspec.Struct, frozen=True):
    """Of values: their mean, and which of them so many percent do not exceed."""

    mean: float
    p50: float
    p95: float
    p99: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of a whole run. None: there was nothing to measure. Speeds are those of all replies together and of each one."""

    completed: int
    lost: int
    stuck: int
    """Still not over at the end."""
    wrong_tokens: int
    tokens: int
    tokens_per_second: float | None
    time_to_first_token_s: Spread | None
    time_per_output_token_s: Spread | None
    latency_s: Spread | None
    reply_tokens_per_second: Spread | None
    acceptance_rate: float | None
    tokens_per_pass: float | None
    drafted: int
    wasted_drafts: int
    recoveries: int
    simulated_s: float


class PlanStep(msgspec.Struct, frozen=True):
    """From reply token `index` on, `at_s` after the reply's start (speculation/plan.py says what the words mean)."""

    index: int
    at_s: float
    mode: str
    block: int
    window: int
    reason: str


class Windows(msgspec.Struct, frozen=True):
    """Tokens made under each plan, by its name; of the first replies, their plans and how many tokens they have."""

    tokens_by_plan: dict[str, int]
    replies: tuple[tuple[PlanStep, ...], ...]
    reply_tokens: tuple[int, ...]


class LaneTraffic(msgspec.Struct, frozen=True):
    """Of one priority (net/port.py)."""

    messages: int
    bytes: int
    mean_flight_s: float | None


class NetworkTraffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last three, of `verify` for each token of a reply, are left out where there are no tokens."""

    control: LaneTraffic
    verify: LaneTraffic
    draft: LaneTraffic
    bulk: LaneTraffic
    verify_wait_s_per_token: float | None = None
    verify_bytes_per_token: float | None = None
    verify_messages_per_token: float | None = None


class GroupReport(msgspec.Struct, frozen=True):
    """Of all members of a group of the scenario; `utilisation`: busy share of the time that they were there."""

    group: str
    members: int
    up: int
    utilisation: float
    positions_per_decode: float | None
    bytes_sent: int
    messages_sent: int


class MemberReport(msgspec.Struct, frozen=True):
    """`layers` [start, end) of a shard."""

    name: str
    layers: tuple[int, int] | None
    up: bool
    utilisation: float
    decodes: int
    bytes_sent: int


class Report(Figures, frozen=True, kw_only=True):
    """`errors`: how often, by text; `complaints`: what the nodes logged as wrong; `members`: the first of them."""

    scenario: str
    seed: int
    peers: int
    requests: int
    errors: dict[str, int]
    complaints: tuple[str, ...]
    windows: Windows
    network: NetworkTraffic
    groups: tuple[GroupReport, ...]
    members: tuple[MemberReport, ...]

    @property
    def figures(self) -> Figures:
        return Figures(**{name: getattr(self, name) for name in Figures.__struct_fields__})


def report(world: World, outcomes: Sequence[Outcome], started_s: float) -> Report:
    """Numbers are rounded to DIGITS. `started_s`: when the first request could be asked."""
    done = [one for one in outcomes if one.done]
    stats = [one.stats for one in done if one.stats is not None]
    span_s = max((one.ended_s for one in outcomes if one.ended_s is not None), default=started_s) - started_s
    tokens = sum(one.num_tokens for one in outcomes)
    drafted, accepted = sum(one.drafted for one in stats), sum(one.accepted for one in stats)
    judged, passes = sum(one.judged for one in stats) or drafted, sum(one.passes for one in stats)
    result = Report(
        scenario=world.scenario.name,
        seed=world.seed,
        peers=sum(peer.up for peer in world.peers),
        simulated_s=world.loop.now,
        requests=len(outcomes),
        completed=len(done),
        lost=sum(bool(one.error) for one in outcomes),
        stuck=sum(one.ended_s is None for one in outcomes),
        wrong_tokens=sum(one.num_wrong for one in outcomes),
        errors=_counted((one.error, 1) for one in outcomes if one.error),
        complaints=tuple(world.complaints[:16]),
        tokens=tokens,
        tokens_per_second=tokens / span_s if span_s > 0 else None,
        time_to_first_token_s=spread([one.arrivals[0][0] - one.asked_s for one in outcomes if one.arrivals]),
        time_per_output_token_s=spread([_pace_s(one) for one in done if one.num_tokens > 1]),
        latency_s=spread([one.ended_s - one.asked_s for one in done if one.ended_s is not None]),
        reply_tokens_per_second=spread([one.tokens_per_second for one in stats]),
        drafted=drafted,
        acceptance_rate=accepted / judged if judged else None,
        tokens_per_pass=sum(one.completion_tokens for one in stats) / passes if passes else None,
        wasted_drafts=drafted - accepted,
        recoveries=sum(one.recoveries for one in stats),
        windows=_windows(done),
        network=_network(world, tokens),
        groups=_groups(world),
        members=tuple(_member(peer, world.loop.now) for peer in world.peers[:MAX_SHOWN_PEERS]),
    )
    return msgspec.convert(_rounded(msgspec.to_builtins(result)), Report)


def as_json(result: Report) -> str:
    return json.dumps(msgspec.to_builtins(result), indent=1, sort_keys=True, allow_nan=False)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the ascending values do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def spread(values: Sequence[float | None]) -> Spread | None:
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    return Spread(math.fsum(ordered) / len(ordered), *(percentile(ordered, share) for share in (0.5, 0.95, 0.99)))


def _pace_s(one: Outcome) -> float:
    """Time per output token after the first piece."""
    assert one.ended_s is not None
    return (one.arrivals[-1][0] - one.arrivals[0][0]) / max(1, one.num_tokens - one.arrivals[0][1])


def _windows(done: Sequence[Outcome]) -> Windows:
    histories = [(one.stats.plans, one.num_tokens) for one in done if one.stats is not None]
    tokens: list[tuple[str, int]] = []
    for plans, num_tokens in histories:
        ends = [*(plan.index for plan in plans[1:]), num_tokens][: len(plans)]
        for plan, end in zip(plans, ends, strict=True):
            tokens.append((f"{plan.mode} {plan.block}/{plan.window}", max(0, end - plan.index)))
    shown = histories[:MAX_SHOWN_REPLIES]
    return Windows(
        tokens_by_plan=_counted(tokens),
        replies=tuple(tuple(map(_step, plans)) for plans, _ in shown),
        reply_tokens=tuple(num_tokens for _, num_tokens in shown),
    )


def _step(plan: PlanChange) -> PlanStep:
    return PlanStep(plan.index, plan.at_s, plan.mode, plan.block, plan.window, plan.reason)


def _network(world: World, tokens: int) -> NetworkTraffic:
    lanes = world.network.traffic
    verify = lanes[Priority.VERIFY]
    return NetworkTraffic(
        control=_lane(lanes[Priority.CONTROL]),
        verify=_lane(verify),
        draft=_lane(lanes[Priority.DRAFT]),
        bulk=_lane(lanes[Priority.BULK]),
        verify_wait_s_per_token=verify.flight_s / tokens if tokens else None,
        verify_bytes_per_token=verify.size_bytes / tokens if tokens else None,
        verify_messages_per_token=verify.num_messages / tokens if tokens else None,
    )


def _lane(sent: Traffic) -> LaneTraffic:
    mean_flight_s = sent.flight_s / sent.num_messages if sent.num_messages else None
    return LaneTraffic(sent.num_messages, sent.size_bytes, mean_flight_s)


def _groups(world: World) -> tuple[GroupReport, ...]:
    now = world.loop.now
    result = []
    for group in world.scenario.peers:
        members = [peer for peer in world.peers if peer.group is group]
        engines = [peer.engine for peer in members if peer.engine is not None]
        decodes = sum(engine.num_decodes for engine in engines)
        lived_s = math.fsum(_lived_s(peer, now) for peer in members)
        result.append(
            GroupReport(
                group=group.name or group.role,
                members=len(members),
                up=sum(peer.up for peer in members),
                utilisation=math.fsum(engine.busy_s for engine in engines) / lived_s if lived_s else 0.0,
                positions_per_decode=sum(engine.num_positions for engine in engines) / decodes if decodes else None,
                bytes_sent=sum(peer.transport.traffic.size_bytes for peer in members),
                messages_sent=sum(peer.transport.traffic.num_messages for peer in members),
            )
        )
    return tuple(result)


def _lived_s(peer: SimPeer, now: float) -> float:
    return (now if peer.ended_s is None else peer.ended_s) - peer.born_s


def _member(peer: SimPeer, now: float) -> MemberReport:
    lived_s = _lived_s(peer, now)
    shard = peer.engine.shard if peer.engine is not None else None
    return MemberReport(
        name=peer.name,
        layers=(shard.start, shard.end) if shard is not None and peer.group.role == "shard" else None,
        up=peer.up,
        utilisation=peer.engine.busy_s / lived_s if peer.engine is not None and lived_s else 0.0,
        decodes=peer.engine.num_decodes if peer.engine is not None else 0,
        bytes_sent=peer.transport.traffic.size_bytes,
    )


def _counted(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sums by name, in the order of their first."""
    totals: dict[str, int] = {}
    for name, num in counts:
        totals[name] = totals.get(name, 0) + num
    return totals


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value

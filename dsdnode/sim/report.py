"""What a run came to, as numbers: the same scenario and seed give the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from dsdnode.net.port import Priority
from dsdnode.sim.load import Outcome
from dsdnode.sim.world import Peer, World

MAX_SHOWN_PEERS = 64
MAX_SHOWN_REPLIES = 16
"""With the history of their windows."""
DIGITS = 6


def report(world: World, outcomes: Sequence[Outcome], started_s: float) -> dict[str, Any]:
    """JSON-able; units in the names. `started_s`: when the first request could be asked."""
    done = [one for one in outcomes if one.done]
    span_s = max((one.ended_s for one in outcomes if one.ended_s is not None), default=started_s) - started_s
    tokens = sum(one.num_tokens for one in outcomes)
    result = {
        "scenario": world.scenario.name,
        "seed": world.seed,
        "peers": sum(peer.up for peer in world.peers),
        "simulated_s": world.loop.now,
        "requests": len(outcomes),
        "completed": len(done),
        "lost": sum(bool(one.error) for one in outcomes),
        "stuck": sum(one.ended_s is None for one in outcomes),
        "wrong_tokens": sum(one.num_wrong for one in outcomes),
        "errors": _errors(outcomes),
        "complaints": world.complaints[:16],
        "tokens": tokens,
        "tokens_per_second": tokens / span_s if span_s > 0 else None,
        "time_to_first_token_s": spread([one.arrivals[0][0] - one.asked_s for one in outcomes if one.arrivals]),
        "time_per_output_token_s": spread([_pace_s(one) for one in done if one.num_tokens > 1]),
        "latency_s": spread([one.ended_s - one.asked_s for one in done if one.ended_s is not None]),
        "reply_tokens_per_second": spread([_value(one, "tokens_per_second") for one in done]),
        **_speculation(done),
        "windows": _windows(done),
        "network": _network(world, tokens),
        "groups": _groups(world),
        "members": [_member(peer, world.loop.now) for peer in world.peers[:MAX_SHOWN_PEERS]],
    }
    rounded: dict[str, Any] = _rounded(result)
    return rounded


def as_json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1, sort_keys=True, allow_nan=False)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the ascending values do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    names = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {"mean": math.fsum(ordered) / len(ordered)} | {name: percentile(ordered, at) for name, at in names.items()}


def _pace_s(one: Outcome) -> float:
    """Time per output token after the first piece."""
    assert one.ended_s is not None
    return (one.arrivals[-1][0] - one.arrivals[0][0]) / max(1, one.num_tokens - one.arrivals[0][1])


def _value(one: Outcome, name: str) -> float | None:
    value = one.stats.get(name)
    return float(value) if isinstance(value, int | float) else None


def _total(outcomes: Sequence[Outcome], name: str) -> float:
    return sum(_value(one, name) or 0 for one in outcomes)


def _speculation(done: Sequence[Outcome]) -> dict[str, Any]:
    drafted, accepted, passes = (_total(done, name) for name in ("drafted", "accepted", "passes"))
    judged = _total(done, "judged") or drafted
    return {
        "drafted": int(drafted),
        "acceptance_rate": accepted / judged if judged else None,
        "tokens_per_pass": _total(done, "completion_tokens") / passes if passes else None,
        "wasted_drafts": int(drafted - accepted),
        "recoveries": int(_total(done, "recoveries")),
    }


def _windows(done: Sequence[Outcome]) -> dict[str, Any]:
    """The plans that the replies went through, by how many tokens were made under each, and the first histories."""
    tokens: dict[str, int] = {}
    histories = [one.stats.get("plans") or [] for one in done]
    for one, plans in zip(done, histories, strict=True):
        ends = [*(plan["index"] for plan in plans[1:]), one.num_tokens][: len(plans)]
        for plan, end in zip(plans, ends, strict=True):
            name = f"{plan['mode']} {plan['block']}/{plan['window']}"
            tokens[name] = tokens.get(name, 0) + max(0, end - plan["index"])
    shown = [
        [{key: plan[key] for key in ("index", "at_s", "mode", "block", "window", "reason")} for plan in plans]
        for plans in histories[:MAX_SHOWN_REPLIES]
    ]
    lengths = [one.num_tokens for one in done[:MAX_SHOWN_REPLIES]]
    return {"tokens_by_plan": tokens, "replies": shown, "reply_tokens": lengths}


def _network(world: World, tokens: int) -> dict[str, Any]:
    by_class: dict[str, Any] = {
        priority.name.lower(): {
            "messages": traffic.num_messages,
            "bytes": traffic.size_bytes,
            "mean_flight_s": traffic.flight_s / traffic.num_messages if traffic.num_messages else None,
        }
        for priority, traffic in world.network.traffic.items()
    }
    if not tokens:
        return by_class
    verify = world.network.traffic[Priority.VERIFY]
    return by_class | {
        "verify_wait_s_per_token": verify.flight_s / tokens,
        "verify_bytes_per_token": verify.size_bytes / tokens,
        "verify_messages_per_token": verify.num_messages / tokens,
    }


def _groups(world: World) -> list[dict[str, Any]]:
    """Mean figures of the members of each group."""
    now = world.loop.now
    result = []
    for group in world.scenario.peers:
        members = [peer for peer in world.peers if peer.group is group]
        engines = [peer.engine for peer in members if peer.engine is not None]
        decodes = sum(engine.num_decodes for engine in engines)
        lived_s = math.fsum(_lived_s(peer, now) for peer in members)
        result.append(
            {
                "group": group.name or group.role,
                "members": len(members),
                "up": sum(peer.up for peer in members),
                "utilisation": math.fsum(engine.busy_s for engine in engines) / lived_s if lived_s else 0.0,
                "positions_per_decode": sum(engine.num_positions for engine in engines) / decodes if decodes else None,
                "bytes_sent": sum(peer.transport.traffic.size_bytes for peer in members),
                "messages_sent": sum(peer.transport.traffic.num_messages for peer in members),
            }
        )
    return result


def _lived_s(peer: Peer, now: float) -> float:
    return (now if peer.ended_s is None else peer.ended_s) - peer.born_s


def _member(peer: Peer, now: float) -> dict[str, Any]:
    lived_s = _lived_s(peer, now)
    shard = peer.engine.shard if peer.engine is not None else None
    return {
        "name": peer.name,
        "layers": [shard.start, shard.end] if shard is not None and peer.group.role == "shard" else None,
        "up": peer.up,
        "utilisation": peer.engine.busy_s / lived_s if peer.engine is not None and lived_s else 0.0,
        "decodes": peer.engine.num_decodes if peer.engine is not None else 0,
        "bytes_sent": peer.transport.traffic.size_bytes,
    }


def _errors(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in outcomes:
        if one.error:
            counts[one.error] = counts.get(one.error, 0) + 1
    return counts


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value

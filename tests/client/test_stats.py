"""The figures at the end of a reply: what travels, what a client makes of it, what a stranger may say."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from msgspec import structs

from dsdnode.client.client import Finished, GenerateRequest, ReplyStats
from dsdnode.client.request import PendingReply
from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation.events import EventLog, PassEvent
from dsdnode.speculation.plan import Plan
from dsdnode.swarm.catalogue import Model
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.messages import WireAcceptance
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.replies import MAX_DEPTHS, MAX_PLANS, PlanChange, StageInfo, Statistics

PLAN = {"index": 0, "at_s": 0.25, "mode": "stream", "block": 2, "window": 8, "hedges": 1, "reason": "long links"}
TOLD: dict[str, Any] = {
    "prompt_tokens": 4,
    "prompt_tokens_reused": 1,
    "completion_tokens": 2,
    "time_to_first_token_s": 0.5,
    "tokens_per_second": None,
    "drafted": 3,
    "judged": 2,
    "accepted": 1,
    "covered": 1,
    "relaxed": 0,
    "acceptance_rate": 0.5,
    "acceptance_length_mean": 1.5,
    "wasted_share": 0.5,
    "passes": 2,
    "recoveries": 1,
    "by_position": [[2, 1]],
    "plans": [PLAN],
    "plain_tokens_per_second": 7.5,
    "pipeline": [{"peer_id": "ab" * 32, "layers": [0, 4]}],
    "wire": "f32",
    "links_share": 0.25,
    "stop_text": "END",
    "copied_judged": 3,
    "copied_accepted": 2,
}
"""Every key, in the order in which a drafter writes them."""
STATISTICS = Statistics(
    **TOLD
    | {
        "by_position": ((2, 1),),
        "plans": (PlanChange(0, 0.25, "stream", 2, 8, 1, "long links"),),
        "pipeline": (StageInfo("ab" * 32, (0, 4)),),
    }
)


async def end_of(told: dict[str, Any], *, before: int = 0) -> ReplyStats:
    """Of a reply of two tokens by the last drafter, after `before` by another one."""
    asking = PendingReply(
        GenerateRequest(prompt_tokens=(5, 17)), Model("ab" * 32, "m", 4, 16, 97, "t", 4096, (), 1, "")
    )
    asking.tokens.extend(range(before))
    asking.num_resumed = bool(before)
    part, _ = asking.begin()
    accepted = replies.Accepted(part.request, "ab" * 32, WireAcceptance(0.2))
    asking.take(asking.checked(part, accepted, [pack_tokens([5, 17])]))
    asking.event(part, part.read(replies.Piece(part.request, before, 1), [pack_tokens([1, 2]), b"hi"]))
    event = asking.event(part, part.read(replies.Finished(part.request, "stop"), [msgpack.packb(told)]))
    assert isinstance(event, Finished)
    return event.stats


def test_they_travel_as_they_always_did() -> None:
    """An older client reads every key by its name, and writes them as it got them."""
    assert encode_body(STATISTICS) == msgpack.packb(TOLD)
    assert decode_body(msgpack.packb(TOLD), Statistics) == STATISTICS


def test_the_longest_log_is_within_the_limits() -> None:
    log = EventLog(4)
    for i in range(2 * MAX_PLANS):
        log.planned(0.0, Plan("hedged", 1 + i % 64, 64, 2, "why " * 10))
        log.judged(PassEvent(1, i, 64, 64, 64, 64, 0.0, 1e-9 * i, depth=i), num_sent=64)
    stats = log.statistics()
    assert (len(stats.plans), len(stats.by_position)) == (MAX_PLANS, MAX_DEPTHS)
    assert decode_body(encode_body(stats), Statistics) == stats


async def test_a_client_adds_how_the_reply_was_accepted() -> None:
    stats = await end_of(TOLD)
    own = {"acceptance": "relaxed", "threshold": 0.2, "waited_s": stats.waited_s, "was_full": False}
    assert structs.asdict(stats) == structs.asdict(STATISTICS) | own


async def test_what_a_newer_drafter_says_is_ignored_what_an_older_one_does_not_say_has_a_default() -> None:
    newer = TOLD | {"joules": 3, "threshold": 0.9, "plans": [PLAN | {"joules": [1]}]}
    usual = await end_of(TOLD)
    assert structs.replace(await end_of(newer), waited_s=usual.waited_s) == usual  # the client's own clock
    older = await end_of({"completion_tokens": 2})
    assert (older.drafted, older.tokens_per_second, older.plans, older.threshold) == (0, None, (), 0.2)


async def test_of_a_reply_of_several_drafters_tokens_and_times_are_the_client_s() -> None:
    stats = await end_of(TOLD | {"tokens_per_second": 1e9, "recoveries": 3}, before=5)
    assert (stats.prompt_tokens, stats.completion_tokens, stats.recoveries) == (2, 7, 4)
    assert (stats.tokens_per_second, stats.drafted) == (None, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"completion_tokens": 3},
        {"completion_tokens": None},
        {"completion_tokens": "2"},
        {"tokens_per_second": "\x1b[2J"},
        {"tokens_per_second": float("nan")},
        {"tokens_per_second": float("inf")},
        {"time_to_first_token_s": -1.0},
        {"acceptance_rate": []},
        {"acceptance_length_mean": True},
        {"recoveries": -1},
        {"drafted": 1 << 50},
        {"drafted": None},
        {"by_position": [[0, 0]]},
        {"by_position": [[2]]},
        {"by_position": [[2, 1]] * 65},
        {"plans": [{}]},
        {"plans": [PLAN] * 257},
        {"plans": [PLAN | {"window": 1 << 20}]},
        {"plans": [PLAN | {"reason": "long " * 200}]},
        {"pipeline": 7},
        {"pipeline": [{"peer_id": "me", "layers": [0, 4]}]},
        {"pipeline": [{"peer_id": "ab" * 32, "layers": [0, 5000]}]},
        {"pipeline": [{"peer_id": "ab" * 32, "layers": [0, 4]}] * 65},
    ],
)
async def test_what_no_correct_drafter_says_is_not_taken(wrong: dict[str, Any]) -> None:
    with pytest.raises(PeerMisbehaved):
        await end_of(TOLD | wrong)


@pytest.mark.parametrize("body", [b"", b"\xc1", msgpack.packb([]), msgpack.packb({}), msgpack.packb({1: 2})])
async def test_nor_what_is_no_map_of_them(body: bytes) -> None:
    with pytest.raises(PeerMisbehaved):
        decode_body(body, Statistics)

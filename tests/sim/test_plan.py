"""Alice wonders whether to join, and as what."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest

from dsdnode.errors import NoPipeline
from dsdnode.identity import Identity, short_id
from dsdnode.sim.live import HOME, question_of
from dsdnode.sim.plan import DEFAULT, SEED, Answer, answer, num_runs
from dsdnode.sim.question import Machine, layers_for, uniform
from dsdnode.sim.scenario import NetworkTerms, Pair
from dsdnode.sim.simulate import simulate
from dsdnode.sim.words import words
from dsdnode.wire.records import ID_PREFIX_BYTES, ProviderRecord, RoundTrip

pytestmark = pytest.mark.slow

SLOW_LINKS = uniform(3, 5, 0.5, 2, NetworkTerms(latency_ms=40), Pair(layers=6))
QUICK = replace(SLOW_LINKS, replies=3, reply_tokens=40)
BESIDE_A_SLOW_MACHINE = replace(QUICK, alone=4.0, mine=Machine(draft_ms=2.0))


@cache
def beside_a_slow_machine() -> Answer:
    """Simulated once for all who look at it."""
    return answer(BESIDE_A_SLOW_MACHINE)


def record(name: str, role: str, layers: tuple[int, int], trips: tuple[RoundTrip, ...] = ()) -> ProviderRecord:
    public_key = Identity(Random(name).randbytes(32)).public_key
    return ProviderRecord(
        public_key, ("tcp://192.0.2.1:1",), "shard" if role == "shard" else "drafter", "a" * 64, "fake", "big model",
        *layers, 6, "b" * 64, 100, 512, 4096, 4, fixed_ms=9.0, slope_ms=1.0, round_trips=trips,
    )  # fmt: skip


def test_on_slow_links_speculation_is_said_to_pay_and_the_swarm_to_beat_a_slow_machine() -> None:
    question, found = BESIDE_A_SLOW_MACHINE, beside_a_slow_machine()
    assert found.speeds["plain"] == pytest.approx(1 / (3 * 0.0055 + 4 * 0.04), rel=0.02)
    assert found.speeds["stream"] > 2 * found.speeds["plain"]
    text = words(question, found)
    assert f"Expect {found.default:.1f} tokens a second" in text and "Leave --window at throughput" in text
    assert found.alone_to_ms is not None and f"under {found.alone_to_ms:.0f} ms" in text
    assert "With this machine as a drafter" in text


def test_a_draft_model_slower_than_the_ring_gains_nothing() -> None:
    slow = uniform(1, 5, 2, 200, NetworkTerms(latency_ms=1), Pair(layers=6, acceptance=0.3))
    question = replace(slow, reply_tokens=20)
    found = answer(question)
    assert found.pays_from_ms is not None and found.pays_from_ms > 10
    assert "gains nothing here" in words(question, found)


def test_at_the_break_even_the_swarm_makes_what_alice_makes_alone() -> None:
    found = beside_a_slow_machine()
    assert found.alone_to_ms is not None
    there = replace(QUICK, links=NetworkTerms(latency_ms=found.alone_to_ms))
    made = simulate(there.scenario(DEFAULT), SEED).reply_tokens_per_second
    assert made is not None and made.p50 == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("right", [True, False])
def test_recorded_replies_are_replayed_as_they_were(right: bool, tmp_path: Path) -> None:
    trace = tmp_path / "replies.jsonl"
    reply = {"prompt_tokens": 9, "accepted": [int(right)] * 30, "confidence": [0.9] * 30}
    trace.write_text(f"{json.dumps(reply)}\n" * 3)
    question = replace(QUICK, pair=Pair(layers=6, acceptance=0.5, trace=str(trace)))
    told: list[str] = []
    found = answer(question, told=told.append)
    if right:
        assert found.speeds["rounds"] > 4 * found.speeds["plain"]
    else:
        assert found.speeds["rounds"] < 1.01 * found.speeds["plain"]
        assert "speculation pays at no latency" in words(question, found)
    assert len(told) == num_runs(question)


def test_no_swarm_is_faster_than_a_fast_machine() -> None:
    question = replace(QUICK, alone=5000.0)
    found = answer(question)
    assert found.alone_to_ms is None and "no swarm of these machines is faster" in words(question, found)


def test_this_machine_takes_the_layers_that_are_missing_most() -> None:
    question = replace(QUICK, mine=Machine(fixed_ms=15, slope_ms=1.5))
    assert layers_for(question) == (0, 2)
    [shards] = question.shards
    two_of_the_first = replace(question, shards=(shards, replace(shards, count=1, stages=1, layers="0:2")))
    assert layers_for(two_of_the_first) == (2, 4)


def test_a_live_swarm_becomes_a_question() -> None:
    alice, bob = record("alice", "shard", (0, 3)), record("bob", "drafter", (0, 6))
    carol = record("carol", "shard", (3, 6), (RoundTrip(alice.peer_id[:ID_PREFIX_BYTES], 8.0),))
    gone = record("dave", "shard", (3, 6))
    rtt_s = {alice.peer_id: 0.02, bob.peer_id: 0.03, carol.peer_id: 0.05}
    question = question_of([alice, bob, carol, gone], rtt_s, Pair(acceptance=0.7))
    names = {one: short_id(one.peer_id) for one in (alice, bob, carol)}
    assert [group.layers for group in question.shards] == ["0:3", "3:6"] and len(question.drafters) == 1
    links = question.links
    assert links.of(HOME, names[carol]).latency_s == pytest.approx(0.0255), (
        "half a round trip, and the engine's process"
    )
    assert links.of(names[alice], names[carol]).latency_s == pytest.approx(0.0045), "measured"
    assert links.of(names[bob], names[alice]).latency_s == pytest.approx(0.0155), "the longer way"
    found = answer(replace(question, reply_tokens=20))
    assert found.speeds["plain"] > 1
    assert question.crowded and "at one address" in words(question, found)
    with pytest.raises(NoPipeline, match="no drafter"):
        question_of([alice, carol], rtt_s, Pair())

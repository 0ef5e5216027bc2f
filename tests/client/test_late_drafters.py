"""Alice knows nobody here, and whom she asks first is mute: in a fast swarm that is seen soon, in a slow one not sooner
than it is so."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from dsdnode.client.client import Client
from dsdnode.client.patience import ASIDE_S, MARGIN_S
from dsdnode.client.usual import LEAST_S, MANY, ROUNDS, UsualPass
from dsdnode.config import DEFAULT_PATIENCE_S, STILL_S
from dsdnode.errors import NoPipeline, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.swarm.pings import PING_TIMEOUT_S
from dsdnode.wire import replies
from dsdnode.wire.records import ProviderRecord
from tests.client.test_drafters import ask_first
from tests.client.test_failed_once import asked_of
from tests.client.test_slow_drafters import drips, read
from tests.client.test_trust import ring
from tests.node.mallory import EXPECTED, REQUEST, id_of
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import story
from tests.node.test_waits import Listener, excuses, lies, nothing, now
from tests.wire.test_records import OFFER

FAST_S, SLOW_S = 0.01, 0.3
"""A pass of one position."""


def of(network: str, fixed_ms: float, slope_ms: float = 0.0, queue: float = 0.0, end: int = 4) -> ProviderRecord:
    return structs.replace(
        OFFER, addresses=(f"tcp://{network}:4000",), role="shard", start=0, end=end, num_layers=8,
        fixed_ms=fixed_ms, slope_ms=slope_ms, queue=queue,
    )  # fmt: skip


def network_of(shard: ProviderRecord) -> str:
    return shard.addresses[0]


def test_what_is_usual_is_the_middle_network_s_whatever_a_thousand_names_in_one_say() -> None:
    honest = [of("alice", 10.0), of("bob", 20.0), of("carol", 30.0)]
    crowd = [of("mallory", 0.001)] * 1000
    for shards in (honest, [*honest[:2], *crowd, honest[2]]):
        usual = UsualPass.of(shards, 8, network_of)
        assert usual is not None
        assert usual.cost.at(1) == pytest.approx(0.04)
        assert usual.num_stages == 2


def test_who_has_measured_nothing_says_nothing() -> None:
    assert UsualPass.of([of("alice", 0.0)], 8, network_of) is None
    usual = UsualPass.of([of("alice", 0.0), of("bob", 20.0, end=8)], 8, network_of)
    assert usual is not None and usual.cost.at(1) == pytest.approx(0.02) and usual.num_stages == 1


def test_long_prompts_far_peers_and_those_at_work_take_longer() -> None:
    usual = UsualPass.of([of("alice", 10.0, 1.0)], 8, network_of)
    busy = UsualPass.of([of("alice", 10.0, 1.0, queue=3.0)], 8, network_of)
    assert usual is not None and busy is not None
    assert usual.late_s(0, 0.0) == pytest.approx(LEAST_S + MANY * 0.02)
    assert usual.late_s(100, 0.0) == pytest.approx(LEAST_S + MANY * 0.22)
    assert usual.late_s(0, 0.1) == pytest.approx(LEAST_S + MANY * (0.02 + (ROUNDS + 2) * 0.1))
    assert busy.late_s(100, 0.0) == pytest.approx(LEAST_S + MANY * 4 * 0.22)


async def stranger(swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch, *order: str) -> Client:
    alice = await swarm.client()
    alice._drafters.joined = ()
    ask_first(monkeypatch, swarm, *order)
    return alice


@pytest.mark.parametrize("speaks", [nothing, excuses])
@pytest.mark.parametrize(("cost_s", "least_s", "most_s"), [(FAST_S, 0.3, 1.5), (SLOW_S, 1.5, 6 * ASIDE_S)])
def test_who_is_mute_holds_a_stranger_up_as_long_as_a_reply_may_take_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaks: object, cost_s: float, least_s: float, most_s: float
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        await lies(swarm, speaks)  # type: ignore[arg-type]
        alice, listener, began_s = await stranger(swarm, monkeypatch, "mallory", "dora"), Listener(), now()
        first_s: list[float] = []
        async for _ in alice.generate(REQUEST, listener.told):
            first_s.append(now() - began_s)
        assert least_s < first_s[0] < most_s

    story(tmp_path, tell, cost=lambda num: cost_s)


def test_who_drips_from_the_start_is_left_in_a_second_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        await drips(swarm, every_s=1.9)
        alice = await stranger(swarm, monkeypatch, "mallory", "dora")
        tokens, _, took_s, recoveries = await read(alice)
        assert (tokens, recoveries) == (EXPECTED, 1)
        assert took_s < ASIDE_S

    story(tmp_path, tell, cost=lambda num: FAST_S)


@pytest.mark.parametrize("cost_s", [FAST_S, SLOW_S])
def test_nobody_is_asked_beside_an_honest_drafter_however_slow_the_swarm_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost_s: float
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        asked = await lies(swarm, nothing)
        alice = await stranger(swarm, monkeypatch, "dora", "mallory")
        listener = Listener()
        await listener.read(alice)
        assert (listener.tokens, asked) == (EXPECTED, [])

    story(tmp_path, tell, cost=lambda num: cost_s)


def test_who_gave_a_reply_before_has_all_the_time_that_it_may_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dora's swarm is suddenly busy, and each reply that is asked for twice makes it busier."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        asked = await lies(swarm, nothing)
        alice = await stranger(swarm, monkeypatch, "dora", "mallory")
        request = replace(REQUEST, prompt_tokens=tuple(range(1, 41)))
        await Listener().read(alice, request)
        prompt_s[0] = 2.0
        await Listener().read(alice, request)
        assert asked == []

    prompt_s = [FAST_S]
    story(tmp_path, tell, cost=lambda num: prompt_s[0] if num > 16 else FAST_S)


def test_the_next_one_is_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory has three names in one network, and the lots fell to all of them."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        names = [f"mallory{number}" for number in range(3)]
        asked = [await lies(swarm, nothing, name=name) for name in names]
        alice = await stranger(swarm, monkeypatch, *names, "dora")
        dora = swarm.members["dora"].node.peer_id
        monkeypatch.setattr(
            alice._drafters, "_network_of", lambda one: "hers" if one.peer_id != dora else "dora's", raising=True
        )
        listener = Listener()
        await listener.read(alice)
        assert (listener.tokens, [len(one) for one in asked]) == (EXPECTED, [1, 0, 0])

    story(tmp_path, tell, cost=lambda num: FAST_S)


async def made_up(swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch, num: int, others: bool = True) -> Client:
    """Alice, where mallory has made up so many drafters, each in another network, where no call is ever answered."""
    alice = await stranger(swarm, monkeypatch)
    await asyncio.sleep(5)
    nobody = [Identity(b"%32d" % number) for number in range(num)]
    names = frozenset(one.peer_id for one in nobody)
    records, ping = alice._drafters._records, alice._rpc.ping

    async def more(max_age_s: float = 0.0, *, thorough: bool = False) -> list[ProviderRecord]:
        [dora] = [one for one in await records(thorough=thorough) if one.role == "drafter"]
        places = [(f"tcp://20.{number >> 8}.{number & 255}.1:4000",) for number in range(num)]
        boasts = [
            structs.replace(dora, public_key=one.public_key, addresses=place)
            for one, place in zip(nobody, places, strict=True)
        ]
        return [*boasts, *([dora] if others else [])]

    async def into_the_dark(peer: bytes, *, timeout_s: float) -> float:
        if peer not in names:
            return await ping(peer, timeout_s=timeout_s)
        await asyncio.sleep(timeout_s)
        raise PeerUnavailable("no answer")

    monkeypatch.setattr(alice._drafters, "_records", more)
    monkeypatch.setattr(alice._rpc, "ping", into_the_dark)
    monkeypatch.setattr("dsdnode.client.drafters.by_lot", lambda drafters, *_: drafters)
    return alice


def test_of_records_of_nobody_a_handful_is_tried_and_then_who_has_answered_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice = await made_up(swarm, monkeypatch, 100)
        listener, began_s = Listener(), now()
        await listener.read(alice)
        assert listener.tokens == EXPECTED
        assert now() - began_s < 2 * PING_TIMEOUT_S

    story(tmp_path, tell)


def test_where_there_are_records_of_nobody_alone_alice_hears_so_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice = await made_up(swarm, monkeypatch, 640, others=False)
        listener, began_s = Listener(), now()
        with pytest.raises(NoPipeline, match="do not answer"):
            await listener.read(alice)
        assert now() - began_s < DEFAULT_PATIENCE_S + MARGIN_S + 2 * PING_TIMEOUT_S
        assert "do not answer" in listener.words[0] and listener.first_word_s - began_s < 2 * STILL_S

    story(tmp_path, tell)


def test_who_has_vanished_since_he_was_looked_for_is_not_asked_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mortimer answered when alice looked who is there, and is gone when mallory turns out to be mute."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        await lies(swarm, nothing)
        asked = await lies(swarm, nothing, name="mortimer")
        alice = await stranger(swarm, monkeypatch, "mallory", "mortimer", "dora")
        mortimer = swarm.members["mortimer"].node.peer_id

        began_s, listener = now(), Listener()
        ping = alice._pings.ping

        async def pinged(peer: bytes, timeout_s: float = PING_TIMEOUT_S) -> float:
            if peer == mortimer and now() > began_s + 0.2:
                await asyncio.sleep(timeout_s)
                raise PeerUnavailable("nothing is acknowledged")
            return await ping(peer, timeout_s)

        monkeypatch.setattr(alice._pings, "ping", pinged)
        await listener.read(alice)
        assert (listener.tokens, asked) == (EXPECTED, [])

    story(tmp_path, tell, cost=lambda num: FAST_S)


@pytest.mark.parametrize("vanishes", [True, False])
def test_beside_one_that_answers_no_ping_another_is_asked_at_once_however_trusted_she_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vanishes: bool
) -> None:
    """Alice joined dora, whose pipeline takes its time. Her machine vanishes as soon as she has accepted, or it does
    not."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan")
        dora, dan, alice = swarm.members["dora"].node, swarm.members["dan"], await swarm.client()
        alice._drafters.joined = [dora.peer_id]
        ask_first(monkeypatch, swarm, "dora", "dan")
        way, asked = frozenset((id_of(alice), dora.peer_id)), asked_of(dan)
        generate = dora.rpc._on_request[replies.Generate]

        async def accept(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
            if vanishes:
                asyncio.get_running_loop().call_later(0.05, swarm.hub.cuts.add, way)  # type: ignore[attr-defined]
            return await generate(peer, message, buffers)

        dora.rpc.on_request(replies.Generate, accept)
        first_s, began_s = list[float](), now()
        async for _ in alice.generate(REQUEST):
            first_s.append(now() - began_s)
        assert len(asked) == vanishes
        assert not vanishes or first_s[0] < ASIDE_S

    story(tmp_path, tell, cost=lambda num: SLOW_S)

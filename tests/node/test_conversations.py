"""Alice's conversation goes on: what her swarm has cached of it is not computed again, and is in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.engine.fake import fake_text
from dsdnode.node.drafter import conversations, routes
from dsdnode.node.drafter.attempt import Attempt
from dsdnode.node.shard import sessions
from dsdnode.node.status import Sessions
from dsdnode.placement.pipelines import View, choose_pipeline
from dsdnode.speculation.sampling import Sampling
from dsdnode.swarm.catalogue import models_of
from tests.node.swarm import TARGET, FakeSwarm, tokens_of
from tests.node.test_drafter_host import all_free, some, story
from tests.placement.offers import shard

FIRST = tuple(range(3, 43))
"""A prompt of 40 tokens."""
MORE = (7, 21, 33, 54, 11)


def request(
    prompt: tuple[int, ...], *, temperature: float = 0.0, seed: int = 0, max_tokens: int = 30
) -> GenerateRequest:
    return GenerateRequest(
        prompt_tokens=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        window="hedged:2:8:2",
        keep=True,
    )


def alone(asked: GenerateRequest) -> list[int]:
    """What the whole model would say."""
    assert asked.prompt_tokens is not None
    sampling = Sampling(temperature=asked.temperature, seed=asked.seed)
    text = fake_text(TARGET, asked.prompt_tokens, asked.max_tokens, sampling)
    return text[: text.index(0)] if 0 in text else text


async def ring(swarm: FakeSwarm, **options: Any) -> None:
    await swarm.add("dora", drafts=True)
    await swarm.add("sam", layers=(0, 2), **options)
    await swarm.add("sue", layers=(2, 4), **options)


async def turn(client: Client, asked: GenerateRequest) -> int:
    """A reply, as it must be; returns how much of the prompt was reused."""
    tokens, finished = await tokens_of(client, asked)
    assert tokens == alone(asked)
    assert finished.stats.accepted > 0  # drafts that follow the line
    assert finished.stats.prompt_tokens == len(asked.prompt_tokens or ())
    reused = finished.stats.prompt_tokens_reused
    assert isinstance(reused, int)
    return reused


def counts(swarm: FakeSwarm) -> dict[str, int]:
    """Positions that each engine has run so far."""
    found = {}
    for name, member in swarm.members.items():
        for engine in (member.shard, member.draft):
            if engine is not None:
                found[name] = engine.num_positions_run
    return found


@pytest.mark.parametrize("then", [(0.0, 0), (0.8, 0), (0.8, 5)])
@pytest.mark.parametrize("before", [(0.0, 0), (0.8, 5)])
def test_the_next_turn_runs_only_what_is_new_whoever_draws(
    tmp_path: Path, before: tuple[float, int], then: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against somebody's who asks the same for the first time (and is lent nothing: test_shared.py)."""
    monkeypatch.setattr(sessions, "SHARED_STEP", 1 << 20)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        line = FIRST
        for index, (temperature, seed) in enumerate((before, then, before)):
            asked = request(line, temperature=temperature, seed=seed)
            at = counts(swarm)
            reused = await turn(alice, asked)
            run = {name: number - at[name] for name, number in counts(swarm).items()}
            expected = alone(asked)
            if index:
                assert reused >= len(line) - len(MORE) - 1
                plain = replace(asked, keep=False)
                at = counts(swarm)
                assert await turn(await swarm.client(), plain) == 0
                fresh = {name: number - at[name] for name, number in counts(swarm).items()}
                for name, number in run.items():
                    assert number <= fresh[name] - reused + 24, name  # drafts in flight differ by luck
            line = (*line, *expected, *MORE)

    story(tmp_path, tell)


def test_a_line_that_parts_from_the_last_one_is_reused_up_to_there(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await turn(alice, request(FIRST))
        said = alone(request(FIRST))
        other = (said[10] + 1) % 90 + 1
        assert await turn(alice, request((*FIRST, *said[:10], other, *MORE))) == len(FIRST) + 10
        assert await turn(alice, request(FIRST)) == len(FIRST) - 1  # the same question again
        assert await turn(alice, request((*MORE, *FIRST))) == 0

    story(tmp_path, tell)


def hurt_worker(swarm: FakeSwarm) -> None:
    engine = swarm.members["sue"].shard
    assert engine is not None
    engine.die()


def hurt_draft(swarm: FakeSwarm) -> None:
    engine = swarm.members["dora"].draft
    assert engine is not None
    engine.die()


@pytest.mark.parametrize(("hurt", "share"), [(hurt_worker, 0.0), (hurt_draft, 1.0)])
def test_what_dies_between_the_turns_is_filled_again(
    tmp_path: Path, hurt: Callable[[FakeSwarm], None], share: float
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await turn(alice, request(FIRST))
        hurt(swarm)
        line = (*FIRST, *alone(request(FIRST)))
        reused = await turn(alice, request((*line, *MORE), temperature=0.8))
        assert (reused >= len(line) - 1) if share else (reused == 0)

    story(tmp_path, tell)


def test_a_stage_is_replaced_between_the_turns(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await turn(alice, request(FIRST))
        await swarm.kill("sue")
        await swarm.add("sol", layers=(2, 4))
        line = (*FIRST, *alone(request(FIRST)), *MORE)
        assert await turn(alice, request(line)) == 0
        assert await turn(alice, request((*line, *alone(request(line)), *MORE))) >= len(line)

    story(tmp_path, tell)


def test_the_peers_that_have_the_cache_are_asked_again_though_others_are_as_good(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=2)
        alice, line = await swarm.client(), FIRST
        await turn(alice, request(line))
        for name in ("sid", "sven", "saul"):
            await swarm.add(name, layers=(0, 2))
        await swarm.add("sol", layers=(2, 4))
        for _ in range(2):
            line = (*line, *alone(request(line)), *MORE)
            assert await turn(alice, request(line)) >= len(line) - len(MORE) - 1

    story(tmp_path, tell)


@pytest.mark.parametrize(("ms", "stays"), [(9.0, True), (4.0, False)])
def test_a_pipeline_in_place_is_left_only_for_one_that_is_much_faster(ms: float, stays: bool) -> None:
    mine = [shard(1, 0, 4, fixed_ms=10.0, free=0), shard(2, 4, 8, fixed_ms=10.0)]
    others = [shard(3, 0, 4, fixed_ms=ms), shard(4, 4, 8, fixed_ms=ms)]
    [model] = models_of([*mine, *others])
    view = View.of({record.peer_id: 0.0 for record in [*mine, *others]})
    held = [record.peer_id for record in mine]
    places = Attempt(set(), choose_pipeline).choose(model, [*mine, *others], view, held)
    assert ([place.peer for place in places] == held) == stays
    avoiding = Attempt({held[0]}, choose_pipeline).choose(model, [*mine, *others], view, held)
    assert held[0] not in [place.peer for place in avoiding]


def test_bob_gets_nothing_of_what_alice_asked(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, bob = await swarm.client(), await swarm.client()
        await turn(alice, request(FIRST))
        assert await turn(bob, request(FIRST)) == 0
        assert await turn(alice, replace(request(FIRST), keep=False)) == 0
        assert await turn(alice, request(FIRST)) == len(FIRST) - 1

    story(tmp_path, tell)


def test_whoever_is_parked_makes_room(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=1)
        alice, bob = await swarm.client(), await swarm.client()
        await turn(alice, request(FIRST))
        began_s = asyncio.get_running_loop().time()
        await turn(bob, request(MORE * 5))
        fresh_s = asyncio.get_running_loop().time() - began_s
        assert fresh_s < routes.RETRY_S + 5  # not as long as anybody's patience
        line = (*FIRST, *alone(request(FIRST)), *MORE)
        assert await turn(alice, request(line)) == 0
        assert await turn(alice, request(line)) == len(line) - 1

    story(tmp_path, tell)


def test_parked_caches_count_as_free_and_go_with_their_time_or_their_client(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await turn(alice, request(FIRST))
        assert not any(member.node.status().sessions != Sessions() for member in swarm.members.values())
        sam = swarm.members["sam"].shard
        assert sam is not None and sam.num_cells >= len(FIRST)
        await asyncio.sleep(conversations.PARKED_S + 1)
        await all_free(swarm, within_s=1)
        await turn(alice, request(FIRST))
        assert sam.num_cells
        await alice.close()
        swarm.clients.remove(alice)
        await asyncio.sleep(5)
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


@pytest.mark.parametrize("leaving", ["dora", "sam"])
def test_nobody_waits_for_the_parked_when_it_leaves(tmp_path: Path, leaving: str) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await swarm.add("sid", layers=(0, 2))
        alice = await swarm.client()
        await turn(alice, request(FIRST))
        async with asyncio.timeout(1):
            await swarm.members[leaving].node.drain()
        await asyncio.sleep(1)
        engine = swarm.members["sam"].shard
        assert engine is not None and engine.num_cells == 0

    story(tmp_path, tell)


def test_several_conversations_of_one_client_are_told_apart(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        gateway = await swarm.client()
        lines = [tuple((3 * n + 7 * i) % 96 + 1 for n in range(30)) for i in range(6)]
        for line in lines:
            assert await turn(gateway, request(line)) == 0
        reused = [await turn(gateway, request((*line, *alone(request(line)), *MORE))) for line in reversed(lines)]
        assert all(number >= 30 for number in reused)

    story(tmp_path, tell)


def test_a_reply_cut_short_is_gone_on_from(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        events = alice.generate(request(FIRST, max_tokens=400, temperature=0.8))
        said = await some(events, 12)
        await events.aclose()
        await asyncio.sleep(1)
        assert await turn(alice, request((*FIRST, *said, *MORE))) >= len(FIRST) + 12

    story(tmp_path, tell)


def test_turns_that_come_at_once_do_not_meet(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await turn(alice, request(FIRST))
        both = [request((*FIRST, *alone(request(FIRST)), *MORE), temperature=0.8, seed=seed) for seed in (1, 2)]
        reused = await asyncio.gather(*(turn(alice, asked) for asked in both))
        assert sorted(reused)[0] == sessions.SHARED_STEP < sorted(reused)[1], "a copy, in whole steps"

    story(tmp_path, tell)

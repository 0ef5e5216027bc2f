"""Whole swarms in virtual time, hurt at random moments: alice and the others get the right text or a clean word, and
nothing is left behind anywhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.engine.fake import fake_text
from dsdnode.errors import NoPipeline, Overloaded, PeerUnavailable
from dsdnode.node.shard.sessions import SEQUENCES_PER_SESSION
from dsdnode.node.status import Sessions
from dsdnode.speculation.sampling import Sampling
from tests.node import jumping
from tests.node.rough import RoughHub
from tests.node.swarm import TARGET, FakeSwarm, Member, fake_swarm

pytestmark = pytest.mark.slow

NUM_SEEDS = 25
LEASE_S = 60.0
RANGES = ((0, 2), (2, 4))


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finished: Finished | None = None
    error: Exception | None = None


async def ask(client: Client, request: GenerateRequest) -> Outcome:
    outcome = Outcome()
    try:
        async with contextlib.aclosing(client.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    outcome.finished = event
                else:
                    outcome.tokens += event.tokens
                    outcome.text += event.text
    except (NoPipeline, Overloaded, PeerUnavailable) as error:
        outcome.error = error
    except asyncio.CancelledError:
        pass  # her Ctrl-C
    return outcome


def check(request: GenerateRequest, outcome: Outcome) -> None:
    expected = fake_text(TARGET, request.prompt_tokens or (), request.max_tokens, Sampling(0.5, seed=request.seed))
    if 0 in expected:
        expected = expected[: expected.index(0)]
    text = "".join(chr(32 + token) for token in expected)
    if outcome.finished is None:
        assert outcome.tokens == expected[: len(outcome.tokens)]
        assert text.startswith(outcome.text)
        return
    [stop] = request.stop
    if stop in text:
        assert outcome.text == text[: text.index(stop)]
        assert outcome.finished.reason == "stop"
    else:
        assert (outcome.tokens, outcome.text) == (expected, text)
        assert outcome.finished.reason in ("stop", "length")
    assert outcome.finished.stats.completion_tokens == len(outcome.tokens)
    assert outcome.finished.stats.prompt_tokens == len(request.prompt_tokens or ())


class Nemesis:
    """Picks what goes wrong next."""

    def __init__(self, swarm: FakeSwarm, hub: RoughHub, asks: list[asyncio.Task[Outcome]], rng: Random) -> None:
        self.swarm, self.hub, self.asks, self.rng = swarm, hub, asks, rng
        self.num_added = 0
        self.deeds: list[str] = []

    async def rage(self, num_deeds: int) -> None:
        for _ in range(num_deeds):
            await asyncio.sleep(self.rng.expovariate(6))
            deed: Callable[[], Awaitable[None]] = self.rng.choice(
                [self.kill, self.join, self.engine_dies, self.engine_dies, self.cut, self.cut, self.leave, self.drain]
            )
            self.deeds.append(deed.__name__)
            await deed()

    def member(self) -> tuple[str, Member]:
        return self.rng.choice(sorted(self.swarm.members.items(), key=lambda item: item[0]))

    async def kill(self) -> None:
        name, _ = self.member()
        if len(self.swarm.members) > 2:
            await self.swarm.kill(name)

    async def join(self) -> None:
        self.num_added += 1
        layers = self.rng.choice([*RANGES, None])
        with contextlib.suppress(PeerUnavailable):
            await self.swarm.add(f"new {self.num_added}", layers=layers, drafts=layers is None, max_sessions=2)

    async def engine_dies(self) -> None:
        _, member = self.member()
        for engine in (member.shard, member.draft):
            if engine is not None:
                engine.die()

    async def cut(self) -> None:
        everybody = sorted(self.hub.transports)
        cut = frozenset(self.rng.sample(everybody, 2))
        self.hub.cuts.add(cut)
        asyncio.get_running_loop().call_later(self.rng.uniform(0.1, 8), self.hub.cuts.discard, cut)

    async def leave(self) -> None:
        """A client's Ctrl-C."""
        self.rng.choice(self.asks).cancel()

    async def drain(self) -> None:
        """SIGTERM: the replies in progress are finished first."""
        name, member = self.member()
        if len(self.swarm.members) > 2:
            del self.swarm.members[name]
            self.swarm.dead.append(member)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30):
                    await member.node.drain()
            await member.node.close()


async def settle(members: list[Member], limit_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while any(member.node.status().sessions != Sessions() for member in members):
        assert loop.time() < deadline, [member.node.status().sessions for member in members]
        await asyncio.sleep(0.5)


def assert_nothing_is_held(member: Member) -> None:
    stage, drafter = member.node._stage, member.node._drafter
    if stage is not None:
        assert sorted(stage._sessions._free) == list(range(2 * SEQUENCES_PER_SESSION)), "sequences"
        assert not stage._batcher.num_waiting and not stage._owners._checks
    if drafter is not None:
        assert sorted(drafter._conversations._free) == [0, 1]
        assert not drafter._by_session and not drafter._batcher.num_waiting
    for engine in (member.shard, member.draft):
        assert engine is None or engine.num_cells == 0


async def ordeal(seed: int, folder: Path) -> tuple[list[Outcome], list[str]]:
    rng = Random(seed)
    hub = RoughHub()
    async with fake_swarm(folder, hub=hub, cost=lambda num: 0.01 + 0.002 * num) as swarm:
        await swarm.add("dora", drafts=True, max_sessions=2)
        await swarm.add("dan", drafts=True, max_sessions=2)
        for i in range(4):
            await swarm.add(f"sam {i}", layers=RANGES[i % 2], max_sessions=2)
        clients = [await swarm.client() for _ in range(3)]
        asks, requests = [], []
        for number, client in enumerate(clients):
            requests.append(
                GenerateRequest(
                    prompt_tokens=tuple(rng.randrange(1, 97) for _ in range(rng.choice((1, 5, 300)))),
                    max_tokens=rng.choice((1, 60, 150)),
                    temperature=0.5,
                    seed=seed + number,
                    draft_max=rng.choice((0, 1, 4, 8)),
                    stop=("ab" if rng.random() < 0.5 else chr(rng.randrange(33, 128)),),
                )
            )
            asks.append(asyncio.create_task(ask(client, requests[-1])))
        nemesis = Nemesis(swarm, hub, asks, rng)
        async with asyncio.timeout(900):
            await nemesis.rage(9)
            outcomes = await asyncio.gather(*asks, return_exceptions=True)
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                continue
            assert isinstance(outcome, Outcome), repr(outcome)
            check(request, outcome)
        hub.cuts.clear()
        members = list(swarm.members.values())
        await settle(members, LEASE_S + 5)
        await asyncio.sleep(1)
        for member in members:
            assert_nothing_is_held(member)
        assert not any(client._askings.inboxes for client in clients)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left
    return [outcome for outcome in outcomes if isinstance(outcome, Outcome)], nemesis.deeds


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_the_right_text_or_a_clean_word_and_nothing_is_left(seed: int, tmp_path: Path) -> None:
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        await ordeal(seed, tmp_path)

    with structlog.testing.capture_logs() as logs:
        jumping.run(watched())
    assert not complaints
    assert not [entry for entry in logs if entry["log_level"] in ("error", "critical")]

"""Whose work ended an engine: mallory's is stopped after the second time, alice and bob get their text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.engine.fake import FakeEngine, FakeModel, FakeTextEngine, fake_text
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import DsdError, NoPipeline, PeerMisbehaved, WorkerDied, WorkFailed
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.batching.culprits import REMEMBER_S, Culprits
from dsdnode.speculation.sampling import Sampling
from dsdnode.wire.messages import MAX_KILLED
from tests.node import jumping
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm, tokens_of

ALICE, BOB, MALLORY = b"alice", b"bob", b"mallory"
SEED, TOKEN = 66, 66
"""Of mallory's requests."""


# --- who is marked


def test_of_several_each_is_marked_and_nobody_is_named() -> None:
    culprits = Culprits()
    assert culprits.mark({ALICE: 10, MALLORY: 20}, 0.0) is None
    assert culprits.is_marked(ALICE, 0.0) and culprits.is_marked(MALLORY, 0.0) and not culprits.is_marked(BOB, 0.0)
    culprits.passed(ALICE, 9)
    assert culprits.is_marked(ALICE, 0.0)
    culprits.passed(ALICE, 10)
    assert not culprits.is_marked(ALICE, 0.0)
    assert culprits.mark({MALLORY: 20}, 1.0) == MALLORY
    assert culprits.is_refused(MALLORY, 1.0) and not culprits.is_refused(ALICE, 1.0)


def test_whose_work_shared_two_deaths_is_not_refused_for_it() -> None:
    culprits = Culprits()
    for now in (0.0, 1.0, 2.0):
        assert culprits.mark({ALICE: 10, BOB: 10}, now) is None
    assert not culprits.is_refused(ALICE, 2.0)


def test_a_death_of_nobody_s_work_marks_nobody() -> None:
    assert Culprits().mark({}, 0.0) is None


def test_nobody_is_refused_for_ever_and_no_further_run_ends_a_refusal() -> None:
    culprits = Culprits()
    for _ in range(MAX_KILLED):
        assert culprits.mark({MALLORY: 5}, 0.0) == MALLORY
    culprits.passed(MALLORY, 1000)
    assert culprits.is_refused(MALLORY, REMEMBER_S - 1)
    assert not culprits.is_refused(MALLORY, REMEMBER_S)
    assert culprits.mark({MALLORY: 5}, REMEMBER_S) == MALLORY and not culprits.is_refused(MALLORY, REMEMBER_S)


# --- whose work runs alone


class Watched(FakeEngine):
    def __init__(self, **options: Any) -> None:
        super().__init__(FakeModel(), **options)
        self.decodes: list[set[int]] = []

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        self.decodes.append({chunk.sequence for chunk in chunks})
        return await super().forward(chunks)


def chunk(sequence: int, position: int = 0) -> Chunk:
    return Chunk(sequence, position, np.array([1, 2], np.int32), 1, Sampling())


async def results_of(batcher: Batcher, chunks: Sequence[tuple[Chunk, bytes]]) -> list[Output | DsdError | None]:
    """What became of each, by sequence; all were asked for at once."""
    got: dict[int, Output | DsdError | None] = {}
    over = asyncio.Event()
    for one, owner in chunks:

        def done(result: Output | DsdError | None, sequence: int = one.sequence) -> None:
            got[sequence] = result
            if len(got) == len(chunks):
                over.set()

        batcher.run(one, done, owner=owner)
    async with asyncio.timeout(5):
        await over.wait()
    return [got[one.sequence] for one, _ in chunks]


async def test_a_suspect_runs_alone_in_turn_with_the_others_until_it_is_past_that_place() -> None:
    engine = Watched()
    engine._deadly = lambda chunk: chunk.sequence == 2 and engine.num_deaths < 2
    batcher = Batcher(engine)
    told: list[object] = []
    batcher.on_lost(told.append)
    batcher.start()
    work = [(chunk(0), ALICE), (chunk(1), BOB), (chunk(2), MALLORY)]
    assert not any(isinstance(one, Output) for one in await results_of(batcher, work))
    assert told == [None]
    assert isinstance((await results_of(batcher, [(chunk(3), b"carol"), *work]))[0], Output)
    assert told == [None, MALLORY]
    before, mallory = engine.decodes[:1], engine.decodes.index({2})
    assert before == [{0, 1, 2}] and all(len(decode) == 1 for decode in engine.decodes[1:])
    assert mallory <= 5  # and nobody waits for ever
    now = asyncio.get_running_loop().time()
    assert batcher.culprits.is_refused(MALLORY, now)
    again = [(chunk(0, engine.length(0)), ALICE), (chunk(1, engine.length(1)), BOB)]
    assert all(isinstance(one, Output) for one in await results_of(batcher, again))
    await batcher.close()


async def test_whose_run_was_done_is_no_suspect_any_more() -> None:
    """Alice shared a death with mallory: that is behind her."""
    engine = Watched()
    engine._deadly = lambda chunk: chunk.sequence == 2 and engine.num_deaths == 0
    batcher = Batcher(engine)
    batcher.start()
    await results_of(batcher, [(chunk(0), ALICE), (chunk(2), MALLORY)])
    await results_of(batcher, [(chunk(0), ALICE)])
    now = asyncio.get_running_loop().time()
    assert not batcher.culprits.is_marked(ALICE, now) and batcher.culprits.is_marked(MALLORY, now)
    await batcher.close()


@pytest.mark.parametrize("error", [WorkFailed("no"), PeerMisbehaved("no"), ValueError("a bug"), IndexError()])
async def test_what_cannot_be_done_fails_alone(error: Exception) -> None:
    class Picky(Watched):
        async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
            if any(chunk.sequence == 2 for chunk in chunks):
                self.decodes.append({chunk.sequence for chunk in chunks})
                raise error
            return await super().forward(chunks)

    engine = Picky()
    batcher = Batcher(engine)
    batcher.start()
    got = await results_of(batcher, [(chunk(0), ALICE), (chunk(2), MALLORY), (chunk(1), BOB)])
    assert [type(one) for one in got] == [Output, type(error) if isinstance(error, DsdError) else WorkFailed, Output]
    now = asyncio.get_running_loop().time()
    assert [batcher.culprits.is_marked(owner, now) for owner in (ALICE, BOB, MALLORY)] == [False, False, True]
    await batcher.close()


# --- whole swarms

REQUEST = GenerateRequest(prompt_tokens=(5, 17, 42, 8), max_tokens=40, seed=3, temperature=0.5, draft_max=4)
EXPECTED = fake_text(TARGET, REQUEST.prompt_tokens or (), 40, Sampling(0.5, seed=3))
POISON = replace(REQUEST, prompt_tokens=(5, TOKEN, 8), seed=SEED)


def at_the_first(chunk: Chunk) -> bool:
    """Her prompt's second token. (The same one further on is anybody's.)"""
    tokens = chunk.inputs[: max(0, 2 - chunk.position)]
    return tokens.ndim == 1 and TOKEN in tokens


def at_the_judge(chunk: Chunk) -> bool:
    return chunk.sampling is not None and chunk.sampling.seed == SEED and chunk.position + len(chunk.inputs) > 2


Story = Callable[[FakeSwarm], Coroutine[Any, Any, None]]


def told(folder: Path, story: Story, cost: float = 0.002) -> None:
    async def tell() -> None:
        async with fake_swarm(folder, cost=lambda num: cost) as swarm:
            await story(swarm)

    jumping.run(tell())


async def ring(swarm: FakeSwarm, num_replicas: int, kind: str, deadly: Callable[[Chunk], bool]) -> None:
    """Dora drafts; each half of the layers is hosted so many times, and dies of, or cannot do, mallory's work."""
    await swarm.add("dora", drafts=True)
    for number in range(num_replicas):
        for name, layers in (("sam", (0, 2)), ("sue", (2, 4))):
            member = await swarm.add(f"{name} {number}", layers=layers)
            setattr(member.shard, kind, deadly)


def deaths(swarm: FakeSwarm) -> int:
    return sum(member.shard.num_deaths for member in swarm.members.values() if member.shard)


async def words(client: Client, request: GenerateRequest) -> str:
    with pytest.raises(NoPipeline) as error:
        await tokens_of(client, request)
    assert error.value.exit_code == 4
    return str(error.value)


@pytest.mark.parametrize("num_replicas", [1, 3])
@pytest.mark.parametrize("kind", ["_deadly", "_broken"])
@pytest.mark.parametrize("where", [at_the_first, at_the_judge])
def test_a_reply_that_two_engines_died_of_is_not_carried_to_a_third(
    tmp_path: Path, where: Callable[[Chunk], bool], kind: str, num_replicas: int
) -> None:
    async def story(swarm: FakeSwarm) -> None:
        await ring(swarm, num_replicas, kind, where)
        mallory, alice = await swarm.client(), await swarm.client()
        assert "2 engines died of this reply" in await words(mallory, POISON)
        assert deaths(swarm) == (2 if kind == "_deadly" else 0)
        assert (await tokens_of(alice, REQUEST))[0] == EXPECTED
        assert deaths(swarm) == (2 if kind == "_deadly" else 0)

    told(tmp_path, story)


@pytest.mark.parametrize("kind", ["_deadly", "_broken"])
@pytest.mark.parametrize("where", [at_the_first, at_the_judge])
def test_alice_and_bob_beside_it_get_their_text(tmp_path: Path, where: Callable[[Chunk], bool], kind: str) -> None:
    """All in the same decodes, at the only replica: the innocent are not taken for the culprit."""

    async def story(swarm: FakeSwarm) -> None:
        await ring(swarm, 1, kind, where)
        alice, bob, mallory = [await swarm.client() for _ in range(3)]
        replies = [asyncio.create_task(tokens_of(client, REQUEST)) for client in (alice, bob)]
        assert "died" in await words(mallory, POISON)
        assert [tokens for tokens, _ in await asyncio.gather(*replies)] == [EXPECTED, EXPECTED]
        assert deaths(swarm) <= 3

    told(tmp_path, story, cost=0.02)


def test_deaths_that_are_far_apart_do_not_end_a_reply(tmp_path: Path) -> None:
    """Somebody kills workers, whatever they do: the reply has got further in between."""

    async def story(swarm: FakeSwarm) -> None:
        await ring(swarm, 1, "_deadly", lambda chunk: False)
        alice = await swarm.client()
        reply = asyncio.create_task(tokens_of(alice, REQUEST))
        num_killed = 0
        while not reply.done():
            await asyncio.sleep(0.3)
            for member in swarm.members.values():
                if member.shard is not None and member.shard._ran and not reply.done():
                    member.shard.die()
                    num_killed += 1
        assert (await reply)[0] == EXPECTED and num_killed > 2

    told(tmp_path, story, cost=0.05)


def test_a_stage_refuses_whom_its_engine_died_of_twice(tmp_path: Path) -> None:
    """Whoever its owner is: one that does not stop by itself is stopped."""

    async def story(swarm: FakeSwarm) -> None:
        await ring(swarm, 1, "_deadly", at_the_judge)
        mallory = await swarm.client()
        monkey = pytest.MonkeyPatch()
        monkey.setattr("dsdnode.node.drafter.reply.MAX_KILLED", 100)
        try:
            assert "do not carry it on" in await words(mallory, POISON)
        finally:
            monkey.undo()
        assert deaths(swarm) == 2
        await asyncio.sleep(1)
        for member in swarm.members.values():
            assert member.node.status().sessions.shard == 0
            assert member.shard is None or member.shard.num_cells == 0

    told(tmp_path, story)


def test_a_reply_that_the_draft_engine_died_of_twice_goes_on_without_it(tmp_path: Path) -> None:
    async def story(swarm: FakeSwarm) -> None:
        await ring(swarm, 1, "_deadly", lambda chunk: False)
        draft = swarm.members["dora"].draft
        assert draft is not None
        draft._deadly = lambda chunk: chunk.sampling is not None and chunk.sampling.seed == SEED
        mallory, alice = await swarm.client(), await swarm.client()
        request = replace(REQUEST, seed=SEED, window="fixed")
        tokens, _ = await tokens_of(mallory, request)
        assert tokens == fake_text(TARGET, request.prompt_tokens or (), 40, Sampling(0.5, seed=SEED))
        assert draft.num_deaths == 2
        _, finished = await tokens_of(alice, replace(request, seed=3))
        assert finished.stats.drafted > 0

    told(tmp_path, story)


class Choking(FakeTextEngine):
    """Dies of some texts, as llama.cpp's tokenizer did, or cannot do them."""

    error: Exception = WorkerDied("the engine's process was ended by SIGSEGV")

    async def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        if "poison" in text:
            if isinstance(self.error, WorkerDied):
                self.die()
            raise self.error
        return await super().tokenize(text, parse_special)


ASKED: list[GenerateRequest] = [
    replace(REQUEST, prompt_tokens=None, prompt="poison"),
    replace(REQUEST, prompt_tokens=None, messages=({"role": "user", "content": "poison"},)),
    replace(REQUEST, prompt_tokens=None, prompt="a b c " * 999 + "poison"),
]


@pytest.mark.parametrize("request_", ASKED)
@pytest.mark.parametrize("error", [WorkerDied("SIGSEGV"), WorkFailed("RecursionError")])
def test_a_text_that_two_drafters_died_of_is_not_tried_at_a_third(
    tmp_path: Path, request_: GenerateRequest, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.node.swarm.FakeTextEngine", Choking)
    monkeypatch.setattr(Choking, "error", error)

    async def story(swarm: FakeSwarm) -> None:
        await swarm.add("sam", layers=(0, 4))
        drafters = [await swarm.add(f"dora {number}", drafts=True) for number in range(3)]
        mallory, alice = await swarm.client(), await swarm.client()
        assert "not carried on" in await words(mallory, request_)
        died = sum(drafter.draft.num_deaths for drafter in drafters if drafter.draft)
        assert died == (2 if isinstance(error, WorkerDied) else 0)
        assert (await tokens_of(alice, REQUEST))[0] == EXPECTED

    told(tmp_path, story)


def test_an_engine_that_rests_is_not_offered_until_it_is_back(tmp_path: Path) -> None:
    async def story(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        sam = await swarm.add("sam", layers=(0, 4))
        alice = await swarm.client()
        assert sam.shard is not None

        async def offered() -> bool:
            await asyncio.sleep(10)
            found = await alice._discovery.find_providers(MODELS_KEY)
            return any(record.peer_id == sam.node.peer_id for record in found)

        assert await offered()
        sam.shard.rest("quarantined for 30 s: it died 3 times within 60 s, while nothing ran")
        assert "quarantined for 30 s" in sam.node.status().engines[0].quarantined
        assert not await offered()
        await words(alice, REQUEST)
        sam.shard.rest("")
        assert await offered()
        assert (await tokens_of(alice, REQUEST))[0] == EXPECTED

    told(tmp_path, story)

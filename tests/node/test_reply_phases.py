"""A reply's phases: every line of the table in phases.py is walked by whole replies, and nothing beside it happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.errors import NoPipeline
from dsdnode.node.drafter.phases import NEXT, Phase
from dsdnode.node.drafter.reply import Reply
from tests.node.swarm import FakeSwarm, fake_swarm, tokens_of

REQUEST = GenerateRequest(prompt_tokens=(5, 17, 42), max_tokens=40, seed=3, draft_max=4)
Step = tuple[Phase, str, Phase]


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every step of every reply, in order: the phase before, the event, the phase after."""
    steps: list[Step] = []
    step = Reply._step

    def watched(self: Reply, event: str) -> None:
        before = self.phase
        step(self, event)
        steps.append((before, event, self.phase))

    monkeypatch.setattr(Reply, "_step", watched)
    return steps


async def ring(swarm: FakeSwarm) -> Client:
    await swarm.add("dora", drafts=True, patience_s=10.0)
    for name in ("sam", "sid"):
        await swarm.add(name, layers=(0, 4))
    return await swarm.client(patience_s=2.0)


async def test_every_line_of_the_table_is_walked(tmp_path: Path, walked: list[Step]) -> None:
    async with fake_swarm(tmp_path) as swarm:
        alice = await ring(swarm)
        await tokens_of(alice, REQUEST)
        assert [event for _, event, _ in walked] == ["route wanted", "opened", "end"]

        tokens = 0
        async for event in alice.generate(REQUEST):
            tokens += len(event.tokens) if isinstance(event, Piece) else 0
            if tokens > 10 and len(swarm.dead) == 0:
                [busy] = [name for name, one in swarm.members.items() if one.shard and one.shard.num_cells]
                await swarm.kill(busy)
        assert (Phase.RUNNING, "route wanted", Phase.OPENING) in walked

        for name in [name for name, one in swarm.members.items() if one.shard]:
            await swarm.kill(name)
        with pytest.raises(NoPipeline):
            await tokens_of(alice, REQUEST)
        assert walked[-1] == (Phase.OPENING, "end", Phase.OVER)
    assert {(before, event) for before, event, _ in walked} == NEXT.keys()
    assert all(NEXT[before, event] is after for before, event, after in walked)


@pytest.mark.parametrize("event", ["opened", "route wanted", "end"])
def test_nothing_brings_a_reply_back_that_is_over(event: str) -> None:
    assert (Phase.OVER, event) not in NEXT

"""Alice's terminal takes nothing for a minute: she gets the whole reply all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dsdnode.client import asking
from tests.node.mallory import EXPECTED, REQUEST, rest
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import some, story


@pytest.mark.parametrize("num_notices", [1, 4, 4096])
def test_what_found_no_room_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_notices: int) -> None:
    monkeypatch.setattr(asking, "MAX_QUEUED_NOTICES", num_notices)

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 4))
        alice = await swarm.client()
        events = alice.generate(REQUEST)
        tokens = await some(events, 3)
        for _ in range(2):
            await asyncio.sleep(60)
            tokens += await some(events, 3)
        await asyncio.sleep(60)
        finished = await rest(events, tokens)
        assert (tokens, finished.reason) == (EXPECTED, "length")
        assert (finished.stats.recoveries > 0) == (num_notices < 4096)

    story(tmp_path, tell)

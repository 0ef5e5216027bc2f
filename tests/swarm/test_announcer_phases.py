"""An announcement's phases: every line of the table in announcer.py is walked, and nothing beside it happens."""

from __future__ import annotations

import asyncio

import pytest

from dsdnode.dht.ids import MODELS_KEY
from dsdnode.swarm.announcer import NEXT, Announcer, Phase
from tests.node import jumping
from tests.swarm.town import Town

pytestmark = pytest.mark.usefixtures("quiet")


def test_every_line_of_the_table_is_walked_and_an_offer_taken_back_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[tuple[Phase, str, Phase]] = []
    telling = asyncio.Event()
    step = Announcer._step

    def watched(self: Announcer, event: str) -> None:
        before = self.phase
        step(self, event)
        walked.append((before, event, self.phase))
        if event == "tell":
            telling.set()

    monkeypatch.setattr(Announcer, "_step", watched)

    async def story() -> None:
        async with Town() as town:
            alice, bob = town.begin("alice"), town.begin("bob", "alice")
            carol = town.begin("carol", "alice", offers=False)
            await asyncio.sleep(20)
            assert await carol.found() == {alice.id, bob.id}
            await alice.discovery.withdraw()  # while nothing is under way
            telling.clear()
            bob.discovery.changed()
            await telling.wait()
            await bob.discovery.withdraw()  # in the middle of an announcement
            await asyncio.sleep(600)
            assert await carol.found(MODELS_KEY) == set()

    jumping.run(story())
    assert {(before, event) for before, event, _ in walked if (before, event) in NEXT} == NEXT.keys()
    beside = {(before, event, after) for before, event, after in walked if (before, event) not in NEXT}
    assert beside <= {(Phase.OVER, "told", Phase.OVER), (Phase.OVER, "withdraw", Phase.OVER)}

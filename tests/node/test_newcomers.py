"""Stages that come under ever new names and swallow what they get: those who have done their work are asked first."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsdnode.client.client import Client
from dsdnode.pacing.suspects import PASSED_ON, TRIAL_PAUSE_S
from tests.node.mallory import EXPECTED, ring
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import story
from tests.node.test_waits import Listener, now, swallow

USUAL_S, SOON_S = 2.0, 4.0
"""A reply takes, and one with a trial that comes to nothing: half of the time until a block counts as lost."""


async def took_s(client: Client, num_replies: int) -> list[float]:
    """Of replies one after the other, all of them right: how long each took."""
    seen_s = []
    for _ in range(num_replies):
        listener, began_s = Listener(), now()
        await listener.read(client)
        assert (listener.tokens, listener.reason) == (EXPECTED, "length")
        seen_s.append(now() - began_s)
    return seen_s


@pytest.mark.parametrize("says", [PASSED_ON, None])
def test_ever_new_blackholes_hold_up_one_reply_in_a_long_time(tmp_path: Path, says: int | None) -> None:
    """Sam and sue have served alice; then a mallory comes before each of her replies, with all places free."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await took_s(alice, 2)
        began_s, seen_s = now(), []
        for number in range(8):
            for layers in ((0, 2), (2, 4)):
                mallory = await swarm.add(f"mallory{number}{layers[0]}", layers=layers, max_sessions=64)
                swallow(mallory, says)
            seen_s += await took_s(alice, 2)
        slow_s = [one for one in seen_s if one > USUAL_S]
        assert len(slow_s) <= 1 + (now() - began_s) // TRIAL_PAUSE_S
        assert slow_s and max(slow_s) < SOON_S

    story(tmp_path, tell)


def test_a_newcomer_who_works_is_tried_and_then_known(tmp_path: Path) -> None:
    """Sue is gone after a while, and zoe, who came later, has had her turns by then."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await took_s(alice, 2)
        zoe = await swarm.add("zoe", layers=(2, 4), max_sessions=64)
        await took_s(alice, 8)
        dora = swarm.members["dora"].node._drafter
        assert dora is not None
        assert dora._routes.suspects.is_proven(zoe.node.peer_id)

    story(tmp_path, tell)


def test_newcomers_are_all_there_is(tmp_path: Path) -> None:
    """The only host is gone for good: who has shown nothing yet is asked at once, though a trial has just failed."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await took_s(alice, 1)
        swallow(await swarm.add("mallory", layers=(2, 4), max_sessions=64), PASSED_ON)
        while max(await took_s(alice, 1)) < USUAL_S:
            pass
        await swarm.add("zoe", layers=(2, 4))
        await swarm.kill("sue")
        listener = Listener()
        began_s = now()
        await listener.read(alice)
        assert listener.reason == "length"
        assert now() - began_s < SOON_S

    story(tmp_path, tell)

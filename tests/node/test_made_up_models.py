"""Models that mallory makes up: they are said to be read with sam's file, which anybody may name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.wire.messages import FindText
from tests.node.swarm import FakeSwarm
from tests.node.test_texts import LIES, LONG, Hosts, honest, model_of, story

pytestmark = pytest.mark.usefixtures("quiet")


def test_a_made_up_model_with_the_same_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Mallory's shards say that theirs is read with sam's file, and never give it, or say that they have none. Then
    they give it at last: there is one process for both."""

    async def tell(swarm: FakeSwarm) -> None:
        asked, go = asyncio.Event(), asyncio.Event()
        hosts = Hosts(swarm, tmp_path, honest(LONG), LIES["a refusal"][0], honest(LONG))
        sam, zoe, mallory = hosts.rpcs

        async def slow(peer: bytes, message: FindText, buffers: list[bytes]) -> tuple[Any, list[bytes]]:
            asked.set()
            await go.wait()
            return honest(LONG)(message)

        mallory.on_request(FindText, slow)
        waiting = asyncio.ensure_future(hosts.texts.of(model_of(LONG, mallory, name="mallory's")))
        with pytest.raises(PeerUnavailable):
            await hosts.texts.of(model_of(LONG, zoe, name="zoe's"))
        await asked.wait()
        sams = await hosts.texts.of(model_of(LONG, sam))
        go.set()
        assert await waiting is sams
        await hosts.texts.close()
        assert sams.text.closed  # type: ignore[attr-defined]

    story(tmp_path, tell)

"""What a client has been shown when its reply breaks off: all of it, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.engine.fake import fake_text
from dsdnode.errors import NoPipeline
from tests.node import jumping
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm

PROMPT = (5, 17, 42, 8)
EXPECTED = fake_text(TARGET, PROMPT, 60)
TEXT = "".join(chr(32 + token) for token in EXPECTED)
"""In the fake vocabulary a token is a character."""
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, draft_max=4, stop=(TEXT + "?",))
"""Everything could become the stop string, so nothing is shown before the end."""


class Reader:
    """Alice, who hurts somebody once she has seen twenty tokens."""

    def __init__(self, hurt: Callable[[], Awaitable[None]]) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self._hurt: Callable[[], Awaitable[None]] | None = hurt

    async def read(self, client: Client, request: GenerateRequest) -> None:
        async for event in client.generate(request):
            if isinstance(event, Piece):
                self.tokens += event.tokens
                self.text += event.text
            if len(self.tokens) >= 20 and self._hurt is not None:
                assert self.text == ""
                hurt, self._hurt = self._hurt, None
                await hurt()


def test_text_held_back_for_a_stop_string_is_shown_when_no_pipeline_is_left(tmp_path: Path) -> None:
    async def tell() -> None:
        async with fake_swarm(tmp_path) as swarm:
            await swarm.add("dora", drafts=True)
            await swarm.add("sam", layers=(0, 4))
            alice = Reader(lambda: swarm.kill("sam"))
            with pytest.raises(NoPipeline):
                await alice.read(await swarm.client(), REQUEST)
            assert 20 <= len(alice.tokens) < 60
            assert alice.text == TEXT[: len(alice.tokens)]

    jumping.run(tell())


def test_it_is_shown_once_when_another_drafter_goes_on(tmp_path: Path) -> None:
    async def tell() -> None:
        async with fake_swarm(tmp_path) as swarm:
            for name in ("dora", "dan"):
                await swarm.add(name, drafts=True)
            await swarm.add("sam", layers=(0, 4))
            client = await swarm.client()
            serving = next(name for name in ("dora", "dan") if swarm.members[name].node.peer_id == min_id(swarm))
            alice = Reader(lambda: swarm.members.pop(serving).node.close())  # it says goodbye, and no more
            await alice.read(client, replace(REQUEST, max_tokens=50))
            assert alice.tokens == EXPECTED[:50]
            assert alice.text == TEXT[:50]
            assert serving not in swarm.members

    jumping.run(tell())


def min_id(swarm: FakeSwarm) -> bytes:
    """Of two drafters as good as each other, clients ask this one."""
    return min(swarm.members[name].node.peer_id for name in ("dora", "dan"))

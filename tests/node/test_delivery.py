"""What a client has been shown when its reply breaks off: all of it, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsdnode.accounts import Account
from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.engine.fake import fake_text
from dsdnode.engine.tokenizer import Detokenizer
from dsdnode.errors import DsdError, NoPipeline, PeerUnavailable
from dsdnode.net.port import Priority
from dsdnode.node.drafter.delivery import Delivery
from dsdnode.node.drafter.host import _text_of
from dsdnode.speculation.actions import Emit
from dsdnode.wire.codec import decode, encode
from dsdnode.wire.messages import MAX_LAYERS, MAX_STAGES, Message
from dsdnode.wire.replies import MAX_ROUTED, Routed, StageInfo
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


@pytest.mark.parametrize("error", [NoPipeline, PeerUnavailable])
def test_what_goes_wrong_behind_the_stop_string_is_no_fault_of_the_reply_s(error: type[DsdError]) -> None:
    sent: list[str] = []

    class Broken:
        pipeline = ()

        async def run(self) -> AsyncGenerator[Emit, None]:
            yield Emit((1, 2, 3), 0)
            raise error("sam is gone")

        def cancel(self, reason: str) -> None: ...

    class Told:
        transport = SimpleNamespace(can=lambda peer, what: False)

        def notify(self, peer: bytes, message: Message, buffers: list[bytes], priority: Priority) -> None:
            sent.append(buffers[1].decode())

    async def tell() -> str:
        delivery = Delivery(Told(), None, Account(b"c" * 32, "net"), b"r" * 16)  # type: ignore[arg-type]
        text = SimpleNamespace(feed=lambda tokens: "".join("abc"[token - 1] for token in tokens), finish=lambda: "")
        body = SimpleNamespace(stop=("bc",), tokens=())
        return await delivery._stream(Broken(), body, text)  # type: ignore[arg-type]

    assert (asyncio.run(tell()), sent) == ("stop", ["a"])


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


def test_a_route_of_as_many_stages_as_there_may_be_is_told() -> None:
    """As far as a header has room; the reply goes on whatever is shown of it."""
    sent: list[list[bytes]] = []

    class Told:
        transport = SimpleNamespace(can=lambda peer, what: True)

        def notify(self, peer: bytes, message: Message, buffers: list[bytes], priority: Priority) -> None:
            sent.append(encode(message, buffers))

    stages = tuple(StageInfo("f" * 64, (MAX_LAYERS - 1, MAX_LAYERS)) for _ in range(MAX_STAGES))

    async def tell() -> None:
        delivery = Delivery(Told(), None, Account(b"c" * 32, "net"), b"r" * 16)  # type: ignore[arg-type]
        delivery._tell_route(SimpleNamespace(pipeline=stages))  # type: ignore[arg-type]

    asyncio.run(tell())
    routed = decode(sent[0]).message
    assert isinstance(routed, Routed) and len(routed.stages) == MAX_ROUTED


def test_others_are_heard_while_a_long_prompt_is_made_a_text() -> None:
    async def tell() -> int:
        num_turns, asked = 0, asyncio.create_task(_text_of([5] * 100_000, Detokenizer([b"a"] * 9)))
        while not asked.done():
            num_turns += 1
            await asyncio.sleep(0)
        assert await asked == "a" * 100_000
        return num_turns

    assert asyncio.run(tell()) > 5

"""No wait without an end and a word: what alice hears, and when, while something is wrong with her reply's peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.config import DEFAULT_PATIENCE_S, STILL_S
from dsdnode.engine.fake import fake_text
from dsdnode.errors import NoPipeline
from dsdnode.identity import short_id
from dsdnode.pacing.suspects import HERE, NOT_COME, PASSED_ON
from dsdnode.wire import replies
from dsdnode.wire.messages import Block, Message, Pong, Refused, Trace, Traced
from dsdnode.wire.numbers import pack_tokens
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, ring, session_at
from tests.node.rough import RoughHub
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_drafter_host import all_free, some, story

TEXT = "tell"
SHORT_S = 20.0
"""Until a reply goes round what is broken: two looks at a block that nobody answers, and a new pipeline, twice."""
SLACK_S = 9.0
"""A last round of pings and lookups; the client, which knows less, gives up a second later."""


def now() -> float:
    return asyncio.get_running_loop().time()


class Listener:
    """Reads a reply, and hears what it waits for."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.words: list[str] = []
        self.first_word_s = 0.0
        self.reason = ""
        self.recoveries = 0

    def told(self, words: str) -> None:
        self.first_word_s = self.first_word_s or now()
        self.words.append(words)

    async def read(self, client: Client, request: GenerateRequest = REQUEST) -> None:
        await self.go_on(client.generate(request, self.told))

    async def go_on(self, events: AsyncIterator[Piece | Finished]) -> None:
        async for event in events:
            if isinstance(event, Piece):
                self.tokens += event.tokens
            else:
                self.reason, self.recoveries = event.reason, event.stats.recoveries


def cut(swarm: FakeSwarm, one: Member, other: Member) -> None:
    assert isinstance(swarm.hub, RoughHub)
    swarm.hub.cuts.add(frozenset((one.node.peer_id, other.node.peer_id)))


def named(member: Member) -> str:
    return short_id(member.node.peer_id)


async def took_s(client: Client, num_replies: int = 5) -> list[float]:
    """Of replies one after the other, all of them right: how long each took. (Alike peers are chosen by lot.)"""
    seen_s = []
    for _ in range(num_replies):
        listener, began_s = Listener(), now()
        await listener.read(client)
        assert (listener.tokens, listener.reason) == (EXPECTED, "length")
        seen_s.append(now() - began_s)
        assert not listener.words if seen_s[-1] < 2 else listener.words or seen_s[-1] < STILL_S
    return seen_s


# --- stages


def test_neighbours_that_cannot_reach_each_other_are_gone_round_and_avoided(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await swarm.add("sid", layers=(2, 4))
        alice = await swarm.client()
        cut(swarm, swarm.members["sam"], swarm.members["sue"])
        first_s, *_ = slow_s = [seen_s for seen_s in await took_s(alice) if seen_s > 2]
        assert first_s < SHORT_S
        assert len(slow_s) == 1
        await all_free(swarm, within_s=70)

    story(tmp_path, tell)


def test_the_only_neighbours_that_cannot_reach_each_other_are_named_at_the_end(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        await asyncio.sleep(5)  # everybody has been announced
        cut(swarm, swarm.members["sam"], swarm.members["sue"])
        listener, began_s = Listener(), now()
        with pytest.raises(NoPipeline) as raised:
            await listener.read(alice)
        assert DEFAULT_PATIENCE_S - 1 < now() - began_s < DEFAULT_PATIENCE_S + SLACK_S
        for name, layers in (("sam", "0:2"), ("sue", "2:4")):
            assert f"{named(swarm.members[name])} (layers {layers})" in str(raised.value)
        assert listener.first_word_s - began_s < 15
        await asyncio.sleep(1)
        await all_free(swarm, within_s=70)

    story(tmp_path, tell)


REFUSES = -1


def swallow(stage: Member, says: int | None) -> None:
    """Blocks end here; asked for one, the stage says that it has come so far, or nothing, or (None) the truth."""
    stage.node.rpc._on_notice[Block] = []

    async def trace(peer: bytes, message: Trace, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        assert says is not None
        return Refused("Trace is not served here") if says == REFUSES else Traced(says), []

    if says is not None:
        stage.node.rpc.on_request(Trace, trace)


@pytest.mark.parametrize("says", [None, NOT_COME, HERE, PASSED_ON, REFUSES])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_whoever_swallows_blocks_is_gone_round(tmp_path: Path, place: int, says: int | None) -> None:
    """Mallory answers pings and opens, as the first, a middle, or the last stage."""

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        for index, layers in enumerate([(0, 1), (1, 3), (3, 4)]):
            for name in (f"sam{index}", f"sue{index}"):
                await swarm.add(name, layers=layers)
        alice = await swarm.client()
        swallow(swarm.members[f"sam{place}"], says)
        slow_s = [seen_s for seen_s in await took_s(alice) if seen_s > 2]
        assert slow_s and max(slow_s) < 2 * SHORT_S
        assert len(slow_s) <= 2

    story(tmp_path, tell)


def spoil(stage: Member) -> None:
    """Of each prompt the first block is passed on, and the others with digests that fit nothing."""
    notify = stage.node.rpc.notify

    def spoils(peer: bytes, message: Message, buffers: Sequence[bytes] = (), **more: Any) -> None:
        if isinstance(message, Block) and message.position > 0:
            buffers = [bytes(len(buffers[0])), *buffers[1:]]
        notify(peer, message, buffers, **more)

    stage.node.rpc.notify = spoils  # type: ignore[method-assign, assignment]


def test_whoever_spoils_some_of_the_blocks_is_gone_round(tmp_path: Path) -> None:
    """The rest is judged, again and again, which passes for no progress."""
    prompt = tuple(1 + number % 90 for number in range(600))
    request = replace(REQUEST, prompt_tokens=prompt, max_tokens=5)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await swarm.add("sid", layers=(0, 2))
        alice = await swarm.client()
        spoil(swarm.members["sid"])
        num_slow = 0
        for _ in range(4):  # whoever is alike is chosen by lot
            listener, began_s = Listener(), now()
            await listener.read(alice, request)
            assert (listener.tokens, listener.reason) == (fake_text(TARGET, prompt, 5), "length")
            assert now() - began_s < 2 * SHORT_S
            num_slow += listener.recoveries > 0
        assert num_slow == 1, "it is remembered"

    story(tmp_path, tell)


def test_a_stage_that_only_is_slow_is_not_left(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        listener = Listener()
        await listener.read(await swarm.client(), replace(REQUEST, max_tokens=4))
        assert (listener.tokens, listener.recoveries) == (EXPECTED[:4], 0)
        assert listener.words and all("at work" in words or "has not passed on" in words for words in listener.words)

    story(tmp_path, tell, cost=lambda num: 6.0)


def test_the_only_host_is_waited_for_when_it_is_gone_for_ten_seconds(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        listener = Listener()
        events = (await swarm.client()).generate(REQUEST, listener.told)
        listener.tokens = await some(events, 10)
        sue = named(swarm.members["sue"])
        await swarm.kill("sue")
        asyncio.get_running_loop().call_later(10, lambda: asyncio.ensure_future(swarm.add("sue", layers=(2, 4))))
        began_s = now()
        await listener.go_on(events)
        assert (listener.tokens, listener.reason) == (EXPECTED, "length")
        assert 10 < now() - began_s < 25
        assert f"waiting for layers 2:4 ({sue} does not answer) of fake" in listener.words

    story(tmp_path, tell)


@pytest.mark.parametrize("drafter_s", [10.0, 20.0, 60.0])
def test_a_host_that_is_gone_for_good_is_waited_for_so_long_and_named(tmp_path: Path, drafter_s: float) -> None:
    """As long as alice says: what dora does by herself is for those who do not say."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, patience_s=drafter_s)
        listener = Listener()
        events = (await swarm.client(patience_s=20.0)).generate(REQUEST, listener.told)
        listener.tokens = await some(events, 10)
        sue = named(swarm.members["sue"])
        await swarm.kill("sue")
        began_s = now()
        with pytest.raises(NoPipeline, match=rf"^waiting for layers 2:4 \({sue} does not answer\) of fake"):
            await listener.go_on(events)
        assert listener.tokens == EXPECTED[: len(listener.tokens)]
        assert 19 < now() - began_s < 20 + SLACK_S / 2
        assert STILL_S <= listener.first_word_s - began_s < 15

    story(tmp_path, tell)


def test_layers_that_nobody_ever_had_are_not_waited_for(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 2))
        began_s = now()
        with pytest.raises(NoPipeline, match="layers 2:4 of fake are hosted by nobody"):
            await Listener().read(await swarm.client())
        assert now() - began_s < 15

    story(tmp_path, tell)


# --- drafters


Speaks = Callable[[Member, bytes, bytes, int], None]


async def lies(
    swarm: FakeSwarm, speaks: Speaks, prompt: tuple[int, ...] = PROMPT, name: str = "mallory"
) -> list[bytes]:
    """Mallory drafts; he accepts each request, says each second what he likes, and that all is well."""
    mallory = await swarm.add(name, drafts=True)
    asked: list[bytes] = []
    rpc = mallory.node.rpc

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        if not buffers:
            return Pong(), []
        asked.append(message.request)
        for second in range(600):
            asyncio.get_running_loop().call_later(second, speaks, mallory, peer, message.request, second)
        assert mallory.draft is not None
        return replies.Accepted(message.request, mallory.draft.shard.model_id), [pack_tokens(list(prompt))]

    rpc.on_request(replies.Generate, generate)
    return asked


async def lying(swarm: FakeSwarm, speaks: Speaks, prompt: tuple[int, ...] = PROMPT) -> tuple[Client, list[bytes]]:
    """Alice, who prefers mallory."""
    asked = await lies(swarm, speaks, prompt)
    alice = await swarm.client()
    alice._drafters.joined = [swarm.members["mallory"].node.peer_id]
    return alice, asked


def nothing(mallory: Member, client: bytes, request: bytes, second: int) -> None:
    pass


def excuses(mallory: Member, client: bytes, request: bytes, second: int) -> None:
    mallory.node.rpc.notify(client, replies.Waiting(request, f"soon ({second})"))


def empty_pieces(mallory: Member, client: bytes, request: bytes, second: int) -> None:
    mallory.node.rpc.notify(client, replies.Piece(request, 0, 0), [pack_tokens([]), b""])


def drips(mallory: Member, client: bytes, request: bytes, second: int) -> None:
    if second % 3 == 0:
        piece = replies.Piece(request, second // 3, 0)
        mallory.node.rpc.notify(client, piece, [pack_tokens([EXPECTED[second // 3]]), b"x"])


@pytest.mark.parametrize("speaks", [nothing, excuses, empty_pieces, drips])
def test_a_drafter_that_gives_nothing_is_left_for_another(tmp_path: Path, speaks: Speaks) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, asked = await lying(swarm, speaks)
        request = replace(REQUEST, max_tokens=40)
        listener, began_s = Listener(), now()
        await listener.read(alice, request)
        assert (listener.tokens, listener.reason) == (EXPECTED[:40], "length")
        assert now() - began_s < (12 if speaks is drips else 6)
        assert len(asked) == 1
        assert listener.words or speaks is not excuses  # the others are left before a word is due
        await alice.peers()  # it answers pings, and is remembered all the same
        await Listener().read(alice, request)
        assert len(asked) == 1

    story(tmp_path, tell)


@pytest.mark.parametrize("speaks", [nothing, excuses])
def test_the_only_drafter_gives_nothing_and_the_reply_ends(tmp_path: Path, speaks: Speaks) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("sam", layers=(0, 4))
        alice, _ = await lying(swarm, speaks, prompt=tuple([1] * 100_000))
        listener, began_s = Listener(), now()
        with pytest.raises(NoPipeline, match="nothing came for"):
            await listener.read(alice, replace(REQUEST, prompt_tokens=None, prompt=TEXT))
        most_s = (
            DEFAULT_PATIENCE_S + 2 * SLACK_S + 0.2 * 1200
        )  # a prompt of a hundred thousand tokens was not asked for
        assert now() - began_s < most_s
        assert listener.first_word_s - began_s < 15

    story(tmp_path, tell)


def test_before_the_first_token_no_drafter_says_what_was_asked(tmp_path: Path) -> None:
    """Mallory accepts another prompt, and goes: dora answers alice's own."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, _ = await lying(swarm, nothing, prompt=(9, 9, 9, 9))
        asyncio.get_running_loop().call_later(3, lambda: asyncio.ensure_future(swarm.kill("mallory")))
        listener = Listener()
        await listener.read(alice, replace(REQUEST, prompt_tokens=None, prompt=TEXT))
        assert listener.tokens == fake_text(TARGET, [1 + (ord(letter) - 33) % 96 for letter in TEXT], 60)

    story(tmp_path, tell)


def test_nobody_but_the_owner_asks_where_a_block_is(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        events = (await swarm.client()).generate(REQUEST)
        await some(events, 5)
        opened = session_at(swarm.members["sue"]).opened
        mallory = swarm.stranger("mallory")
        question = Trace(opened.session, opened.route, 1, 5)
        answer, _ = await mallory.request(swarm.members["sue"].node.peer_id, question, timeout_s=2)
        assert not isinstance(answer, Traced)
        await events.aclose()

    story(tmp_path, tell)

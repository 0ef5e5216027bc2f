"""Mallory's first token is right, the text beside it is not, and then he is silent: dora cannot go on with that, and of
two that contradict each other nobody can say who lies. But the next reply is dora's, also where mallory is quicker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from dsdnode.accounts import Account
from dsdnode.client.client import Client, GenerateRequest
from dsdnode.client.drafters import Drafters
from dsdnode.client.patience import ASIDE_S
from dsdnode.engine.fake import FakeModel, fake_text
from dsdnode.errors import NoPipeline
from dsdnode.identity import Identity, PeerChoice
from dsdnode.swarm.pings import MOMENT_S
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body
from dsdnode.wire.messages import Open, Pong
from dsdnode.wire.numbers import pack_tokens
from tests.client.test_another_drafter import ASKED, reply_to
from tests.client.test_drafters import ask_first
from tests.client.test_slow_drafters import drips, read, town
from tests.client.test_trust import ring
from tests.node.mallory import EXPECTED, PROMPT
from tests.node.swarm import DRAFT, TARGET, FakeSwarm
from tests.node.test_drafter_host import story
from tests.node.test_waits import Listener
from tests.wire.test_records import OFFER

REQUEST, TEXT = ASKED["text"]
RIGHT = reply_to(TEXT)
PATIENCE_S = 20.0


async def spoils(swarm: FakeSwarm) -> list[bytes]:
    """Mallory. Who asks him, each time."""
    mallory = await swarm.add("mallory", drafts=True)
    asked: list[bytes] = []

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        if not buffers:
            return Pong(), []
        asked.append(peer)
        num = len(decode_body(buffers[0], replies.GenerateBody).tokens)
        piece, given = replies.Piece(message.request, num, 0), [pack_tokens(RIGHT[num : num + 1]), b"spam"]
        asyncio.get_running_loop().call_later(0.1, mallory.node.rpc.notify, peer, piece, given)
        assert mallory.draft is not None
        return replies.Accepted(message.request, mallory.draft.shard.model_id), [pack_tokens([9, 9, 9, 9])]

    mallory.node.rpc.on_request(replies.Generate, generate)
    return asked


@contextlib.contextmanager
def late(swarm: FakeSwarm, seconds: float) -> Iterator[None]:
    """Whatever is drafted with sam begins later than is usual here."""
    sam = swarm.members["sam"].node.rpc
    open_ = sam._on_request[Open]

    async def opens(peer: bytes, message: Open, buffers: list[bytes]) -> Any:
        await asyncio.sleep(seconds)
        return await open_(peer, message, buffers)

    sam.on_request(Open, opens)
    yield
    sam.on_request(Open, open_)


async def spoiled(swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch) -> tuple[Client, list[bytes]]:
    """Alice, whose first reply came to nothing; who asks mallory from then on."""
    await ring(swarm, "dora")
    asked = await spoils(swarm)
    alice = await swarm.client()
    alice._patience_s, alice._drafters.joined = PATIENCE_S, ()
    ask_first(monkeypatch, swarm, "dora", "mallory")
    with late(swarm, ASIDE_S - 1), pytest.raises(NoPipeline, match="says nothing"):
        await Listener().read(alice, REQUEST)
    assert asked
    asked.clear()
    return alice, asked


async def is_doras(alice: Client, asked: list[bytes]) -> None:
    listener = Listener()
    await listener.read(alice, REQUEST)
    assert (listener.tokens, asked) == (RIGHT, [])


def test_who_is_silent_to_the_end_of_a_reply_does_not_begin_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, asked = await spoiled(swarm, monkeypatch)
        await is_doras(alice, asked)

    story(tmp_path, tell)


def test_dora_is_across_the_world_and_mallory_next_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, asked = await spoiled(swarm, monkeypatch)
        ping, dora = alice.rpc.ping, swarm.members["dora"].node.peer_id

        async def far(peer: bytes, timeout_s: float) -> float:
            more_s = 3 * MOMENT_S if peer == dora else 0.0
            await asyncio.sleep(more_s)
            return more_s + await ping(peer, timeout_s=timeout_s)

        monkeypatch.setattr(alice.rpc, "ping", far)
        await is_doras(alice, asked)

    story(tmp_path, tell)


def test_dora_takes_longer_than_is_usual_and_mallory_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, asked = await spoiled(swarm, monkeypatch)
        with late(swarm, ASIDE_S - 1):
            await is_doras(alice, asked)

    story(tmp_path, tell)


@pytest.mark.parametrize(
    ("prompt", "says"), [((), lambda token: TARGET.vocab_size), ((TARGET.vocab_size,), lambda token: (token + 1) % 97)]
)
def test_what_is_no_token_of_the_model_binds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: tuple[int, ...], says: Callable[[int], int]
) -> None:
    """Nobody could go on with it: mallory's first token was the last."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        await drips(swarm, every_s=1000.0, prompt=prompt, lies=says)
        assert (await read(await town(swarm, monkeypatch, "mallory", "dora"), REQUEST))[0] == RIGHT

    story(tmp_path, tell)


def test_the_model_that_is_meant_is_one_that_a_drafter_may_be_asked_for(tmp_path: Path) -> None:
    """Of two models, each with a drafter of its own, alice names none, but whom she asks."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        other = FakeModel(vocab_size=90, num_layers=2)
        await swarm.add("bob", drafts=True, layers=(0, 2), target=other, draft=replace(DRAFT, vocab_size=90))
        alice = await swarm.client()
        alice._drafters.joined = ()
        for name, right in (("bob", fake_text(other, PROMPT, 60)), ("dora", EXPECTED)):
            alice.restrict(PeerChoice(allow=(swarm.members[name].node.peer_id.hex(),)))
            assert (await read(alice, GenerateRequest(prompt_tokens=PROMPT, max_tokens=8)))[0] == right[:8]

    story(tmp_path, tell)


def test_mallory_s_two_names_are_one_also_while_replies_of_another_model_are_asked_for() -> None:
    """Both contradict dora; each model has drafters of its own."""
    names = [Identity(name.encode().ljust(32)) for name in ("dora", "mallory", "max", "theirs")]
    dora, mallory, max_, _ = (name.peer_id for name in names)
    hers, theirs = "cd" * 32, "ef" * 32
    records = [
        structs.replace(OFFER, public_key=name.public_key, role="drafter", tokenizer_hash=tokenizer)
        for name, tokenizer in zip(names, (hers, hers, hers, theirs), strict=True)
    ]
    rpc: Any = SimpleNamespace(account_of=lambda peer: Account(peer, peer.hex() if peer == dora else "mallory's"))
    pings: Any = SimpleNamespace(is_silent=lambda peer: False)
    nobody: Any = None
    drafters = Drafters(rpc, pings, Random(1), (), nobody)
    drafters._known = records
    for tokenizer in (hers, theirs):
        model: Any = SimpleNamespace(tokenizer_hash=tokenizer, model_id=tokenizer)
        pending: Any = SimpleNamespace(model=model, request=REQUEST)
        drafters._order(pending)
    for by in (mallory, max_):
        drafters.contradicted([dora], by)
    assert drafters._doubts.is_doubted(dora) and not drafters._doubts.is_caught(dora)

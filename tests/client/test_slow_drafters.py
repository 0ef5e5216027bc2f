"""Alice's drafter gives her reply, but slowly: another one is asked beside it, and goes on if it is faster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.client.pace import MAX_PACES, SLOW, SLOWER, Pace, Paces
from dsdnode.client.patience import MAX_ASIDE
from dsdnode.config import DEFAULT_PATIENCE_S
from dsdnode.engine.fake import fake_text
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import DsdError
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.messages import Message, Pong, Refused
from dsdnode.wire.numbers import pack_tokens
from tests.client.test_another_drafter import ASKED, reply_to, shown
from tests.client.test_drafters import ask_first, says_no
from tests.client.test_trust import ring
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, rest
from tests.node.swarm import TARGET, FakeSwarm
from tests.node.test_drafter_host import all_free, some, story
from tests.node.test_waits import now

FOUND_S = 5.0
"""Three seconds in which too little came, and a reply of another one."""


async def drips(
    swarm: FakeSwarm,
    name: str = "mallory",
    *,
    every_s: float = 1.0,
    first: int = 1,
    prompt: tuple[int, ...] = (),
    lies: Callable[[int], int] = lambda token: token,
) -> list[list[int]]:
    """A drafter that gives `first` tokens at once, then one after the other, the right ones if it tells no `lies`.
    With which tokens of the reply it was asked, each time."""
    member = await swarm.add(name, drafts=True)
    asked: list[list[int]] = []

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        if not buffers:
            return Pong(), []
        body = decode_body(buffers[0], replies.GenerateBody)
        asked.append(list(body.tokens))
        right = reply_to(body.text) if body.text else fake_text(TARGET, body.prompt_tokens, 60)
        right, index = [lies(token) for token in right[: body.max_tokens]], len(body.tokens)

        def says(notice: Message, *payload: bytes) -> None:
            with contextlib.suppress(DsdError):
                member.node.rpc.notify(peer, notice, payload)

        def piece(index: int, tokens: list[int]) -> None:
            says(replies.Piece(message.request, index, 0), pack_tokens(tokens), shown(tokens).encode())

        told = replies.Statistics(completion_tokens=len(right) - index)
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, piece, index, right[index : index + first])
        for number, token in enumerate(right[index + first :]):
            loop.call_later(0.1 + every_s * (number + 1), piece, index + first + number, [token])
        last_s = 0.2 + every_s * (len(right) - index - first)
        loop.call_later(last_s, says, replies.Finished(message.request, "length"), encode_body(told))
        assert member.draft is not None
        named = prompt or PROMPT if not body.text else prompt or [1 + (ord(one) - 33) % 96 for one in body.text]
        return replies.Accepted(message.request, member.draft.shard.model_id), [pack_tokens(list(named))]

    member.node.rpc.on_request(replies.Generate, generate)
    return asked


async def town(swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch, *order: str) -> Client:
    alice = await swarm.client()
    await asyncio.sleep(5)  # everybody has been announced
    alice._drafters.joined = ()
    ask_first(monkeypatch, swarm, *order)
    return alice


async def read(alice: Client, request: GenerateRequest = REQUEST) -> tuple[list[int], str, float, int]:
    """Its tokens, its text, how long it took and how often another drafter went on with it."""
    tokens: list[int] = []
    text, began_s, recoveries = "", now(), -1
    async with contextlib.aclosing(alice.generate(request)) as events:
        async for event in events:
            if not isinstance(event, Piece):
                recoveries = event.stats.recoveries
                break
            tokens += event.tokens
            text += event.text
    return tokens, text, now() - began_s, recoveries


def test_who_had_too_little_time_is_asked_again_and_has_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob has to find out first which stages are of no use. He was asked in vain, and there is nobody else."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        stage = next(one.shard for one in swarm.members.values() if one.shard is not None and not one.shard.shard.start)
        honest = stage.forward

        async def forward(chunks: Sequence[Chunk]) -> list[Output]:
            await asyncio.sleep(11 if any(chunk.position == 0 for chunk in chunks) else 0)
            return await honest(chunks)

        monkeypatch.setattr(stage, "forward", forward)
        await drips(swarm, every_s=1.5)
        tokens, _, took_s, recoveries = await read(await town(swarm, monkeypatch, "mallory", "bob"))
        assert (tokens, recoveries) == (EXPECTED, 1)
        assert took_s < 75, "of mallory alone it takes 90 s"

    story(tmp_path, tell)


@pytest.mark.parametrize(("every_s", "first"), [(1.0, 1), (1.9, 3), (1000.0, 5)])
def test_a_reply_is_carried_over_to_who_is_faster_and_the_next_one_begins_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, first: int
) -> None:
    """Mallory gives a token a second, or stalls: every word is right, and the reply takes a minute."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        asked = await drips(swarm, every_s=every_s, first=first)
        alice = await town(swarm, monkeypatch, "mallory", "bob")
        tokens, text, took_s, recoveries = await read(alice)
        assert (tokens, text) == (EXPECTED, shown(EXPECTED))
        assert took_s < FOUND_S and recoveries == 1
        assert not alice._askings.inboxes
        assert (await read(alice))[0] == EXPECTED
        assert len(asked) == 1, "she remembers"
        assert [alice._drafters.paces.rank(model, peer) for model, peer in alice._drafters.paces._known] == [0]
        await all_free(swarm, within_s=70)

    story(tmp_path, tell)


def test_who_named_another_prompt_and_drips_is_beaten_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob does the reply over again, and nothing of it is shown twice."""
    request, text = ASKED["text"]

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        await drips(swarm, prompt=(9, 9, 9, 9))
        alice = await town(swarm, monkeypatch, "mallory", "bob")
        tokens, words, took_s, recoveries = await read(alice, request)
        assert (tokens, words) == (reply_to(text), shown(reply_to(text)))
        assert took_s < FOUND_S + 1 and recoveries == 1

    story(tmp_path, tell)


def test_where_all_are_slow_one_is_tried_and_the_reply_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("dora", "dan", "dave")

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        asked = [await drips(swarm, name) for name in names]
        alice = await town(swarm, monkeypatch, *names)
        request = replace(REQUEST, max_tokens=40)
        for num_asked in ([1, 1, 0], [2, 1, 0]):
            reading = asyncio.ensure_future(read(alice, request))
            await asyncio.sleep(30)
            assert len(alice._askings.inboxes) == 1 < MAX_ASIDE
            await asyncio.wait_for(reading, 20)
            tokens, *_, recoveries = reading.result()
            assert (tokens, recoveries) == (EXPECTED[:40], 0)
            assert [len(one) for one in asked] == num_asked, "what is usual here is known, the second time"

    story(tmp_path, tell)


def test_a_swarm_of_slow_machines_keeps_its_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan", "dave")
        alice = await town(swarm, monkeypatch, "dora", "dan", "dave")
        for _ in range(2):
            tokens, _, took_s, recoveries = await read(alice, replace(REQUEST, max_tokens=30))
            assert (tokens, recoveries) == (EXPECTED[:30], 0)
            assert took_s > 15

    story(tmp_path, tell, cost=lambda num: 1.0)


def test_who_only_seems_to_be_faster_takes_no_reply_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mortimer, asked beside mallory, has other tokens: they are never shown, and bob is asked after him."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        await drips(swarm)
        mortimer = await drips(swarm, "mortimer", every_s=0.01, lies=lambda token: 1 + token % 90)
        alice = await town(swarm, monkeypatch, "mallory", "mortimer", "bob")
        tokens, text, took_s, recoveries = await read(alice)
        assert (tokens, text) == (EXPECTED, shown(EXPECTED))
        assert len(mortimer) == 1 and recoveries == 1
        assert took_s < 3 * FOUND_S

    story(tmp_path, tell)


def test_who_stalls_beside_one_that_drips_does_not_make_it_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mortimer, asked beside mallory, gives a token and no more: bob is asked after him."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        await drips(swarm)
        await drips(swarm, "mortimer", every_s=1000.0)
        alice = await town(swarm, monkeypatch, "mallory", "mortimer", "bob")
        tokens, text, took_s, recoveries = await read(alice)
        assert (tokens, text, recoveries) == (EXPECTED, shown(EXPECTED), 1)
        assert took_s < 4 * FOUND_S

    story(tmp_path, tell)


def test_a_reader_who_pauses_makes_no_drafter_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        asked = await drips(swarm, "dan")
        alice = await town(swarm, monkeypatch, "dora", "dan")
        events = alice.generate(REQUEST)
        tokens = await some(events, 3)
        await asyncio.sleep(60)
        finished = await rest(events, tokens)
        assert (tokens, finished.stats.recoveries, asked) == (EXPECTED, 0, [])

    story(tmp_path, tell)


def test_who_is_asked_beside_is_left_with_the_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        for name in ("dora", "dan"):
            await drips(swarm, name)
        alice = await town(swarm, monkeypatch, "dora", "dan")
        events = alice.generate(REQUEST)
        await some(events, 5)
        assert len(alice._askings.inboxes) == 2
        await events.aclose()
        assert not alice._askings.inboxes

    story(tmp_path, tell)


def test_who_is_ahead_by_a_single_token_is_not_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gives three tokens in three seconds, and mallory's first come sooner than dora's next ones."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        for name in ("dora", "mallory"):
            await drips(swarm, name, every_s=1.0, first=3 if name == "mallory" else 1)
        alice = await town(swarm, monkeypatch, "dora", "mallory")
        tokens, _, _, recoveries = await read(alice, replace(REQUEST, max_tokens=30))
        assert (tokens, recoveries) == (EXPECTED[:30], 0)

    story(tmp_path, tell)


def test_a_drafter_that_stalls_is_left_for_one_that_was_full_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        await drips(swarm, every_s=1000.0, first=5)
        alice = await town(swarm, monkeypatch, "mallory", "bob")
        rpc, began_s = swarm.members["bob"].node.rpc, now()
        generate = rpc._on_request[replies.Generate]

        async def full(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
            if now() < began_s + 10:
                return Refused("full", retry=True), []
            return await generate(peer, message, buffers)

        rpc.on_request(replies.Generate, full)
        tokens, text, took_s, recoveries = await read(alice)
        assert (tokens, text, recoveries) == (EXPECTED, shown(EXPECTED), 1)
        assert took_s < DEFAULT_PATIENCE_S

    story(tmp_path, tell)


def test_nobody_is_asked_for_speed_where_an_engine_died_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dan")
        await drips(swarm)
        swarm.members["dan"].node.rpc.on_request(replies.Generate, says_no("WorkerDied"))
        dave = await drips(swarm, "dave", every_s=0.01)
        alice = await town(swarm, monkeypatch, "mallory", "dan", "dave")
        tokens, _, _, recoveries = await read(alice, replace(REQUEST, max_tokens=40))
        assert (tokens, recoveries, dave) == (EXPECTED[:40], 0, [])

    story(tmp_path, tell)


def test_who_comes_while_a_drafter_drips_is_asked_beside_it(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await drips(swarm)
        alice = await swarm.client()
        asyncio.get_running_loop().call_later(5, lambda: asyncio.ensure_future(swarm.add("bob", drafts=True)))
        tokens, text, took_s, recoveries = await read(alice)
        assert (tokens, text, recoveries) == (EXPECTED, shown(EXPECTED), 1)
        assert took_s < 30

    story(tmp_path, tell)


def test_a_rival_that_stalls_has_no_longer_for_a_long_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mortimer, asked beside mallory, might read for a minute: he gives a token at once, and then no more."""
    prompt = tuple([3] * 600)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        for name, every_s in {"mallory": 2.0, "mortimer": 1000.0}.items():
            await drips(swarm, name, every_s=every_s, prompt=prompt)
        alice = await town(swarm, monkeypatch, "mallory", "mortimer", "bob")
        tokens, _, took_s, recoveries = await read(alice, replace(REQUEST, prompt_tokens=prompt))
        assert (tokens, recoveries) == (fake_text(TARGET, prompt, 60), 1)
        assert took_s < 30

    story(tmp_path, tell)


def test_who_was_slow_does_not_make_it_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory gave a whole reply when nobody else was there, and mortimer, his other name, is no faster."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await drips(swarm)
        alice = await swarm.client()
        await read(alice)
        await drips(swarm, "mortimer")
        await swarm.add("bob", drafts=True)
        await asyncio.sleep(15)  # everybody has been announced
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "mortimer", "bob")
        tokens, _, took_s, recoveries = await read(alice)
        assert (tokens, recoveries) == (EXPECTED, 1)
        assert took_s < FOUND_S

    story(tmp_path, tell)


# --- what is known of paces


def test_a_pace_is_that_of_what_comes_after_the_first_tokens() -> None:
    pace = Pace()
    assert pace.tokens_per_s(9.0) is None
    pace.heard(10.0, 40)
    assert pace.tokens_per_s() is None, "they came at once: how long they took is not known"
    pace.heard(11.0, 3)
    assert pace.tokens_per_s() is None, "too little"
    pace.heard(12.0, 3)
    assert (pace.tokens_per_s(), pace.tokens_per_s(16.0), pace.num_tokens) == (3.0, 1.0, 46)


def test_who_gives_less_than_a_third_of_what_the_fastest_other_one_gives_is_slow() -> None:
    paces = Paces()
    assert (paces.least("m", b"bob"), paces.rank("m", b"bob")) == (SLOW, 1)
    for name, pace in {b"bob": 30.0, b"dora": 9.0, b"dan": 60.0}.items():
        paces.note("m", name, pace)
    assert [paces.rank("m", name) for name in (b"bob", b"dora", b"dan", b"eve")] == [0, 2, 0, 1]
    assert [paces.least("m", name) for name in (b"bob", b"dan", b"eve")] == [
        60.0 / SLOWER,
        30.0 / SLOWER,
        60.0 / SLOWER,
    ]
    assert (paces.least("other", b"bob"), paces.rank("other", b"bob")) == (SLOW, 1)
    paces.forget("m", b"dan")
    assert (paces.least("m", b"bob") * SLOWER, paces.rank("m", b"dan")) == (9.0, 1)


def test_where_all_are_slow_nobody_is() -> None:
    paces = Paces()
    paces.note("m", b"dora", 0.5)
    assert paces.rank("m", b"dora") == 2, "that all are is not known yet"
    paces.note("m", b"dan", 0.6)
    assert [paces.rank("m", name) for name in (b"dora", b"dan", b"bob")] == [0, 0, 1]


def test_paces_of_so_many_drafters_are_kept() -> None:
    paces = Paces()
    for number in range(2 * MAX_PACES):
        paces.note("m", number.to_bytes(4, "big"), 9.0)
    assert len(paces._known) == MAX_PACES

"""A drafter that failed once may be the best there is: when alice leaves one, and whom she asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import GenerateRequest, Piece
from dsdnode.client.failures import MAX_TRIES, Failures
from dsdnode.client.losses import Left
from dsdnode.client.pace import MIN_TOKENS
from dsdnode.client.rivals import Rivals
from dsdnode.config import DEFAULT_PATIENCE_S
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import NoPipeline, Overloaded, PeerUnavailable
from dsdnode.net.rpc import LinkBroken
from dsdnode.wire import replies
from dsdnode.wire.messages import Message, Open, Pong, Refused
from dsdnode.wire.numbers import pack_tokens
from tests.client.test_another_drafter import shown
from tests.client.test_drafters import BAD_ONE_S, ask_first, says_no
from tests.client.test_slow_drafters import drips, read, town
from tests.client.test_trust import ring
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, id_of
from tests.node.swarm import FakeSwarm, Member
from tests.node.test_drafter_host import some, story
from tests.node.test_waits import Listener, lies, nothing, now


def stalling(swarm: FakeSwarm, pause_s: float) -> Callable[[], None]:
    """Called, it holds up whatever sam computes next."""
    sam = swarm.members["sam"].shard
    assert sam is not None
    forward, pauses_s = sam.forward, list[float]()

    async def held_up(chunks: Sequence[Chunk]) -> list[Output]:
        if pauses_s:
            await asyncio.sleep(pauses_s.pop())
        return await forward(chunks)

    sam.forward = held_up  # type: ignore[method-assign]
    return lambda: pauses_s.append(pause_s)


def asked_of(member: Member) -> list[bytes]:
    """Requests for a reply that it gets from now on."""
    rpc, asked = member.node.rpc, list[bytes]()
    honest = rpc._on_request[replies.Generate]

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        asked.extend([message.request] if buffers else [])
        return await honest(peer, message, buffers)

    rpc.on_request(replies.Generate, generate)
    return asked


def fails_first(member: Member, after_s: float) -> list[bytes]:
    """Its first reply ends without a token. Who asked it."""
    rpc, asked = member.node.rpc, list[bytes]()
    honest = rpc._on_request[replies.Generate]

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        if not buffers and len(asked) < 2:
            return Pong(), []
        if buffers:
            asked.append(message.request)
        if len(asked) != 1:
            return await honest(peer, message, buffers)
        failed = replies.Finished(message.request, "", "PeerUnavailable", "no more of it")
        asyncio.get_running_loop().call_later(after_s, rpc.notify, peer, failed)
        assert member.draft is not None
        return replies.Accepted(message.request, member.draft.shard.model_id), [pack_tokens(list(PROMPT))]

    rpc.on_request(replies.Generate, generate)
    return asked


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked beside whoever gives a reply: what is left is the patience that one drafter has of it."""

    async def watch(self: Rivals, giver: Any) -> None:
        """Not at all."""

    monkeypatch.setattr(Rivals, "_watch", watch)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("error", ["WorkFailed", "Nonsense"])
def test_who_gave_tokens_is_not_left_for_one_that_could_not_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """Dora's pipeline stands still for a while: mallory, who said no before, is no better."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "mallory")
        swarm.members["mallory"].node.rpc.on_request(replies.Generate, says_no(error))
        stall, alice = stalling(swarm, 0.6 * DEFAULT_PATIENCE_S), await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "mallory", "dora")
        asked, listener, events = asked_of(swarm.members["dora"]), Listener(), alice.generate(REQUEST)
        tokens = await some(events, 5)
        stall()
        await listener.go_on(events)
        assert tokens + listener.tokens == EXPECTED
        assert len(asked) == 1, "dora went on"

    story(tmp_path, tell)


@pytest.mark.usefixtures("alone")
def test_who_gave_tokens_is_asked_again_when_the_others_give_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dora's pipeline stands still for a while, and mallory, who is asked in her place, gives nothing at all."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        await lies(swarm, nothing)
        stall, alice = stalling(swarm, 0.5 * DEFAULT_PATIENCE_S), await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "dora", "mallory")
        asked, listener, events = asked_of(swarm.members["dora"]), Listener(), alice.generate(REQUEST)
        began_s = now()
        tokens = await some(events, 5)
        stall()
        await listener.go_on(events)
        assert tokens + listener.tokens == EXPECTED
        assert len(asked) == 2, "dora was left in between"
        assert now() - began_s < DEFAULT_PATIENCE_S

    story(tmp_path, tell)


def test_who_failed_once_is_asked_again_beside_one_that_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory is asked beside dora, whose connection breaks: nobody else is left to ask beside mallory."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        await lies(swarm, nothing)
        alice = await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "dora", "mallory")
        asked = fails_first(swarm.members["dora"], 5.0)
        listener, began_s = Listener(), now()
        await listener.read(alice)
        assert listener.tokens == EXPECTED
        assert len(asked) == 2
        assert now() - began_s < 5 + 2 * BAD_ONE_S

    story(tmp_path, tell)


@pytest.mark.usefixtures("alone")
def test_one_that_was_asked_just_before_another_s_first_token_may_be_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory's first token comes a second after dora was asked beside him, and no second one."""

    def gives_one(mallory: Member, client: bytes, request: bytes, second: int) -> None:
        if second == 4:
            mallory.node.rpc.notify(client, replies.Piece(request, 0, 0), [pack_tokens(EXPECTED[:1]), b""])

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        asked = await lies(swarm, gives_one)
        alice = await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "mallory", "dora")
        listener, began_s = Listener(), now()
        await listener.read(alice, replace(REQUEST, max_tokens=20))
        assert (listener.tokens, listener.reason) == (EXPECTED[:20], "length")
        assert now() - began_s < DEFAULT_PATIENCE_S, "of him alone it never ends"
        assert len(asked) == 1

    story(tmp_path, tell, cost=lambda num: 1.0)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("gives_way", [False, True])
def test_who_gives_a_few_tokens_whenever_he_is_asked_does_not_keep_a_reply_that_others_wait_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives_way: bool
) -> None:
    """Mallory has five tokens each time, and no sixth. Dora, who is asked after him, has to wait for a place at sam, or
    gives way to others, just when he is asked beside her."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        asked, alice = await drips(swarm, every_s=1000.0, first=5), await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "mallory", "dora")
        free_s, dora, mallory = now() + 45, swarm.members["dora"].node, swarm.members["mallory"].node
        drip, waiting = mallory.rpc._on_request[replies.Generate], dora._drafter._deliveries

        async def taken(peer: bytes, message: Open, buffers: list[bytes]) -> Any:
            is_free = now() > free_s
            return await open_(peer, message, buffers) if is_free else (Refused("all is taken", retry=True), [])

        async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
            for delivery in list(waiting.values()) if gives_way else ():
                delivery.give_way()
            return await drip(peer, message, buffers)

        sam = swarm.members["sam"].node.rpc
        open_ = sam._on_request[Open]
        sam.on_request(Open, taken)
        mallory.rpc.on_request(replies.Generate, generate)
        listener = Listener()
        await listener.read(alice)
        assert listener.tokens == EXPECTED
        assert len(asked) == 2, "beside dora, too"

    story(tmp_path, tell)


def test_who_says_no_just_when_another_is_asked_beside_him_does_not_end_the_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory began it, and gives no more; there is nobody but bob."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "bob")
        await drips(swarm, every_s=1000.0, first=5)
        alice = await town(swarm, monkeypatch, "mallory", "bob")
        bob, mallory = (swarm.members[name].node.rpc for name in ("bob", "mallory"))
        honest = bob._on_request[replies.Generate]

        async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
            first, *_ = alice._askings.inboxes
            if first != message.request:
                mallory.notify(peer, replies.Finished(first, "", "BadInput", "mallory says so"), [])
            return await honest(peer, message, buffers)

        bob.on_request(replies.Generate, generate)
        tokens, *_, recoveries = await read(alice)
        assert (tokens, recoveries) == (EXPECTED, 1)

    story(tmp_path, tell)


@pytest.mark.parametrize("others", [["dan"], []])
def test_what_dora_held_back_until_she_found_nobody_to_go_on_with_is_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[str]
) -> None:
    """It may begin a stop text. Dan says it again with what comes next; and where there is no dan it is the end."""
    shown_before, held_back = shown(EXPECTED[:5])[:-1], shown(EXPECTED[:5])[-1:]

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, *others)
        dora = await swarm.add("dora", drafts=True)

        async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
            says: list[tuple[Message, list[bytes]]] = [
                (replies.Piece(message.request, 0, 0), [pack_tokens(EXPECTED[:5]), shown_before.encode()]),
                (replies.Piece(message.request, 5, 0), [b"", held_back.encode()]),
                (replies.Finished(message.request, "", "NoPipeline", "sam is gone"), []),
            ]
            for notice, buffers in says:
                asyncio.get_running_loop().call_later(0.1, dora.node.rpc.notify, peer, notice, buffers)
            assert dora.draft is not None
            return replies.Accepted(message.request, dora.draft.shard.model_id), [pack_tokens(list(PROMPT))]

        dora.node.rpc.on_request(replies.Generate, generate)
        alice, texts, words = await town(swarm, monkeypatch, "dora", *others), list[str](), ""
        try:
            async for event in alice.generate(replace(REQUEST, stop=(held_back + "never",))):
                texts += [event.text] if isinstance(event, Piece) else []
        except NoPipeline as error:
            words = str(error)
        assert ("".join(texts), words) == ((shown(EXPECTED), "") if others else (shown(EXPECTED[:5]), "sam is gone"))

    story(tmp_path, tell)


@pytest.mark.parametrize("error", ["Overloaded", "BadInput"])
def test_who_reads_a_long_prompt_has_its_time_whatever_one_says_that_is_asked_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """It takes dora longer than alice waits for a token."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan")
        swarm.members["dan"].node.rpc.on_request(replies.Generate, says_no(error))
        alice, listener = await town(swarm, monkeypatch, "dora", "dan"), Listener()
        await listener.read(alice, GenerateRequest(prompt_tokens=tuple([7] * 1300), max_tokens=4))
        assert (len(listener.tokens), listener.reason) == (4, "length")

    story(tmp_path, tell, cost=lambda num: 0.06 * num)


def test_who_never_has_time_to_read_a_prompt_is_waited_for_as_long_as_for_a_reply(tmp_path: Path) -> None:
    async def busy(peer: bytes, message: replies.ReadText, buffers: list[bytes]) -> Any:
        return Refused("dora is busy", retry=True), []

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice = await swarm.client()
        swarm.members["dora"].node.rpc.on_request(replies.ReadText, busy)
        async with asyncio.timeout(DEFAULT_PATIENCE_S + 4):
            with pytest.raises(Overloaded, match="dora is busy"):
                await alice.read_text(REQUEST)

    story(tmp_path, tell)


def test_of_those_that_were_left_the_last_one_is_asked_last(tmp_path: Path) -> None:
    """Dora was left once, for a moment without a token; mallory gives none at all, and alice joined him."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        asked = await lies(swarm, nothing)
        alice = await swarm.client()
        alice._drafters.joined = [swarm.members["mallory"].node.peer_id]
        alice._drafters.left(swarm.members["dora"].node.peer_id)
        for _ in range(3):
            listener = Listener()
            await listener.read(alice)
            assert listener.tokens == EXPECTED
        assert len(asked) == 1

    story(tmp_path, tell)


@pytest.mark.parametrize("name", [None, "fake"])
def test_a_swarm_that_alice_was_in_is_waited_for_while_her_own_network_is_gone(
    tmp_path: Path, name: str | None
) -> None:
    """Nobody answers her. That says nothing of which models there are."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, cuts = await swarm.client(), swarm.hub.cuts  # type: ignore[attr-defined]
        await Listener().read(alice)
        cuts.update(frozenset((id_of(alice), member.node.peer_id)) for member in swarm.members.values())
        with pytest.raises(NoPipeline, match="does not answer"):
            await Listener().read(alice, replace(REQUEST, model=name))
        asyncio.get_running_loop().call_later(20, cuts.clear)
        listener = Listener()
        await listener.read(alice, replace(REQUEST, model=name))
        assert listener.tokens == EXPECTED and "does not answer" in listener.words[0]

    story(tmp_path, tell)


def test_a_drafter_whose_link_broke_has_not_failed() -> None:
    """It is there, by another one: it is asked again, however often that happens."""
    failures, dora = Failures(), b"dora"
    for _ in range(5):
        failures.note(dora, LinkBroken("a connection to it has ended"), 0)
    assert failures[dora].again
    for _ in range(MAX_TRIES):
        failures.note(dora, PeerUnavailable("it does not answer"), 0)
    assert failures[dora].final


def test_who_is_left_twice_after_a_few_tokens_is_not_asked_again() -> None:
    """Mallory has one token each half a minute, and each time he is asked; dora stalls in a long reply now and then."""
    failures, dora, mallory = Failures(), b"dora", b"mallory"
    for num_given in (1, MIN_TOKENS, 200):
        failures.note(dora, Left("it says nothing"), num_given)
        assert failures[dora].again
    failures.note(mallory, Left("it says nothing"), MIN_TOKENS - 1)
    assert failures[mallory].again
    failures.note(mallory, Left("it says nothing"), MIN_TOKENS - 1)
    assert failures[mallory].final

"""Alice has no drafter of her own: whom she asks, what bad ones cost, and that who is away is waited for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsdnode.cli.render import stats_line
from dsdnode.client.asking import ASK_TIMEOUT_S, Asking
from dsdnode.client.client import Finished
from dsdnode.client.patience import MARGIN_S, MAX_ASIDE
from dsdnode.client.request import WORDS_EVERY_S, PendingReply
from dsdnode.config import DEFAULT_PATIENCE_S, STILL_S
from dsdnode.engine.fake import fake_text
from dsdnode.errors import BadInput, NoPipeline, Overloaded
from dsdnode.swarm.pings import PING_TIMEOUT_S
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body
from dsdnode.wire.messages import Pong, WireAcceptance
from dsdnode.wire.numbers import pack_tokens
from tests.client.test_trust import ring
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, id_of, rest
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_drafter_host import all_free, some, story
from tests.node.test_waits import Listener, Speaks, excuses, lies, named, nothing, now

BAD_ONE_S = 4.0
"""At most, of each that is asked before an honest one."""
REPLY_S = 2.0
"""A lookup among peers of whom some are gone, and all of the reply."""


def ask_first(monkeypatch: pytest.MonkeyPatch, swarm: FakeSwarm, *names: str) -> None:
    """The lots fall so."""
    order = [swarm.members[name].node.peer_id for name in names]
    monkeypatch.setattr(
        "dsdnode.client.drafters.by_lot",
        lambda drafters, *_: sorted(drafters, key=lambda one: order.index(one.peer_id) if one.peer_id in order else 99),
    )


@pytest.mark.parametrize("num", [1, 5])
@pytest.mark.parametrize("speaks", [nothing, excuses])
def test_drafters_that_give_nothing_cost_some_seconds_each_whatever_the_lot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaks: Speaks, num: int
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        for number in range(num):
            await lies(swarm, speaks, name=f"mallory{number}")
        alice = await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, *(f"mallory{number}" for number in range(num)))
        listener, began_s = Listener(), now()
        await listener.read(alice)
        assert listener.tokens == EXPECTED
        assert now() - began_s < num * BAD_ONE_S + REPLY_S
        listener, began_s = Listener(), now()
        await listener.read(alice)
        assert now() - began_s < 2, "she remembers"

    story(tmp_path, tell)


def test_a_drafter_that_says_that_the_prompt_is_long_has_no_longer_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        await lies(swarm, nothing, prompt=(7,) * 1000)
        alice = await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "mallory")
        listener, began_s = Listener(), now()
        await listener.read(alice, type(REQUEST)(prompt="tell", max_tokens=60))
        assert listener.tokens == fake_text(TARGET, [1 + (ord(letter) - 33) % 96 for letter in "tell"], 60)
        assert now() - began_s < 2 * BAD_ONE_S + REPLY_S

    story(tmp_path, tell)


def test_drafters_that_are_gone_are_asked_at_once_whether_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghosts = [f"ghost{number}" for number in range(8)]

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", *ghosts)
        alice = await swarm.client()
        alice._drafters.joined = ()
        for name in ghosts:
            swarm.hub.cuts.add(frozenset((id_of(alice), swarm.members[name].node.peer_id)))  # type: ignore[attr-defined]
        ask_first(monkeypatch, swarm, *ghosts)
        listener, began_s, asked, ask = Listener(), now(), list[bytes](), alice._askings.ask

        def asks(pending: PendingReply, drafter: bytes) -> Asking:
            asked.append(drafter)
            return ask(pending, drafter)

        monkeypatch.setattr(alice._askings, "ask", asks)
        await listener.read(alice)
        assert listener.tokens == EXPECTED
        assert now() - began_s < PING_TIMEOUT_S / 2 + REPLY_S
        assert asked == [swarm.members["dora"].node.peer_id], "nobody else was asked for the reply"

    story(tmp_path, tell)


def test_a_slow_drafter_goes_on_when_nobody_beside_it_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token takes everybody eight seconds: dora, who was asked first, gives it, and the others are free."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan", "dave")
        alice = await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "dora", "dan", "dave")
        events = alice.generate(REQUEST)
        tokens = await some(events, 1)
        assert swarm.members["dora"].node.status().sessions.drafter == 1
        await events.aclose()
        assert tokens == EXPECTED[: len(tokens)]
        await all_free(swarm, within_s=70)

    story(tmp_path, tell, cost=lambda num: 8.0)


def test_a_long_prompt_is_read_by_one_drafter_if_it_takes_no_longer_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        names = ("dora", "dan", "dave", "don")
        await ring(swarm, *names)
        alice = await swarm.client()
        await asyncio.sleep(5)  # everybody has been announced
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, *names)
        reading, began_s = asyncio.create_task(Listener().read(alice, replies_of(tuple([7] * 400)))), now()
        while not reading.done():
            await asyncio.sleep(0.5)
            assert sum(swarm.members[name].node.status().sessions.drafter for name in names) <= 1
        assert now() - began_s > 10
        await reading

    story(tmp_path, tell, cost=lambda num: 0.03 * num)


def says_no(error: str) -> Callable[..., Any]:
    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        return replies.Finished(message.request, "", error, "mallory says so"), []

    return generate


@pytest.mark.parametrize("error", ["BadInput", "NoPipeline", "ModelRefused"])
def test_what_one_drafter_says_of_the_whole_reply_is_believed_when_a_second_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "mallory")
        alice = await swarm.client()
        alice._drafters.joined = ()
        swarm.members["mallory"].node.rpc.on_request(replies.Generate, says_no(error))
        ask_first(monkeypatch, swarm, "mallory", "dora")
        listener = Listener()
        await listener.read(alice)
        assert listener.tokens == EXPECTED
        swarm.members["dora"].node.rpc.on_request(replies.Generate, says_no(error))
        with pytest.raises(NoPipeline if error == "NoPipeline" else Exception, match="mallory says so"):
            await Listener().read(alice)

    story(tmp_path, tell)


def test_an_honest_no_comes_at_once(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan")
        alice, began_s = await swarm.client(), now()
        with pytest.raises(BadInput, match="token ids below"):
            await Listener().read(alice, replies_of((5, 1000)))
        assert now() - began_s < 3

    story(tmp_path, tell)


def replies_of(prompt: tuple[int, ...]) -> Any:
    return type(REQUEST)(prompt_tokens=prompt, max_tokens=4)


@pytest.mark.parametrize("asked_before", [True, False])
def test_drafters_that_are_away_for_ten_seconds_are_waited_for(tmp_path: Path, asked_before: bool) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan")
        alice, listener = await swarm.client(), Listener()
        await asyncio.sleep(5)  # everybody has been announced
        if asked_before:
            listener.tokens = await some(events := alice.generate(REQUEST, listener.told), 10)
        else:
            events = alice.generate(REQUEST, listener.told)
        names = sorted(named(swarm.members[name]) for name in ("dora", "dan"))
        for name in ("dora", "dan"):
            await swarm.kill(name)
        began_s = now()
        asyncio.get_running_loop().call_later(10, lambda: asyncio.ensure_future(swarm.add("dora", drafts=True)))
        await listener.go_on(events)
        assert (listener.tokens, listener.reason) == (EXPECTED, "length")
        assert 10 < now() - began_s < 25
        assert STILL_S <= listener.first_word_s - began_s < 15
        [words] = {words for words in listener.words if "waiting for a drafter" in words}
        assert [name for name in names if name in words] == names

    story(tmp_path, tell)


def test_a_drafter_that_starts_again_is_waited_for_until_it_can_draft(tmp_path: Path) -> None:
    """It answers pings long before: its engine takes ten seconds."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, listener = await swarm.client(), Listener()
        listener.tokens = await some(events := alice.generate(REQUEST, listener.told), 10)
        await swarm.kill("dora")
        again = asyncio.create_task(swarm.add("dora", drafts=True, drafts_after_s=10.0))
        began_s = now()
        await listener.go_on(events)
        assert (listener.tokens, listener.reason) == (EXPECTED, "length")
        assert 10 < now() - began_s < 15
        assert any("this peer is starting" in words for words in listener.words)
        await again

    story(tmp_path, tell)


def test_drafters_that_are_gone_for_good_are_named_at_the_end(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, listener = await swarm.client(), Listener()
        events = alice.generate(REQUEST, listener.told)
        listener.tokens = await some(events, 10)
        dora, began_s = named(swarm.members["dora"]), now()
        await swarm.kill("dora")
        with pytest.raises(NoPipeline, match=rf"no drafter is left for fake \(waited for .*{dora} does not answer"):
            async with asyncio.timeout(2 * DEFAULT_PATIENCE_S):
                await listener.go_on(events)
        assert listener.tokens == EXPECTED[: len(listener.tokens)]
        assert DEFAULT_PATIENCE_S - 1 < now() - began_s < DEFAULT_PATIENCE_S + 4
        assert listener.first_word_s - began_s < 15

    story(tmp_path, tell)


def test_drafters_that_stay_full_are_named_while_they_are_waited_for(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, listener = await swarm.client(), Listener()
        swarm.members["dora"].node.rpc.on_request(replies.Generate, says_no("Overloaded"))
        began_s = now()
        with pytest.raises(Overloaded, match="mallory says so"):
            await listener.read(alice)
        assert now() - began_s < DEFAULT_PATIENCE_S + 4
        assert listener.words == [
            f"waiting for a place at the drafter {named(swarm.members['dora'])} (mallory says so)"
        ]
        assert listener.first_word_s - began_s < 15

    story(tmp_path, tell)


def test_a_user_s_wait_for_a_place_is_part_of_the_time_to_the_first_token(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, rpc = await swarm.client(), swarm.members["dora"].node.rpc
        serves = rpc._on_request[replies.Generate]
        rpc.on_request(replies.Generate, says_no("Overloaded"))
        asyncio.get_running_loop().call_later(40, rpc.on_request, replies.Generate, serves)
        [*_, end] = [event async for event in alice.generate(REQUEST)]
        assert isinstance(end, Finished)
        assert (end.stats.time_to_first_token_s or 0.0) < 2 and 40 < (end.stats.waited_s or 0.0) < 42
        assert re.search(
            r"first token 4[01]\.\d s \((39|40|41)\.\d s of it waiting for a place\)", stats_line(end.stats)
        )
        [*_, end] = [event async for event in alice.generate(REQUEST)]
        assert isinstance(end, Finished) and "waiting" not in stats_line(end.stats)

    story(tmp_path, tell)


def test_what_a_drafter_promised_that_gave_nothing_binds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory would accept by a laxer rule; dora, who is asked beside him, has her own."""

    async def laxer(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        body = decode_body(buffers[0], replies.GenerateBody) if buffers else None
        rule = WireAcceptance(0.3)
        return (replies.Accepted(message.request, body.model, rule), [pack_tokens(list(PROMPT))]) if body else Pong()

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "mallory")
        swarm.members["mallory"].node.rpc.on_request(replies.Generate, laxer)
        alice = await swarm.client()
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "mallory", "dora")
        tokens: list[int] = []
        finished = await rest(alice.generate(REQUEST), tokens)
        assert (tokens, finished.stats.acceptance, finished.stats.recoveries) == (EXPECTED, "exact", 0)

    story(tmp_path, tell)


def test_no_more_than_three_are_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        names = [f"mallory{number}" for number in range(6)]
        asked = [await lies(swarm, nothing, name=name) for name in names]
        alice = await swarm.client()
        reading = asyncio.create_task(Listener().read(alice))
        most = 0
        while not all(asked):
            await asyncio.sleep(0.5)
            most = max(most, len(alice._askings.inboxes))
        assert most == MAX_ASIDE
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert not alice._askings.inboxes

    story(tmp_path, tell)


def test_a_drafter_that_vanishes_just_after_it_was_chosen_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ten seconds for a prompt and a lookup."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, dora = await swarm.client(), swarm.members["dora"].node.peer_id

        async def race(peers: Sequence[bytes]) -> list[bytes]:
            swarm.hub.cuts.add(frozenset((id_of(alice), dora)))  # type: ignore[attr-defined]
            return list(peers)

        monkeypatch.setattr(alice._pings, "race", race)
        listener, began_s = Listener(), now()
        with pytest.raises(NoPipeline):
            await listener.read(alice)
        assert listener.first_word_s - began_s < ASK_TIMEOUT_S - 1

    story(tmp_path, tell)


def test_a_no_that_others_cannot_gainsay_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dan is gone when dora says no."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan")
        alice = await swarm.client()
        await asyncio.sleep(5)  # everybody has been announced
        alice._drafters.joined = ()
        ask_first(monkeypatch, swarm, "dora", "dan")
        swarm.members["dora"].node.rpc.on_request(replies.Generate, says_no("BadInput"))
        swarm.hub.cuts.add(frozenset((id_of(alice), swarm.members["dan"].node.peer_id)))  # type: ignore[attr-defined]
        began_s = now()
        with pytest.raises(BadInput, match="mallory says so"):
            await Listener().read(alice)
        assert now() - began_s < 10

    story(tmp_path, tell)


def test_a_drafter_s_words_come_no_faster_than_one_can_read(tmp_path: Path) -> None:
    def babbles(mallory: Member, client: bytes, request: bytes, second: int) -> None:
        for word in range(10):
            mallory.node.rpc.notify(client, replies.Waiting(request, f"{second} {word}"))

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await lies(swarm, babbles)
        listener = Listener()
        with pytest.raises(NoPipeline, match="nothing came for"):
            await listener.read(await swarm.client())
        assert len(listener.words) <= 1 + (DEFAULT_PATIENCE_S + MARGIN_S) / WORDS_EVERY_S

    story(tmp_path, tell)

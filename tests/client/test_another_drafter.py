"""Another drafter goes on with alice's reply, or is asked after one has said no: whose word counts for what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.client.losses import OtherPrompt
from dsdnode.client.part import Part, Taken, Way
from dsdnode.client.request import PendingReply
from dsdnode.engine.fake import FakeModel, fake_text
from dsdnode.errors import BadInput, DsdError, ModelRefused, NoPipeline, Overloaded, PeerMisbehaved
from dsdnode.swarm.catalogue import Model
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.messages import Open, Refused
from dsdnode.wire.numbers import pack_tokens
from tests.node.mallory import EXPECTED, REQUEST, ring
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_drafter_host import some, story
from tests.node.test_waits import Listener, lying, now

TEXT = "tell"
ASKED = {
    "text": (replace(REQUEST, prompt_tokens=None, prompt=TEXT), TEXT),
    "messages": (replace(REQUEST, prompt_tokens=None, messages=[{"role": "user", "content": TEXT}]), f"user: {TEXT}"),
}


def shown(tokens: Sequence[int]) -> str:
    return "".join(chr(32 + token) for token in tokens)


def reply_to(text: str) -> list[int]:
    return fake_text(TARGET, [1 + (ord(letter) - 33) % 96 for letter in text], 60)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("num_given", [1, 7])
def test_a_drafter_whose_tokens_are_right_may_not_say_what_was_asked(
    tmp_path: Path, asked: str, num_given: int
) -> None:
    """Mallory gives the first tokens of the right reply, beside another prompt's ids: who went on from these would
    answer mallory's question."""
    request, text = ASKED[asked]
    right = reply_to(text)

    def speaks(mallory: Member, client: bytes, name: bytes, second: int) -> None:
        if second == 0:
            given = right[:num_given]
            mallory.node.rpc.notify(client, replies.Piece(name, 0, 0), [pack_tokens(given), shown(given).encode()])

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, asked = await lying(swarm, speaks, prompt=(9, 9, 9, 9))
        listener = Listener()
        pieces: list[str] = []
        async for event in alice.generate(request, listener.told):
            if isinstance(event, Piece):
                listener.tokens += event.tokens
                pieces.append(event.text)
        assert (listener.tokens, "".join(pieces)) == (right, shown(right))
        assert asked
        assert any("over again" in words for words in listener.words)

    story(tmp_path, tell)


def test_of_two_drafters_that_contradict_each_other_the_later_one_begins_the_next_reply(tmp_path: Path) -> None:
    """Mallory's tokens are right, and the text beside them is not: nothing takes that back, and the reply ends."""
    request, text = ASKED["text"]
    right = reply_to(text)

    def speaks(mallory: Member, client: bytes, name: bytes, second: int) -> None:
        if second == 0:
            mallory.node.rpc.notify(client, replies.Piece(name, 0, 0), [pack_tokens(right[:3]), b"spam"])
            mallory.node.rpc.notify(client, replies.Finished(name, "", "PeerUnavailable", "gone"))

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, asked = await lying(swarm, speaks, prompt=(9, 9, 9, 9))
        with pytest.raises(NoPipeline, match="another text for the same tokens"):
            await Listener().read(alice, request)
        num_asked = len(asked)
        await alice.peers()  # it answers pings, and is remembered all the same
        listener = Listener()
        await listener.read(alice, request)
        assert listener.tokens == right
        assert len(asked) == num_asked

    story(tmp_path, tell)


@pytest.mark.parametrize("both_contradict", [True, False])
def test_whom_two_contradict_is_not_asked_while_the_others_wait_for_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both_contradict: bool
) -> None:
    """Whenever he is asked mallory is there first, with what nobody can go on with. (Of two one may lie.)"""
    request, text = ASKED["text"]
    right = reply_to(text)

    def speaks(mallory: Member, client: bytes, name: bytes, second: int) -> None:
        if second == 0:
            mallory.node.rpc.notify(client, replies.Piece(name, 0, 0), [pack_tokens(right[:3]), b"spam"])
            mallory.node.rpc.notify(client, replies.Finished(name, "", "PeerUnavailable", "gone"))

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        await swarm.add("dan", drafts=True)
        alice, asked = await lying(swarm, speaks, prompt=(9, 9, 9, 9))
        await asyncio.sleep(5)  # everybody has been announced
        if both_contradict:
            monkeypatch.setattr(alice._drafters, "_network_of", lambda one: one.peer_id.hex())
        with pytest.raises(NoPipeline, match="another text for the same tokens"):
            await Listener().read(alice, request)
        sam, free_s = swarm.members["sam"].node.rpc, now() + 20
        open_ = sam._on_request[Open]

        async def taken(peer: bytes, message: Open, buffers: list[bytes]) -> Any:
            is_free = now() > free_s
            return await open_(peer, message, buffers) if is_free else (Refused("all is taken", retry=True), [])

        sam.on_request(Open, taken)
        asked.clear()
        listener = Listener()
        if both_contradict:
            await listener.read(alice, request)
            assert (listener.tokens, asked) == (right, [])
        else:
            with pytest.raises(NoPipeline):
                await listener.read(alice, request)
            assert asked

    story(tmp_path, tell)


def other_template(member: Member) -> None:
    engine = member.draft
    assert engine is not None

    async def render(messages: Sequence[Any], tools: str = "") -> list[int]:
        assert engine is not None
        return await engine.tokenize("\n".join(f"<{role}> {content}" for role, content, *_ in messages))

    engine.render = render  # type: ignore[method-assign]


def test_a_reply_goes_on_where_the_next_drafter_has_another_template(tmp_path: Path) -> None:
    """Both are honest: the reply stays the one that dora began."""
    request, text = ASKED["messages"]

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        alice._drafters.joined = [swarm.members["dora"].node.peer_id]
        other_template(await swarm.add("don", drafts=True))
        events = alice.generate(request)
        tokens = await some(events, 10)
        await swarm.kill("dora")
        async for event in events:
            if isinstance(event, Piece):
                tokens += event.tokens
        assert tokens == reply_to(text)

    story(tmp_path, tell)


def begun(request: GenerateRequest) -> PendingReply:
    """Alice has the tokens 1 and 2, `ab`, of a drafter that is gone."""
    pending = PendingReply(request, Model("ab" * 32, "fake", 4, 16, 97, "cd" * 32, 4096, (), 1, ""))
    part, _ = pending.begin()
    pending.take(accepted(pending, part, [5, 17]))
    pending.event(part, part.read(replies.Piece(part.request, 0, 0), [pack_tokens([1, 2]), b"ab"]))
    return pending


def accepted(pending: PendingReply, part: Part, prompt: list[int]) -> Taken:
    part.taken = pending.checked(part, replies.Accepted(part.request, "ab" * 32), [pack_tokens(prompt)])
    return part.taken


async def test_who_goes_on_is_asked_what_the_first_was_asked() -> None:
    pending = begun(ASKED["text"][0])
    part, packed = pending.begin()
    body = decode_body(packed, replies.GenerateBody)
    assert (body.text, body.prompt_tokens, body.tokens) == (TEXT, (), (1, 2))
    with pytest.raises(OtherPrompt):
        accepted(pending, part, [5, 18])


@pytest.mark.parametrize(
    ("tokens", "text", "error"),
    [([1, 3], b"ac", OtherPrompt), ([3], b"c", OtherPrompt), ([1, 2, 3], b"axc", PeerMisbehaved)],
)
async def test_who_does_it_over_again_must_come_to_the_same(
    tokens: list[int], text: bytes, error: type[DsdError]
) -> None:
    pending = begun(ASKED["text"][0])
    part, packed = pending.begin(Way.OVER)
    assert decode_body(packed, replies.GenerateBody).tokens == ()
    accepted(pending, part, [5, 18])
    with pytest.raises(error):
        part.read(replies.Piece(part.request, 0, 0), [pack_tokens(tokens), text])
    assert pending.tokens == [1, 2], "what nobody heard is not there"


async def test_what_was_shown_is_not_shown_again() -> None:
    pending = begun(ASKED["text"][0])
    part, _ = pending.begin(Way.OVER)
    taken = accepted(pending, part, [5, 18])
    first = part.read(replies.Piece(part.request, 0, 1), [pack_tokens([1]), b"a"])
    second = part.read(replies.Piece(part.request, 1, 1), [pack_tokens([2, 3]), b"bc"])
    third = part.read(replies.Piece(part.request, 3, 0), [pack_tokens([4]), b"d"])
    assert [(one.tokens, one.text) for one in (first, second, third) if isinstance(one, Piece)] == [
        ((), ""),
        ((3,), "c"),
        ((4,), "d"),
    ]
    assert (pending.tokens, pending.prompt_tokens) == ([1, 2], (5, 17)), "another one may be faster"
    pending.take(taken)
    for news in (first, second, third):
        pending.event(part, news)
    assert (pending.tokens, pending.prompt_tokens) == ([1, 2, 3, 4], (5, 18))


async def test_a_reply_over_again_that_ends_too_soon_is_another() -> None:
    pending = begun(ASKED["text"][0])
    part, _ = pending.begin(Way.OVER)
    part.read(replies.Piece(part.request, 0, 0), [pack_tokens([1]), b"a"])
    told = encode_body(replies.Statistics(completion_tokens=1))
    with pytest.raises(OtherPrompt):
        part.read(replies.Finished(part.request, "stop"), [told])


# --- a drafter says no


SAID = {"BadInput": BadInput, "ModelRefused": ModelRefused, "NoPipeline": NoPipeline, "Strange": DsdError}


async def denies(swarm: FakeSwarm, alice: Client, name: str, error: str) -> list[bytes]:
    """A drafter that alice prefers, and that ends each reply in words. Who asked it."""
    mallory = await swarm.add(name, drafts=True)
    asked: list[bytes] = []

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        asked.append(message.request)
        return replies.Finished(message.request, "", error, f"{name} says so"), []

    mallory.node.rpc.on_request(replies.Generate, generate)
    alice._drafters.joined = [*alice._drafters.joined, mallory.node.peer_id]
    return asked


@pytest.mark.parametrize("error", SAID)
def test_a_drafter_that_says_it_cannot_be_done_is_not_the_only_one_asked(tmp_path: Path, error: str) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice = await swarm.client()
        alice._drafters.joined = []
        asked = await denies(swarm, alice, "mallory", error)
        await asyncio.sleep(5)
        for _ in range(2):
            listener = Listener()
            await listener.read(alice)
            assert (listener.tokens, listener.reason) == (EXPECTED, "length")
        assert len(asked) == 1, "it is remembered"

    story(tmp_path, tell)


def test_two_that_lie_alike_do_not_end_a_reply_that_a_third_one_gives(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, listener = await swarm.client(), Listener()
        alice._drafters.joined = []
        for name in ("mallory", "mortimer"):
            await denies(swarm, alice, name, "BadInput")
        await asyncio.sleep(5)
        await listener.read(alice)
        assert (listener.tokens, listener.reason) == (EXPECTED, "length")

    story(tmp_path, tell)


@pytest.mark.parametrize("error", ["WorkerDied", "WorkFailed"])
def test_one_drafter_s_engine_that_dies_of_it_again_and_again_does_not_end_a_reply(tmp_path: Path, error: str) -> None:
    """Dora takes a while, so mallory is asked once more beside her: what he says twice is still one's word."""
    request = replace(REQUEST, max_tokens=3)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, listener = await swarm.client(), Listener()
        alice._drafters.joined = []
        asked = await denies(swarm, alice, "mallory", error)
        await asyncio.sleep(5)
        await listener.read(alice, request)
        assert (listener.tokens, listener.reason) == (EXPECTED[:3], "length")
        assert len(asked) == 2

    story(tmp_path, tell, cost=lambda num: 2.0)


@pytest.mark.parametrize("error", SAID)
def test_what_nobody_does_ends_in_a_drafter_s_words(tmp_path: Path, error: str) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("sam", layers=(0, 4))
        alice = await swarm.client()
        alice._drafters.joined = []
        await denies(swarm, alice, "mallory", error)
        await denies(swarm, alice, "mortimer", error)
        await asyncio.sleep(5)
        began_s = now()
        with pytest.raises(SAID[error], match=r"(mallory|mortimer) says so"):
            await Listener().read(alice)
        assert now() - began_s < 2

    story(tmp_path, tell)


def test_a_drafter_that_is_full_is_not_waited_for_where_another_says_no(tmp_path: Path) -> None:
    """A question that is too long is told at once, however busy the others are."""

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("sam", layers=(0, 4))
        alice = await swarm.client()
        alice._drafters.joined = []
        await denies(swarm, alice, "mallory", "Overloaded")
        await denies(swarm, alice, "dora", "BadInput")
        await asyncio.sleep(5)
        began_s = now()
        with pytest.raises(BadInput, match="dora says so") as raised:
            await Listener().read(alice)
        assert now() - began_s < 2
        assert not isinstance(raised.value, Overloaded)

    story(tmp_path, tell)


# --- a rival of the model's name


RIVALS = {
    "refuses": (FakeModel(num_layers=2), REQUEST, NoPipeline),
    "is always full": (FakeModel(num_layers=2), REQUEST, Overloaded),
    "lacks tokens of the prompt": (FakeModel(num_layers=2, vocab_size=20, padding=-77), REQUEST, None),
    "lacks tokens of the text": (FakeModel(num_layers=2, vocab_size=20, padding=-77), ASKED["text"][0], BadInput),
}


@pytest.mark.parametrize("rival", RIVALS)
def test_a_model_of_the_same_name_that_comes_to_nothing_is_not_chosen_again(tmp_path: Path, rival: str) -> None:
    """Each has one host, and alice joined mallory's: nothing tells them apart."""
    target, request, error = RIVALS[rival]

    async def refuses(peer: bytes, message: Open, buffers: list[bytes]) -> Any:
        return Refused("not for you", retry=rival == "is always full"), []

    async def tell(swarm: FakeSwarm) -> None:
        mallory = await swarm.add("mallory", layers=(0, 2), target=target)
        mallory.node.rpc.on_request(Open, refuses)
        await swarm.add("sam", layers=(0, 4))
        await swarm.add("dora", drafts=True)
        await asyncio.sleep(5)
        alice = await swarm.client(patience_s=12)
        alice._drafters.joined = [mallory.node.peer_id]
        if error is not None:
            with pytest.raises(error):
                await Listener().read(alice, request)
        for _ in range(2):
            listener = Listener()
            await listener.read(alice, request)
            assert (listener.tokens, listener.reason) == (reply_to(TEXT) if request.prompt else EXPECTED, "length")

    story(tmp_path, tell)


def test_what_can_be_asked_of_no_model_is_no_fault_of_the_one_that_was_chosen(tmp_path: Path) -> None:
    """Alice joined sam's, and mallory's has the same name: after her own mistake she does not get mallory's reply."""

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("mallory", layers=(0, 2), target=FakeModel(num_layers=2))
        sam = await swarm.add("sam", layers=(0, 4))
        await swarm.add("dora", drafts=True)
        await asyncio.sleep(5)
        alice = await swarm.client()
        alice._drafters.joined = [sam.node.peer_id]
        with pytest.raises(BadInput):
            await Listener().read(alice, replace(REQUEST, prompt_tokens=None, prompt="\ud800"))
        listener = Listener()
        await listener.read(alice)
        assert listener.tokens == EXPECTED

    story(tmp_path, tell)

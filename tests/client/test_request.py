"""What a client asks for is what the stages are told; what it leaves open is the drafter's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.client.request import PendingReply
from dsdnode.errors import BadInput, PeerMisbehaved
from dsdnode.net.memory import MemoryHub, MemoryTransport
from dsdnode.net.port import Priority
from dsdnode.swarm.catalogue import Model
from dsdnode.wire import replies
from dsdnode.wire.codec import decode, decode_body
from dsdnode.wire.messages import WIRE_TYPES, Contact, Open, WireAcceptance
from dsdnode.wire.numbers import pack_tokens
from tests.node import jumping
from tests.node.swarm import FakeSwarm, fake_swarm, tokens_of

REQUEST = GenerateRequest(prompt_tokens=(5, 17, 42, 8), max_tokens=4, draft_max=4)
RELAXED: dict[str, Any] = {"acceptance": "relaxed", "threshold": 0.2}


class Tapped(MemoryTransport):
    """Keeps every Open that it sends."""

    opens: list[Open]

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        message = decode(frames).message
        if isinstance(message, Open):
            self.opens.append(message)
        super().send(peer, frames, priority)


class TappedHub(MemoryHub):
    def __init__(self) -> None:
        super().__init__()
        self.opens: list[Open] = []

    def transport(self, contact: Contact) -> MemoryTransport:
        transport = Tapped(self, contact)
        transport.opens = self.opens
        self.transports[transport._id] = transport
        return transport


def opens_of(folder: Path, request: GenerateRequest, **config: Any) -> list[Open]:
    """What bob, who drafts and is configured so, tells his stages of alice's reply."""
    hub = TappedHub()

    async def tell() -> None:
        async with fake_swarm(folder, hub=hub) as swarm:
            await ask(swarm)

    async def ask(swarm: FakeSwarm) -> None:
        await swarm.add("bob", drafts=True, layers=(0, 4), **config)
        await tokens_of(await swarm.client(), request)

    jumping.run(tell())
    return hub.opens


def asked(**changes: Any) -> GenerateRequest:
    return GenerateRequest(**{one: getattr(REQUEST, one) for one in REQUEST.__slots__} | changes)


@pytest.mark.parametrize("wire", WIRE_TYPES)
def test_stages_are_told_the_client_s_type_of_hidden_states(tmp_path: Path, wire: str) -> None:
    assert {one.wire for one in opens_of(tmp_path, asked(wire=wire), wire="f32")} == {wire}


def test_what_the_client_leaves_open_is_the_drafter_s_own(tmp_path: Path) -> None:
    (told,) = opens_of(tmp_path, REQUEST, wire="f32", **RELAXED)
    assert (told.wire, told.acceptance) == ("f32", WireAcceptance(0.2))


def test_a_client_that_asks_for_exact_acceptance_gets_it_of_a_drafter_that_relaxes(tmp_path: Path) -> None:
    (told,) = opens_of(tmp_path, asked(threshold=0.0), **RELAXED)
    assert told.acceptance == WireAcceptance()


def test_exact_is_what_nobody_has_to_ask_for(tmp_path: Path) -> None:
    (told,) = opens_of(tmp_path, REQUEST)
    assert told.acceptance == WireAcceptance()


def test_relaxed_acceptance_reaches_the_stages(tmp_path: Path) -> None:
    (told,) = opens_of(tmp_path, asked(threshold=0.4, deferred=True))
    assert told.acceptance == WireAcceptance(0.4, deferred=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": "big"}, "choose from throughput"),
        ({"window": "stream:4"}, "stream:BLOCK:WINDOW"),
        ({"window": "stream:9:8"}, "stream:BLOCK:WINDOW"),
        ({"wire": "f8"}, "choose from auto, f32, f16"),
        ({"threshold": 1.0}, "cannot be asked"),
        ({"threshold": float("nan")}, "cannot be asked"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        opens_of(tmp_path, asked(**changes))


@pytest.mark.parametrize("window", ["fixed", "awc", "throughput", "throughput:hedged", "stream:2:16"])
def test_every_window_policy_can_be_asked_for(tmp_path: Path, window: str) -> None:
    assert opens_of(tmp_path, asked(window=window))


def test_a_relaxed_reply_says_so_in_every_piece_and_at_its_end(tmp_path: Path) -> None:
    async def tell() -> None:
        async with fake_swarm(tmp_path) as swarm:
            await swarm.add("bob", drafts=True, layers=(0, 4), **RELAXED)
            events = [event async for event in (await swarm.client()).generate(REQUEST)]
            assert {event.threshold for event in events if isinstance(event, Piece)} == {0.2}
            assert isinstance(events[-1], Finished)
            assert (events[-1].stats.acceptance, events[-1].stats.threshold) == ("relaxed", 0.2)

    jumping.run(tell())


async def test_a_reply_that_another_drafter_goes_on_with_keeps_its_rule() -> None:
    pending = PendingReply(REQUEST, Model("ab" * 32, "fake", 4, 16, 97, "cd" * 32, 4096, (), 1, ""))
    prompt = [pack_tokens([5, 17, 42, 8])]
    part, _ = pending.begin()
    pending.take(pending.checked(part, replies.Accepted(part.request, "ab" * 32, WireAcceptance(0.2)), prompt))
    part, packed = pending.begin()
    body = decode_body(packed, replies.GenerateBody)
    assert body.acceptance == WireAcceptance(0.2)
    with pytest.raises(PeerMisbehaved, match="another rule"):
        pending.checked(part, replies.Accepted(part.request, "ab" * 32), prompt)


async def test_one_stop_text_is_not_taken_for_its_letters() -> None:
    pending = PendingReply(asked(stop="end"), Model("ab" * 32, "fake", 4, 16, 97, "cd" * 32, 4096, (), 1, ""))
    assert pending.begin()[0].body.stop == ("end",)

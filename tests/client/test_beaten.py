"""Dora's pipeline stands still again and again; whoever is asked beside her goes on with a token or two, and gives up:
she was not slower than that."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.failures import Failures
from dsdnode.client.losses import Left
from dsdnode.client.pace import MIN_TOKENS
from dsdnode.client.patience import ASIDE_S
from dsdnode.errors import DsdError, PeerUnavailable
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body
from dsdnode.wire.messages import Message, Pong
from dsdnode.wire.numbers import pack_tokens
from tests.client.test_slow_drafters import drips, read, town
from tests.client.test_trust import ring
from tests.node.mallory import EXPECTED, PROMPT
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import story


async def quits(swarm: FakeSwarm, name: str, num_times: int) -> list[int]:
    """So often it gives two tokens at once, the right ones, and then no more; later on nothing. How far the reply was
    each time."""
    member, asked = await swarm.add(name, drafts=True), list[int]()

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        if not buffers:
            return Pong(), []
        index = len(decode_body(buffers[0], replies.GenerateBody).tokens)
        asked.append(index)

        def says(notice: Message, *payload: bytes) -> None:
            with contextlib.suppress(DsdError):
                member.node.rpc.notify(peer, notice, payload)

        loop = asyncio.get_running_loop()
        if len(asked) <= num_times:
            given = pack_tokens(EXPECTED[index : index + 2]), b""
            loop.call_later(0.1, says, replies.Piece(message.request, index, 0), *given)
        loop.call_later(0.2, says, replies.Finished(message.request, "", "WorkFailed", "no"))
        assert member.draft is not None
        return replies.Accepted(message.request, member.draft.shard.model_id), [pack_tokens(list(PROMPT))]

    member.node.rpc.on_request(replies.Generate, generate)
    return asked


def test_whom_a_quitter_was_faster_than_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        asked, quit_ = await drips(swarm, "dora", every_s=2 * ASIDE_S, first=3), await quits(swarm, "mallory", 5)
        alice = await town(swarm, monkeypatch, "dora", "mallory")
        assert (await read(alice))[0] == EXPECTED
        assert quit_ == [3], "for some speed nobody is asked whose engine died of it"
        assert len(asked) == 2, "she was beaten"

    story(tmp_path, tell)


def test_who_beat_dora_and_gave_little_says_nothing_of_her() -> None:
    failures, dora, mallory = Failures(), b"dora", b"mallory"
    for _ in range(5):
        failures.slow(dora, Left("slower than another one"), beaten_by=mallory)
        failures.note(mallory, PeerUnavailable("no"), MIN_TOKENS - 1)
        assert failures[dora].again
    for _ in range(2):
        failures.slow(dora, Left("slower than another one"), beaten_by=mallory)
        failures.note(mallory, PeerUnavailable("no"), MIN_TOKENS)
    assert failures[dora].final

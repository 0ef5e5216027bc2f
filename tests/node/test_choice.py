"""Whom alice wants nothing to do with: neither does her machine work for him, nor does he see what she asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Finished
from dsdnode.errors import NoPipeline
from dsdnode.identity import Identity, PeerChoice, peer_id
from dsdnode.node import admission as module
from dsdnode.node.admission import Admission
from dsdnode.wire.pieces import FindWeights
from tests.node.swarm import FakeSwarm, Member, tokens_of
from tests.node.test_drafter_host import EXPECTED, REQUEST, story


def name(of: Member) -> str:
    return of.node.peer_id.hex()


def computed(one: Member) -> int:
    given = one.node.status().given
    return given.today.tokens if given else 0


def test_a_peer_is_who_is_named_or_begins_so() -> None:
    bob, eve = Identity(b"b" * 32).peer_id, Identity(b"e" * 32).peer_id
    assert PeerChoice().takes(eve)
    assert not PeerChoice(block=(eve.hex()[:12],)).takes(eve)
    assert PeerChoice(block=(eve.hex(),)).takes(bob)
    assert PeerChoice(allow=(bob.hex(),)).takes(bob)
    assert not PeerChoice(allow=(bob.hex(),)).takes(eve)
    assert not PeerChoice(allow=(bob.hex(),), block=(bob.hex(),)).takes(bob)


def test_a_machine_s_own_user_and_itself_are_served_whoever_else_is() -> None:
    bob, eve = Identity(b"b" * 32).peer_id, Identity(b"e" * 32).peer_id
    admission = Admission(bob, PeerChoice(allow=(32 * "ab",)))
    assert admission.serves(bob)
    assert admission.trusts(bob)
    assert not admission.serves(eve)
    guest = admission.guest().peer_id
    assert admission.serves(guest)
    assert not admission.trusts(guest)
    for peer in (bob, guest, eve):
        admission.begun(peer)
    assert admission.num_begun == 1, "of others"


def test_her_gateway_stays_a_guest_however_often_she_chats_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GUESTS", 4)
    admission = Admission(b"", PeerChoice(allow=(32 * "ab",)))
    gateway, first = admission.guest().peer_id, admission.guest().peer_id
    for _ in range(6):
        admission.guest()
        assert admission.serves(gateway)
    assert not admission.serves(first)


@pytest.mark.parametrize("by", ["block", "allow"])
def test_sam_s_stage_computes_nothing_for_a_drafter_that_he_does_not_serve(tmp_path: Path, by: str) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        mallory = await swarm.add("mallory", drafts=True)
        names = (name(mallory),) if by == "block" else (64 * "a",)
        choice: dict[str, Any] = {by: names}
        sam = await swarm.add("sam", layers=(0, 4), **choice)
        with pytest.raises(NoPipeline, match="does not serve you"):
            await tokens_of(await swarm.client(patience_s=5), REQUEST)
        assert computed(sam) == 0

    story(tmp_path, tell)


def test_dora_drafts_for_nobody_whom_she_does_not_serve(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        dora = await swarm.add("dora", layers=(0, 4), drafts=True, allow=(64 * "a",))
        eve = await swarm.client(patience_s=5)
        with pytest.raises(NoPipeline, match="does not serve you"):
            await tokens_of(eve, REQUEST)
        assert computed(dora) == 0
        with pytest.raises(NoPipeline, match="does not serve you"):
            await eve.read_text(REQUEST)

    story(tmp_path, tell)


@pytest.mark.parametrize("by", ["block", "allow"])
def test_eve_s_stage_sees_nothing_of_what_dora_is_asked(tmp_path: Path, by: str) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        eve = await swarm.add("eve", layers=(0, 4))
        bob = await swarm.add("bob", layers=(0, 4))
        alice = await swarm.client()
        names = (name(eve),) if by == "block" else (name(bob), peer_id(alice.rpc.transport.contact.public_key).hex())
        choice: dict[str, Any] = {by: names}
        await swarm.add("dora", drafts=True, **choice)
        for _ in range(3):
            assert (await tokens_of(alice, REQUEST))[0] == EXPECTED
        assert computed(eve) == 0
        assert computed(bob) > 0

    story(tmp_path, tell)


def test_where_eve_alone_hosts_the_model_alice_is_told_rather_than_eve(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        eve = await swarm.add("eve", layers=(0, 4))
        await swarm.add("dora", drafts=True, block=(name(eve),))
        with pytest.raises(NoPipeline):
            await tokens_of(await swarm.client(patience_s=5), REQUEST)
        assert computed(eve) == 0

    story(tmp_path, tell)


def test_alice_asks_no_drafter_that_she_has_blocked(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("sam", layers=(0, 4))
        eve = await swarm.add("eve", drafts=True)
        alice = await swarm.client()
        alice.restrict(PeerChoice(block=(name(eve),)))
        with pytest.raises(NoPipeline, match=r"--block leaves out all drafters of .*\(1\)"):
            await tokens_of(alice, REQUEST)
        dora = await swarm.add("dora", drafts=True)
        for _ in range(3):
            tokens, finished = await tokens_of(alice, REQUEST)
            assert tokens == EXPECTED
            assert isinstance(finished, Finished)
        assert computed(eve) == 0
        assert computed(dora) > 0

    story(tmp_path, tell)


def test_weights_are_for_whom_one_serves(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam = await swarm.add("sam", layers=(0, 4), allow=(64 * "a",))
        eve = swarm.stranger("eve")
        eve.transport.introduce(sam.contact)
        answer, _ = await eve.request(sam.node.peer_id, FindWeights(64 * "0"), timeout_s=5)
        assert "does not serve you" in str(answer)

    story(tmp_path, tell)

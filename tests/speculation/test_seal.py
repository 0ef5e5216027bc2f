"""Whose word a verdict is: alice believes bob, who is not the judge, where he has carol's seal for it."""

from __future__ import annotations

import msgspec
import pytest

from dsdnode.speculation import seal
from dsdnode.wire.messages import Closed, Verdict

from .alice import SESSION, Alice

CAROL, DAVE = b"carol", b"dave"
SECRET = b"alice's"


def sealed_by(judge: bytes, alice: Alice, closed: Closed, route: int = 0) -> bytes:
    """As the judge seals it, by the digests that came with the blocks."""
    epoch = alice.machine._epochs.get(closed.epoch)
    assert epoch is not None
    digest = alice.machine._epochs.digest_at(epoch, closed.position)
    return seal.of(seal.key_for(SECRET, route, judge), closed, digest)


def in_a_round() -> Alice:
    alice = Alice()
    alice.in_a_round()
    return alice


def closing(alice: Alice, **fields: object) -> Verdict:
    """Carol's, as bob repeats it."""
    length = len(alice.machine.tokens)
    closed = Closed(SESSION, 0, alice.main, length + 2, 77, (length,))
    verdict = Verdict(
        SESSION, 0, closed.epoch, closed.position, 77, relaxed=closed.relaxed, seal=sealed_by(CAROL, alice, closed)
    )
    return msgspec.structs.replace(verdict, **fields)


def test_a_closing_counts_by_whoever_it_is_repeated() -> None:
    alice = in_a_round()
    assert alice.machine.is_sealed(closing(alice), CAROL)


@pytest.mark.parametrize("seal_", [b"", bytes(8), bytes(7)])
def test_nothing_counts_without_a_seal(seal_: bytes) -> None:
    alice = in_a_round()
    assert not alice.machine.is_sealed(closing(alice, seal=seal_), CAROL)


def test_a_seal_is_for_one_closing_alone() -> None:
    """Whatever bob changes of it, it is carol's no more."""
    alice = in_a_round()
    true = closing(alice)
    for change in (
        {"decided": true.decided - 1},
        {"decided": true.decided + 1},
        {"token": 78},
        {"relaxed": ()},
        {"relaxed": (*true.relaxed, true.decided - 1)},
        {"session": bytes(16)},
        {"route": 1},
        {"seal": true.seal[:-1]},
    ):
        assert not alice.machine.is_sealed(msgspec.structs.replace(true, **change), CAROL), change
    assert not alice.machine.is_sealed(true, DAVE)


def test_a_seal_holds_behind_the_same_tokens_alone() -> None:
    """Bob says of the next epoch, which has other tokens there, what carol said of the one before."""
    alice = in_a_round()
    old = closing(alice)
    alice.verdict(old.decided - 2, 40)
    alice.draft(41, 42, 43)
    renamed = msgspec.structs.replace(old, epoch=alice.main)
    epoch = alice.machine._epochs.get(alice.main)
    assert epoch is not None
    assert len(alice.machine.tokens) <= old.decided <= epoch.sent
    assert not alice.machine.is_sealed(renamed, CAROL)


def test_an_old_closing_is_no_sign_of_life() -> None:
    """Bob says it again and again, and passes nothing on: the timer runs."""
    alice = in_a_round()
    old = closing(alice)
    alice.verdict(old.decided, old.token)
    alice.draft(41, 42, 43)
    renamed = msgspec.structs.replace(old, epoch=alice.main)
    assert alice.machine._epochs.get(alice.main) is not None
    assert not alice.machine.is_sealed(renamed, CAROL)


def test_a_seal_is_of_its_route() -> None:
    """Bob, a judge before, has a key of then; the session goes on with another one."""
    keys = {seal.key_for(SECRET, route, judge) for route in (0, 1, 256) for judge in (CAROL, DAVE)}
    assert len(keys) == 6
    assert not {len(key) for key in keys} - {16}


def test_who_got_no_key_seals_nothing() -> None:
    assert seal.of(b"", Closed(SESSION, 0, 1, 5, 77), bytes(8)) == b""

from __future__ import annotations

from contextlib import nullcontext

import msgspec
import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.handshake import Handshake, _proof, derive_swarm_key, swarm_names
from dsdnode.wire.codec import encode
from dsdnode.wire.messages import Contact, Refused, Welcome

ALICE, BOB, MALLORY = (Identity(name * 32) for name in (b"a", b"b", b"m"))
KEY = derive_swarm_key("the key of our swarm")


def side(identity: Identity, key: bytes = b"", version: int = 1, capabilities: tuple[str, ...] = ("f32",)) -> Handshake:
    return Handshake(Contact(identity.public_key), (key,) if key else (), version, capabilities)


def refusal(caller: Handshake, callee: Handshake, curve_key: bytes = ALICE.curve_public_key) -> str:
    answer = callee.answer(caller.hello(callee.contact.public_key, bulk=False), curve_key)
    return answer.reason if isinstance(answer, Refused) else ""


@pytest.mark.parametrize("key", [b"", KEY])
def test_alice_and_bob_know_each_other(key: bytes) -> None:
    alice, bob = side(ALICE, key), side(BOB, key)
    hello = alice.hello(BOB.public_key, bulk=True)
    answer = bob.answer(hello, ALICE.curve_public_key)
    assert isinstance(answer, Welcome)
    alice.check(answer, hello, BOB.public_key)


def test_the_swarm_key_itself_never_travels() -> None:
    hello = side(ALICE, KEY).hello(BOB.public_key, bulk=False)
    frame = encode(hello)[0]
    assert KEY not in frame and b"the key of our swarm" not in frame
    assert "key of our" not in repr(side(ALICE, KEY)) and str(KEY) not in repr(side(ALICE, KEY))


def test_every_disagreement_about_the_key_is_refused_in_words() -> None:
    other = derive_swarm_key("another")
    assert refusal(side(ALICE, other), side(BOB, KEY)) == "wrong swarm key"
    assert "private" in refusal(side(ALICE), side(BOB, KEY))
    assert "no swarm key" in refusal(side(ALICE, KEY), side(BOB))


def test_bob_must_prove_the_key_too() -> None:
    alice = side(ALICE, KEY)
    hello = alice.hello(BOB.public_key, bulk=False)
    echo = Welcome(1, ("f32",), hello.proof)  # saying her own proof back does not do
    for answer in (Welcome(1, ("f32",), b""), echo):
        with pytest.raises(PeerUnavailable, match="swarm key"):
            alice.check(answer, hello, BOB.public_key)


def test_a_proof_is_for_one_pair_of_peers_and_one_nonce() -> None:
    hello = side(ALICE, KEY).hello(BOB.public_key, bulk=False)
    carol = side(Identity(b"c" * 32), KEY)
    mallory = msgspec.structs.replace(hello, contact=Contact(MALLORY.public_key))
    again = msgspec.structs.replace(hello, nonce=bytes(16))
    assert isinstance(carol.answer(hello, ALICE.curve_public_key), Refused)
    assert isinstance(side(BOB, KEY).answer(mallory, MALLORY.curve_public_key), Refused)
    assert isinstance(side(BOB, KEY).answer(again, ALICE.curve_public_key), Refused)


def test_an_impostor_is_refused() -> None:
    claim = side(ALICE)
    assert "proved" in refusal(claim, side(BOB), curve_key=MALLORY.curve_public_key)
    nobody = Handshake(Contact(bytes(32)))
    assert "proved" in refusal(nobody, side(BOB), curve_key=bytes(32))


def test_versions_are_both_named() -> None:
    words = refusal(side(ALICE, version=3), side(BOB, version=2))
    assert "version 3" in words and "version 2" in words
    alice = side(ALICE, version=3)
    with pytest.raises(PeerUnavailable, match=r"version 2 .*version 3"):
        alice.check(Welcome(2, ("f32",), b""), alice.hello(BOB.public_key, bulk=False), BOB.public_key)


def test_a_capability_that_is_needed_is_named() -> None:
    assert "without f32" in refusal(side(ALICE, capabilities=("f16",)), side(BOB))


def both(identity: Identity, *keys: bytes) -> Handshake:
    return Handshake(Contact(identity.public_key), keys, 1, ("f32",))


def test_while_a_key_is_replaced_either_does() -> None:
    new = derive_swarm_key("the new one")
    alice = both(ALICE, new, KEY)
    for bob in (both(BOB, KEY), both(BOB, new), both(BOB, KEY, new)):
        assert refusal(bob, alice, BOB.curve_public_key) == ""
        answered = [
            (hello, bob.answer(hello, ALICE.curve_public_key))
            for attempt in range(alice.num_greetings)
            for hello in [alice.hello(BOB.public_key, bulk=False, attempt=attempt)]
        ]
        welcomes = [(hello, answer) for hello, answer in answered if isinstance(answer, Welcome)]
        assert len(welcomes) == len(bob.swarm_keys)
        for hello, answer in welcomes:
            alice.check(answer, hello, BOB.public_key)


def test_who_was_left_out_of_the_rotation_is_out() -> None:
    new, third = derive_swarm_key("the new one"), derive_swarm_key("a third")
    for mallory in (both(MALLORY, KEY), both(MALLORY, KEY, third)):
        assert refusal(mallory, both(BOB, new), MALLORY.curve_public_key) == "wrong swarm key"
        assert refusal(mallory, both(BOB, new, KEY), MALLORY.curve_public_key) == ""  # not before the last step
    assert "private" in refusal(side(ALICE), both(BOB, new, KEY))


def test_a_welcome_is_proven_with_the_key_of_its_hello() -> None:
    new = derive_swarm_key("the new one")
    alice = both(ALICE, new, KEY)
    hello = alice.hello(BOB.public_key, bulk=False)
    for key, good in ((new, True), (KEY, False)):
        bob = both(BOB, key)
        answer = Welcome(1, ("f32",), _proof(key, b"welcome", BOB.public_key, ALICE.public_key, hello.nonce))
        assert isinstance(bob.answer(hello, ALICE.curve_public_key), Welcome) == good
        with nullcontext() if good else pytest.raises(PeerUnavailable, match="swarm key"):
            alice.check(answer, hello, BOB.public_key)


def test_swarms_are_remembered_apart() -> None:
    assert swarm_names(()) == ("open",)
    old, new = swarm_names(["the key of our swarm"]), swarm_names(["the new one"])
    assert len({*old, *new, "open"}) == 3
    assert swarm_names(["the new one", "the key of our swarm"]) == new + old
    assert KEY.hex()[:16] not in old

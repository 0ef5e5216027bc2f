from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import Identity
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.messages import MAX_CONTACTS, Contact
from dsdnode.wire.records import (
    MAX_RECORDS,
    Newest,
    ProviderRecord,
    open_record,
    pack_contacts,
    pack_records,
    sign_record,
    unpack_contacts,
    unpack_records,
)

ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
OFFER = ProviderRecord(
    public_key=ALICE.public_key,
    addresses=("tcp://192.0.2.1:29170",),
    role="shard",
    weights_hash="ab" * 32,
    architecture="llama",
    model_name="demo-target",
    start=0,
    end=4,
    num_layers=8,
    tokenizer_hash="cd" * 32,
    vocab_size=2048,
    width=320,
    context_tokens=8192,
    free_sessions=8,
    fixed_ms=1.5,
    slope_ms=0.25,
    sequence=3,
)
replace = msgspec.structs.replace


def test_bob_reads_what_alice_offers() -> None:
    signed = sign_record(ALICE, OFFER)
    assert open_record(signed) == OFFER
    assert len(signed) < 512
    assert OFFER.peer_id == ALICE.peer_id
    assert OFFER.contact == Contact(ALICE.public_key, OFFER.addresses)


def test_bob_cannot_speak_for_alice() -> None:
    with pytest.raises(ValueError, match="own key"):
        sign_record(BOB, OFFER)
    version, payload, _ = decode_body(sign_record(ALICE, OFFER), list)
    forged = encode_body([version, payload, BOB.sign(b"dsdnode provider record 1\n" + payload)])
    with pytest.raises(PeerMisbehaved, match="signature"):
        open_record(forged)


def test_a_signature_of_something_else_is_no_record() -> None:
    _, payload, _ = decode_body(sign_record(ALICE, OFFER), list)
    with pytest.raises(PeerMisbehaved, match="signature"):
        open_record(encode_body([1, payload, ALICE.sign(b"dsdnode other thing 1\n" + payload)]))


@given(st.data())
def test_no_bit_can_be_changed_on_the_way(data: st.DataObject) -> None:
    signed = bytearray(sign_record(ALICE, OFFER))
    bit = data.draw(st.integers(0, 8 * len(signed) - 1))
    signed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerMisbehaved):
        open_record(bytes(signed))


@given(st.binary(max_size=512))
def test_garbage_is_refused(data: bytes) -> None:
    for read in (open_record, unpack_contacts, unpack_records):
        try:
            read(data)
        except PeerMisbehaved:
            continue
        assert read is not open_record


@pytest.mark.parametrize(
    "change",
    [
        {"start": 4},
        {"end": 9},
        {"num_layers": 5000, "end": 4999},
        {"role": "king"},
        {"weights_hash": "AB" * 32},
        {"weights_hash": "ab" * 32 + "\n"},
        {"architecture": "two words"},
        {"architecture": ""},
        {"architecture": "llama\n"},
        {"model_name": "demo\n"},
        {"model_name": "evil\x1b[2J"},
        *({"model_name": f"turned{mark}round"} for mark in "\u061c\u200f\u202e\u2067"),
        {"model_name": "x" * 97},
        {"addresses": ()},
        {"addresses": ("tcp://192.0.2.1:1",) * 5},
        {"addresses": ("ipc:///etc/passwd",)},
        {"addresses": ("tcp://192.0.2.1:99999",)},
        {"fixed_ms": float("nan")},
        {"slope_ms": float("inf")},
        {"free_sessions": -1},
        {"ttl_s": 601.0},
        {"sequence": 1 << 62},
        {"width": "320"},
    ],
)
def test_what_no_peer_would_accept_is_not_even_signed(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        sign_record(ALICE, replace(OFFER, **change))


def test_a_zero_life_takes_the_offer_back() -> None:
    assert replace(OFFER, ttl_s=0.0).withdrawn
    assert not OFFER.withdrawn


@pytest.mark.parametrize(
    "shape",
    [
        {"weights_hash": "ef" * 32},
        {"architecture": "qwen2"},
        {"num_layers": 4},
        {"width": 321},
        {"vocab_size": 5},
        {"tokenizer_hash": "ef" * 32},
        {"text_hash": "ef" * 32},
    ],
)
def test_mallory_cannot_say_otherwise_of_alices_model(shape: dict[str, object]) -> None:
    assert open_record(sign_record(ALICE, replace(OFFER, **shape))).model_id != OFFER.model_id
    labels = {"model_name": "mine", "context_tokens": 1, "start": 2, "end": 3, "fixed_ms": 0.0}
    assert replace(OFFER, **labels).model_id == OFFER.model_id


def test_neighbouring_fields_of_a_shape_cannot_be_read_as_one_another() -> None:
    assert replace(OFFER, width=3202, vocab_size=48).model_id != replace(OFFER, width=320, vocab_size=248).model_id


def newest(*records: ProviderRecord, most: int = 10) -> list[ProviderRecord]:
    known = Newest(most)
    known.add(records)
    return known.records


def test_of_what_alice_said_the_last_counts_as_a_whole_in_whatever_order_it_is_heard() -> None:
    old = [replace(OFFER, sequence=1), replace(OFFER, sequence=1, role="drafter")]
    new = [replace(OFFER, sequence=2, start=4, end=8)]
    gone = [replace(OFFER, sequence=3, ttl_s=0.0)]
    for order in itertools.permutations([*old, *new]):
        assert newest(*order) == new
    for order in itertools.permutations([*old, *gone]):
        assert newest(*order) == gone
    assert newest(*old) == [old[1], old[0]], "two roles stand side by side"


def test_alice_has_one_place_for_a_role_and_bob_his_own() -> None:
    here, there = replace(OFFER, start=0), replace(OFFER, start=4, end=8)
    bobs = replace(OFFER, public_key=BOB.public_key, sequence=1)
    assert newest(here, there, bobs) == sorted([here, bobs], key=lambda one: one.public_key)
    assert newest(here, bobs, replace(bobs, sequence=2), most=1) == [here]


def test_who_tells_of_more_than_others_makes_room_for_what_they_tell() -> None:
    mallorys = [replace(OFFER, public_key=bytes([100 + i] * 32)) for i in range(9)]
    bobs = replace(OFFER, public_key=BOB.public_key)
    known = Newest(4)
    known.add([*mallorys[:3], OFFER], b"mallory")
    known.add([OFFER], b"carol")
    known.add([bobs], b"carol")
    assert known.records == sorted([*mallorys[:2], OFFER, bobs], key=lambda one: one.public_key)
    known.add(mallorys[3:], b"mallory")
    assert {OFFER.public_key, bobs.public_key} < {one.public_key for one in known.records}, "told by carol, too"


def test_replies_have_limits() -> None:
    contacts = [Contact(ALICE.public_key, ("tcp://192.0.2.1:1",))]
    assert unpack_contacts(pack_contacts(contacts)) == contacts
    assert unpack_records(pack_records([b"one", b"two"])) == [b"one", b"two"]
    with pytest.raises(PeerMisbehaved, match="at most 40"):
        unpack_contacts(pack_contacts(contacts * (MAX_CONTACTS + 1)))
    with pytest.raises(PeerMisbehaved, match="at most 512"):
        unpack_records(pack_records([b""] * (MAX_RECORDS + 1)))
    with pytest.raises(PeerMisbehaved):
        open_record(b"\x93" + bytes(9000))

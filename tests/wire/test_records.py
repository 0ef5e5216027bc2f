from __future__ import annotations

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
    model_id="ab" * 32,
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
        {"model_id": "AB" * 32},
        {"model_name": "evil\x1b[2J"},
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

"""Vectors of who peers are and what they announce: identities, proofs of the swarm key, records, keys of the DHT.

Alice, Bob and Carol have seeds that anybody can make again: the SHA-256 of their names.
"""

from __future__ import annotations

import hashlib
from typing import Any
from unittest import mock

import msgspec
from zmq.utils import z85

from dsdnode.dht.ids import MODELS_KEY, bucket_index, distance, model_key, node_id, tokenizer_key
from dsdnode.dht.store import record_keys
from dsdnode.identity import Identity
from dsdnode.net.handshake import Handshake, derive_swarm_key
from dsdnode.wire.joins import format_join
from dsdnode.wire.messages import Contact, Refused, Welcome
from dsdnode.wire.records import ProviderRecord, RoundTrip, model_id_of, sign_record

NAMES = ("alice", "bob", "carol")
ADDRESSES = {
    "alice": ("tcp://192.0.2.7:29170",),
    "bob": ("tcp://198.51.100.20:29170", "tcp://[2001:db8::20]:29170"),
    "carol": (),
}
SWARM_KEY = "correct horse battery staple"
NONCE = bytes(range(16))
WEIGHTS = hashlib.sha256(b"target.gguf").hexdigest()
DRAFT_WEIGHTS = hashlib.sha256(b"draft.gguf").hexdigest()
TOKENIZER = hashlib.sha256(b"tokenizer").hexdigest()
MODEL_ID = model_id_of(WEIGHTS, "llama", 32, 4096, 32000, TOKENIZER)


def identity_of(name: str) -> Identity:
    return Identity(hashlib.sha256(name.encode()).digest())


def contact_of(name: str) -> Contact:
    return Contact(identity_of(name).public_key, ADDRESSES[name])


def spelled(value: Any) -> Any:
    """As JSON: bytes as {"hex": ...}, structs as their array, not-a-number and the infinities as text."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, msgspec.Struct):
        return [spelled(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    return value


# --- identity -----------------------------------------------------------------------------------------------------


def identities() -> dict[str, Any]:
    return {"about": "Section 2: everything that follows from an Ed25519 seed.", "cases": list(map(_identity, NAMES))}


def _identity(name: str) -> dict[str, Any]:
    identity, contact = identity_of(name), contact_of(name)
    return {
        "name": name,
        "seed": identity.seed.hex(),
        "public_key": identity.public_key.hex(),
        "peer_id": identity.peer_id.hex(),
        "curve_public_key": identity.curve_public_key.hex(),
        "curve_secret_key": identity.curve_secret_key.hex(),
        "curve_public_key_z85": z85.encode(identity.curve_public_key).decode(),
        "curve_secret_key_z85": z85.encode(identity.curve_secret_key).decode(),
        "addresses": list(contact.addresses),
        "join": format_join(contact) if contact.addresses else None,
    }


# --- handshake ----------------------------------------------------------------------------------------------------


def handshakes() -> dict[str, Any]:
    """Bob calls Alice."""
    cases = [_handshake(SWARM_KEY, SWARM_KEY), _handshake("", ""), _handshake(SWARM_KEY, "another"),
             _handshake("", SWARM_KEY), _handshake(SWARM_KEY, "")]  # fmt: skip
    about = "Section 4: Bob calls Alice. A swarm key of '' stands for an open swarm."
    return {"about": about, "caller": "bob", "callee": "alice", "nonce": NONCE.hex(), "cases": cases}


def _handshake(bobs_key: str, alices_key: str) -> dict[str, Any]:
    alice, bob = identity_of("alice"), identity_of("bob")
    calling = Handshake(contact_of("bob"), (derive_swarm_key(bobs_key),) if bobs_key else ())
    called = Handshake(contact_of("alice"), (derive_swarm_key(alices_key),) if alices_key else ())
    with mock.patch("secrets.token_bytes", return_value=NONCE):
        hello = calling.hello(alice.public_key, bulk=False)
    answer = called.answer(hello, bob.curve_public_key)
    return {
        "caller_swarm_key": bobs_key,
        "callee_swarm_key": alices_key,
        "caller_derived": b"".join(calling.swarm_keys).hex(),
        "hello_proof": hello.proof.hex(),
        "welcome_proof": answer.proof.hex() if isinstance(answer, Welcome) else None,
        "refused": answer.reason if isinstance(answer, Refused) else None,
    }


# --- records ------------------------------------------------------------------------------------------------------


def record_of(name: str, **other: Any) -> ProviderRecord:
    contact = contact_of(name)
    record = ProviderRecord(
        contact.public_key, contact.addresses, "shard", WEIGHTS, "llama", "Target 7B", 0, 16, 32, TOKENIZER, 32000,
        4096, 8192, 8, 12.5, 0.75, 1.25, (RoundTrip(identity_of("carol").peer_id[:4], 21.5),), True, 7, 600.0,
    )  # fmt: skip
    return msgspec.structs.replace(record, **other)


def records() -> dict[str, Any]:
    draft = {
        "role": "drafter",
        "weights_hash": DRAFT_WEIGHTS,
        "architecture": "qwen2",
        "model_name": "Draft 0.5B",
        "end": 24,
        "num_layers": 24,
    }
    cases = [
        _record("a shard", "alice", record_of("alice")),
        _record("the same offer taken back", "alice", record_of("alice", sequence=8, ttl_s=0.0)),
        _record("a shard that has its text file", "alice", record_of("alice", text_hash="5e" * 32)),
        _record("a drafter", "bob", record_of("bob", width=896, round_trips=(), **draft)),
    ]
    fields = list(ProviderRecord.__struct_fields__)
    return {"about": "Section 8: signed provider records, and the keys they go to.", "fields": fields, "cases": cases}


def _record(what: str, name: str, record: ProviderRecord) -> dict[str, Any]:
    identity = identity_of(name)
    signed = sign_record(identity, record)
    version, payload, signature = msgspec.msgpack.decode(signed)
    return {
        "what": what,
        "seed": identity.seed.hex(),
        "values": spelled(record),
        "model_id": record.model_id,
        "version": version,
        "payload": payload.hex(),
        "signature": signature.hex(),
        "signed": signed.hex(),
        "keys": [key.hex() for key in record_keys(record)],
    }


# --- DHT ----------------------------------------------------------------------------------------------------------


def keys() -> dict[str, Any]:
    targets = {"models": MODELS_KEY, "model": model_key(MODEL_ID), "tokenizer": tokenizer_key(TOKENIZER)}
    ids = {name: node_id(contact_of(name)) for name in NAMES}
    return {
        "about": "Section 8: keys, distances (XOR as 256-bit numbers, in hex), and Alice's buckets for the others.",
        "model_id": MODEL_ID,
        "tokenizer_hash": TOKENIZER,
        "keys": {kind: key.hex() for kind, key in targets.items()},
        "ids": {name: peer.hex() for name, peer in ids.items()},
        "distances": [
            {"key": kind, "peer": name, "distance": f"{distance(key, ids[name]):064x}"}
            for kind, key in targets.items()
            for name in NAMES
        ],
        "closest_first": {
            kind: sorted(NAMES, key=lambda name: distance(key, ids[name])) for kind, key in targets.items()
        },
        "buckets_of_alice": {name: bucket_index(ids["alice"], ids[name]) for name in NAMES},
    }

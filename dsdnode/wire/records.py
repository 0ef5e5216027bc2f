"""Provider records: what a peer offers, signed with its key, so that whoever passes it on cannot change a letter.

On the wire: msgpack `[version, payload, signature]`, at most 8 KiB; the signature covers a label, so that no other
signed thing can be passed off as a record, and the payload. Life is relative (`ttl_s` from receipt; no wall clocks).
What a provider says counts as a whole: of its records only those of the highest `sequence` (`Newest`), one for each
role, and a `ttl_s` of 0 takes an offer back.

A model is what its records say that it is: its id is a hash over that (`model_id_of`), so nobody can say otherwise of
it. Names are labels, that anybody may put on anything.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta

from dsdnode.addresses import parse_address
from dsdnode.cost import CostLine
from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import LABEL, Identity, peer_id, verify
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.guesses import MAX_GUESSES
from dsdnode.wire.messages import (
    MAX_ADDRESSES,
    MAX_CONTACTS,
    MAX_LAYERS,
    MAX_RECORD_BYTES,
    Address,
    Bytes32,
    Contact,
    Hex64,
    Layer,
)

RECORD_VERSION = 1
MAX_TTL_S = 600.0
MAX_RECORDS = 512
"""Records in one reply."""
MAX_ROUND_TRIPS = 16
MAX_RELAY_BYTES_PER_S = 1e12
"""What a relay says beyond that is told as so much."""
ID_PREFIX_BYTES = 4
_LABEL = LABEL + b"provider record 1\n"

_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069]*\Z"
Printable = Annotated[str, Meta(max_length=96, pattern=_PRINTABLE)]
MAX_NICKNAME = 32
Nickname = Annotated[str, Meta(max_length=MAX_NICKNAME, pattern=_PRINTABLE)]
Architecture = Annotated[str, Meta(pattern=r"^[!-~]{1,64}\Z")]
"""As llama.cpp calls it: a word."""
MAX_SOURCE = 400
_SOURCE = r"^(hf:[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}){2,4}\.gguf@[0-9a-f]{40})?\Z"
PinnedSource = Annotated[str, Meta(max_length=MAX_SOURCE, pattern=_SOURCE)]
"""Nothing, or a file of a hub's repository at a commit: that stays as it is, and the hub says its SHA-256."""
NO_HASH = "0" * 64
"""Of a model that nobody has hashed; of the draft model of a drafter that has none, and of that one's tokenizer."""
Cost = Annotated[float, Meta(ge=0, le=1e6)]
Count = Annotated[int, Meta(ge=0, le=1 << 30)]
T = TypeVar("T")


@functools.lru_cache(maxsize=4096)
def model_id_of(
    weights_hash: str,
    architecture: str,
    num_layers: int,
    width: int,
    vocab_size: int,
    tokenizer_hash: str,
    text_hash: str = "",
) -> str:
    """The id of a model, in hex: SHA-256 over what makes it what it is. `weights_hash`: `weights_hash_of` its files;
    `text_hash`: that of what its texts are read with, where there is such a thing."""
    told = f"{weights_hash} {architecture} {num_layers} {width} {vocab_size} {tokenizer_hash}"
    told += f" {text_hash}" if text_hash else ""
    return hashlib.sha256(f"dsdnode model 1\n{told}\n".encode()).hexdigest()


class OfModel(Protocol):
    """Whatever says of a model what its id is made of: a file's manifest, an engine, a record."""

    @property
    def weights_hash(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def tokenizer_hash(self) -> str: ...
    @property
    def text_hash(self) -> str: ...


def model_id_by(told: OfModel) -> str:
    return model_id_of(
        told.weights_hash,
        told.architecture,
        told.num_layers,
        told.width,
        told.vocab_size,
        told.tokenizer_hash,
        told.text_hash,
    )


def weights_hash_of(sha256s: Sequence[str]) -> str:
    """Of a model by the SHA-256s of its files: that of its only one, or one over those of its parts, in their order. So
    it can be told by what a hub says of each, before anything is fetched."""
    if len(sha256s) == 1:
        return sha256s[0]
    return hashlib.sha256(b"".join(map(bytes.fromhex, sha256s))).hexdigest()


def is_pinned(source: str) -> bool:
    """May a record name it?"""
    return len(source) <= MAX_SOURCE and re.match(_SOURCE, source) is not None


class RoundTrip(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """To the peer whose id begins with `peer`, as measured by the provider."""

    peer: Annotated[bytes, Meta(min_length=ID_PREFIX_BYTES, max_length=ID_PREFIX_BYTES)]
    rtt_ms: Cost


class ProviderRecord(msgspec.Struct, frozen=True, array_like=True):
    """One offer of one peer: layers [start, end) of a model, or drafting for every model with its tokenizer.

    A drafter's model is its draft model. `weights_hash`: SHA-256 of the whole model's file, in hex. Expected time of a
    block of n positions: `fixed_ms + slope_ms * n` (0, 0: not measured yet); `queue`: how many sessions had work there,
    on the average of the last seconds; `round_trips`: to peers that may come before or after it in a pipeline. While
    not `settled` it may yet take other layers, and serves nobody. `relay_bytes_per_s`: what its relays let through, for
    those far away call it by way of them alone (0: they need none). `text_hash`: of the file that the model's texts are
    read with, which each of its shards gives to whoever asks (FindText); empty: its drafters' own tokenizers will do.
    `tokenizer_hash` of a drafter: that of the models it drafts for. `nickname`: what its user calls it. `source`: where
    the provider has its model's file from; who fetches it there takes it for that model by its `weights_hash` alone.
    `num_guesses`: tokens behind a verdict that it can guess at, having the last layer (multi-token prediction).
    Free text is printable: it ends on somebody's terminal. What a newer peer says behind these fields is ignored, and
    passed on with the rest.
    """

    public_key: Bytes32
    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=MAX_ADDRESSES)]
    role: Literal["shard", "drafter"]
    weights_hash: Hex64
    architecture: Architecture
    model_name: Printable
    start: Layer
    end: Layer
    num_layers: Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
    tokenizer_hash: Hex64
    vocab_size: Count
    width: Count
    context_tokens: Count
    free_sessions: Count
    fixed_ms: Cost = 0.0
    slope_ms: Cost = 0.0
    queue: Annotated[float, Meta(ge=0, le=65536)] = 0.0
    round_trips: Annotated[tuple[RoundTrip, ...], Meta(max_length=MAX_ROUND_TRIPS)] = ()
    settled: bool = True
    sequence: Annotated[int, Meta(ge=0, lt=1 << 62)] = 0
    ttl_s: Annotated[float, Meta(ge=0, le=MAX_TTL_S)] = MAX_TTL_S
    relay_bytes_per_s: Annotated[float, Meta(ge=0, le=MAX_RELAY_BYTES_PER_S)] = 0.0
    text_hash: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    nickname: Nickname = ""
    source: PinnedSource = ""
    num_guesses: Annotated[int, Meta(ge=0, le=MAX_GUESSES)] = 0

    def __post_init__(self) -> None:
        if not self.start < self.end <= self.num_layers:
            raise ValueError(f"layers {self.start}:{self.end} of {self.num_layers} are no range")
        for address in self.addresses:
            parse_address(address)

    @property
    def contact(self) -> Contact:
        return Contact(self.public_key, self.addresses)

    @property
    def cost(self) -> CostLine:
        return CostLine.of_ms(self.fixed_ms, self.slope_ms)

    @property
    def peer_id(self) -> bytes:
        return peer_id(self.public_key)

    @property
    def model_id(self) -> str:
        return model_id_by(self)

    @property
    def withdrawn(self) -> bool:
        return self.ttl_s == 0


class Newest:
    """Of each provider what it said last, as a whole, of `max_providers` at most: records of an earlier `sequence` are
    void, whatever they are of, and so are all but one of a role.

    Where there are more, whoever tells of them (a `teller`) has a fair share of the room: who has told of more than
    others loses what it told last, unless somebody who told of less has said the same.
    """

    def __init__(self, max_providers: int) -> None:
        self._max_providers = max_providers
        self._said: dict[bytes, tuple[int, dict[str, ProviderRecord]]] = {}
        self._told: dict[bytes, dict[bytes, None]] = {}
        """Providers, by teller."""
        self._teller: dict[bytes, bytes] = {}

    def add(self, records: Iterable[ProviderRecord], teller: bytes = b"") -> None:
        for record in records:
            sequence, roles = self._said.get(record.public_key, (-1, {}))
            if not self._has_room(record.public_key, teller):
                continue
            if record.sequence > sequence:
                self._said[record.public_key] = record.sequence, {record.role: record}
            elif record.sequence == sequence:
                roles.setdefault(record.role, record)

    def _has_room(self, provider: bytes, teller: bytes) -> bool:
        mine, known = self._told.setdefault(teller, {}), self._teller.get(provider)
        if known is not None:
            if len(mine) < len(self._told[known]):
                del self._told[known][provider]
                self._teller[provider], mine[provider] = teller, None
            return True
        if len(self._said) >= self._max_providers:
            most = max(self._told.values(), key=len)
            if len(most) <= len(mine) + 1:
                return False
            last, _ = most.popitem()
            del self._said[last], self._teller[last]
        self._teller[provider], mine[provider] = teller, None
        return True

    @property
    def records(self) -> list[ProviderRecord]:
        """Withdrawn ones included, in a fixed order."""
        return [roles[role] for _, (_, roles) in sorted(self._said.items()) for role in sorted(roles)]


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Annotated[int, Meta(ge=RECORD_VERSION, le=RECORD_VERSION)]
    payload: bytes
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


def sign_record(identity: Identity, record: ProviderRecord) -> bytes:
    """The record as it travels. Raises ValueError for somebody else's or one that no peer would accept."""
    if record.public_key != identity.public_key:
        raise ValueError("a provider speaks only for its own key")
    payload = encode_body(record)
    signed = encode_body(_Signed(RECORD_VERSION, payload, identity.sign(_LABEL + payload)))
    try:
        open_record(signed)
    except PeerMisbehaved as error:
        raise ValueError(str(error)) from error
    return signed


def open_record(data: bytes) -> ProviderRecord:
    """The verified record. Raises PeerMisbehaved for anything that `sign_record` would not have made."""
    if len(data) > MAX_RECORD_BYTES:
        raise PeerMisbehaved(f"a provider record of {len(data)} bytes; at most {MAX_RECORD_BYTES}")
    signed = decode_body(data, _Signed)
    record = decode_body(signed.payload, ProviderRecord)
    if not verify(record.public_key, _LABEL + signed.payload, signed.signature):
        raise PeerMisbehaved("a provider record with a wrong signature")
    return record


def pack_contacts(contacts: list[Contact]) -> bytes:
    return encode_body(contacts)


def unpack_contacts(data: bytes) -> list[Contact]:
    """Buffer 0 of Nodes and Providers. Raises PeerMisbehaved."""
    return _unpack_list(data, Contact, MAX_CONTACTS)


def pack_records(records: list[bytes]) -> bytes:
    return encode_body(records)


def unpack_records(data: bytes) -> list[bytes]:
    """Buffer 1 of Providers: signed records, not opened yet. Raises PeerMisbehaved."""
    return _unpack_list(data, bytes, MAX_RECORDS)


def _unpack_list(data: bytes, kind: type[T], max_items: int) -> list[T]:
    items = decode_body(data, list[kind])  # type: ignore[valid-type]
    if len(items) > max_items:
        raise PeerMisbehaved(f"{len(items)} items where at most {max_items} are allowed")
    return items

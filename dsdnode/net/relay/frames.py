"""What a relay and its callees say before bytes flow: two bytes of length, then a msgpack body of at most 1 KiB.

Callers say none of this: they connect to the port of a reservation, as to any peer's. A callee signs what it asks for
over a challenge of the relay's, with the relay's own key in it: a signature made for one relay is of no use at another.
In a private swarm the same is proven once more with the swarm key.
"""

from __future__ import annotations

import functools
import hmac
import operator
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import LABEL, Identity
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.messages import Bytes32

RELAY_VERSION = 1
MAX_RELAY_FRAME_BYTES = 1024
HEAD_BYTES = 2
MAX_PROOFS = 2
"""As many swarm keys as a peer may have at once, while one replaces the other."""
RESERVE, ACCEPT = (LABEL + b"relay %s 1\n" % purpose for purpose in (b"reserve", b"accept"))

Version = Annotated[int, Meta(ge=0, le=65535)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Token = Annotated[bytes, Meta(min_length=16, max_length=16)]
Proofs = Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_PROOFS)]
Host = Annotated[str, Meta(max_length=64)]
Words = Annotated[str, Meta(max_length=200)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Amount = Annotated[int, Meta(ge=0, le=1 << 53)]


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of every frame."""


class Greet(Frame, frozen=True, tag=1):
    """First of whoever will ask for something."""

    version: Version


class Challenge(Frame, frozen=True, tag=2):
    """To be signed; `host`: the guest's IP address as the relay sees it."""

    version: Version
    challenge: Bytes32
    host: Host


class Reserve(Frame, frozen=True, tag=3):
    """Its sender wants to be dialled by way of this relay."""

    public_key: Bytes32
    signature: Signature
    proofs: Proofs = ()


class Reserved(Frame, frozen=True, tag=4):
    """Whoever connects to `port` of the relay calls its owner. For so long, so many circuits at once, and of each so
    many bytes a second and in all."""

    port: Port
    lease_s: Amount
    circuits: Amount
    bytes_per_s: Amount
    most_bytes: Amount


class Incoming(Frame, frozen=True, tag=5):
    """To who has reserved: somebody calls from `host`, to be fetched by `token`."""

    token: Token
    host: Host


class Accept(Frame, frozen=True, tag=6):
    """First of the callee's own call for a circuit."""

    token: Token
    signature: Signature


class Ok(Frame, frozen=True, tag=7):
    """To the callee: what follows is the caller's."""


class No(Frame, frozen=True, tag=8):
    """A request in good order is not granted; the connection ends."""

    reason: Words


class Ping(Frame, frozen=True, tag=9):
    pass


class Pong(Frame, frozen=True, tag=10):
    pass


def pack(frame: Frame) -> bytes:
    """As it travels. Raises ValueError for one that nobody would accept."""
    body = encode_body(frame)
    if len(body) > MAX_RELAY_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes; at most {MAX_RELAY_FRAME_BYTES}")
    return len(body).to_bytes(HEAD_BYTES, "big") + body


def body_bytes(head: bytes) -> int:
    """How long the body is. Raises PeerMisbehaved."""
    size_bytes = int.from_bytes(head, "big")
    if not 0 < size_bytes <= MAX_RELAY_FRAME_BYTES:
        raise PeerMisbehaved(f"a frame of {size_bytes} bytes; 1 to {MAX_RELAY_FRAME_BYTES} are allowed")
    return size_bytes


def unpack(body: bytes, *kinds: type[Frame]) -> Frame:
    """A frame of one of these kinds. Raises PeerMisbehaved."""
    return decode_body(body, _union(kinds))


@functools.cache
def _union(kinds: tuple[type[Frame], ...]) -> type[Frame]:
    return functools.reduce(operator.or_, kinds)


# --- what is signed -----------------------------------------------------------------------------------------------


def to_reserve(relay_key: bytes, challenge: bytes, public_key: bytes) -> bytes:
    return RESERVE + relay_key + challenge + public_key


def to_accept(relay_key: bytes, token: bytes) -> bytes:
    """A token is as good as a challenge: random, and used once."""
    return ACCEPT + relay_key + token


def prove(swarm_keys: Sequence[bytes], message: bytes) -> tuple[bytes, ...]:
    """With each of our swarm keys (derived), for we do not know which one the relay has."""
    return tuple(hmac.digest(key, message, "sha256") for key in swarm_keys[:MAX_PROOFS])


def is_member(swarm_keys: Sequence[bytes], proofs: Sequence[bytes], message: bytes) -> bool:
    """Does the sender know one of these keys? A relay without a key serves everybody."""
    known = [hmac.digest(key, message, "sha256") for key in swarm_keys]
    return not known or any(hmac.compare_digest(one, proof) for one in known for proof in proofs)


def reserve(identity: Identity, swarm_keys: Sequence[bytes], relay_key: bytes, challenge: bytes) -> Reserve:
    message = to_reserve(relay_key, challenge, identity.public_key)
    return Reserve(identity.public_key, identity.sign(message), prove(swarm_keys, message))

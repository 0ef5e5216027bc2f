"""Ids and keys of the DHT: 256 bits, the XOR distance, and the groups of addresses that one stranger can easily own.

An id is the SHA-256 of a peer's public key, so nobody chooses a place near a key without mining for it; the caps per
`ip_groups` make mined ids useless (Sybils of few networks fill few places). Salted keys belong into `_key`, later.
"""

from __future__ import annotations

import functools
import hashlib
import random

from dsdnode.addresses import is_address, network, parse_address
from dsdnode.identity import peer_id
from dsdnode.wire.messages import Contact

ID_BITS = 256
ID_BYTES = ID_BITS // 8
K = 20
"""Kademlia's k: nodes a bucket, holders a key, contacts a reply."""
MAX_PER_GROUP = 2
"""Nodes of one /24 (IPv4) or /56 (IPv6) in one bucket, and in the closest set of one lookup."""


def _key(kind: str, name: str) -> bytes:
    return hashlib.sha256(f"dsdnode/1/{kind}/{name}".encode()).digest()


MODELS_KEY = _key("models", "")
"""Where every provider of any model announces itself: the list of models."""


def model_key(model_id: str) -> bytes:
    """Where the providers of one model announce themselves."""
    return _key("model", model_id)


def tokenizer_key(tokenizer_hash: str) -> bytes:
    """Where drafters and shards that share a tokenizer meet: a drafter knows only its tokenizer."""
    return _key("tokenizer", tokenizer_hash)


def node_id(contact: Contact) -> bytes:
    return peer_id(contact.public_key)


def as_int(identifier: bytes) -> int:
    return int.from_bytes(identifier, "big")


def distance(a: bytes, b: bytes) -> int:
    """XOR metric (Maymounkov and Mazieres 2002, section 2.1)."""
    return as_int(a) ^ as_int(b)


def bucket_index(own: bytes, other: bytes) -> int:
    """Bucket i holds the ids at distance [2^i, 2^(i+1)); -1 is the own id."""
    return distance(own, other).bit_length() - 1


def random_id_in_bucket(own: bytes, index: int, rng: random.Random) -> bytes:
    """A target for refreshing bucket `index`, 0 <= index < 256."""
    return (as_int(own) ^ (1 << index) ^ rng.getrandbits(index)).to_bytes(ID_BYTES, "big")


@functools.lru_cache(maxsize=4096)
def ip_groups(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The networks that a peer's addresses lie in, each once, in order; caps count a peer in every one of them.

    Loopback, private, link-local and shared (100.64/10) addresses belong to no group: a laboratory of ten daemons on
    127.0.0.1 or forty in one LAN must work, and nobody outside can be reached there anyway: a lookup counts only peers
    that answered at their address. Names group by their last two labels; single labels and `.local` count as private.
    Raises ValueError for what `is_dialable` refuses.
    """
    groups = (network(parse_address(address)[0]) for address in addresses)
    return tuple(dict.fromkeys(group for group in groups if group is not None))


def is_dialable(contact: Contact) -> bool:
    """Does it say where it can be dialled, in addresses that are ones?"""
    return _are_addresses(contact.addresses)


@functools.lru_cache(maxsize=4096)
def _are_addresses(addresses: tuple[str, ...]) -> bool:
    return all(map(is_address, addresses)) and bool(addresses)

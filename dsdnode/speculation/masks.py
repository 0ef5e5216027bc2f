"""Masks: which tokens may stand at a position, one bit a token id, least significant bit of the first byte first.

A mask is named by a hash of its bits. It travels as its difference to another one, or to none or all of the tokens,
deflated: neighbours "inside a string" differ by a few bits of 262,144. docs/protocol.md, section 11.7.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from dsdnode.errors import PeerMisbehaved

HASH_BYTES: Final = 8
ANY: Final = bytes(HASH_BYTES)
"""In the place of a mask's hash: any token may stand there."""
MAX_VOCAB_SIZE: Final = 1 << 20
"""Of a model whose replies are constrained: four times the largest known. Anybody's record may say a thousand times as
much, and each mask would take its drafter seconds."""
MAX_KEPT_BYTES: Final = 4 << 20
MAX_KEPT: Final = 1024
MIN_KEPT: Final = 96
"""Masks that are kept of one reply, or for one owner, whatever they take: the largest window needs 65 at once."""
MAX_OWNERS: Final = 16
"""Whose masks are kept: those that were told of last."""
MAX_PLACES: Final = 4096
"""Of one reply, the last ones: positions whose masks are known by hash."""
MAX_BASES: Final = 16
"""The last so many are tried for the least difference."""
LEVEL: Final = 6
"""zlib's 9 takes six times as long for a tenth less."""
_NONE, _ALL, _OTHER = 0, 1, 2


def num_bytes_of(vocab_size: int) -> int:
    return -(-vocab_size // 8)


def hash_of(mask: bytes) -> bytes:
    return blake2b(mask, digest_size=HASH_BYTES, person=b"dsdnode mask").digest()


def allows(mask: bytes, token: int) -> bool:
    return token >> 3 < len(mask) and bool(mask[token >> 3] >> (token & 7) & 1)


def allowed(mask: bytes | NDArray[np.uint8], vocab_size: int) -> NDArray[np.bool_]:
    """Of each id below `vocab_size`: may it stand? What lies behind the mask's end may not."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=vocab_size)
    result: NDArray[np.bool_] = bits.view(np.bool_)  # (beyond its end unpackbits puts zeros)
    return result


def masked(logits: NDArray[np.float32], mask: bytes) -> NDArray[np.float32]:
    """Logits [vocab_size] with minus infinity in the place of every token that may not stand."""
    return np.where(allowed(mask, len(logits)), logits, np.float32(-np.inf))


def pack(mask: bytes, bases: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """As it travels: from whichever of `bases` (hash, mask), all of them known there, it differs least."""
    bits = np.frombuffer(mask, np.uint8)
    best, header = bits, bytes([_NONE])
    fewest = _num_set(best)
    if (full := _num_set(~bits)) < fewest:
        best, header, fewest = ~bits, bytes([_ALL]), full
    for name, base in bases:
        other = bits ^ np.frombuffer(base, np.uint8)
        if (num := _num_set(other)) < fewest:
            best, header, fewest = other, bytes([_OTHER]) + name, num
    return header + zlib.compress(best.tobytes(), LEVEL)


def base_of(packed: bytes) -> bytes | None:
    """The hash of the mask that must be known to unpack this one."""
    return packed[1 : 1 + HASH_BYTES] if packed[:1] == bytes([_OTHER]) else None


def unpack(packed: bytes, num_bytes: int, base: bytes | None = None) -> bytes:
    """The mask. `base`: what `base_of` names. Raises PeerMisbehaved for what `pack` would not have made."""
    kind = packed[0] if packed else -1
    if kind not in (_NONE, _ALL, _OTHER) or (kind == _OTHER) != (base is not None):
        raise PeerMisbehaved("a mask that is packed in no way that is known")
    bits = np.frombuffer(_inflated(packed[1 + HASH_BYTES * (kind == _OTHER) :], num_bytes), np.uint8)
    if base is not None:
        bits = bits ^ np.frombuffer(base, np.uint8)
    return (~bits if kind == _ALL else bits).tobytes()


def _inflated(data: bytes, num_bytes: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        inflated = unpacker.decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise PeerMisbehaved(f"a mask that is no zlib: {error}") from None
    if len(inflated) != num_bytes or not unpacker.eof or unpacker.unused_data:
        raise PeerMisbehaved(f"a mask that is not of {num_bytes} bytes")
    return inflated


def _num_set(bits: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


class Masks:
    """As one side knows them: the last ones used, by their hashes."""

    def __init__(self, vocab_size: int) -> None:
        self.num_bytes = num_bytes_of(vocab_size)
        self._vocab_size = vocab_size
        self._any = b"\xff" * self.num_bytes
        most = min(MAX_KEPT, max(MIN_KEPT, MAX_KEPT_BYTES // self.num_bytes))
        self._kept: LRUCache[bytes, bytes] = LRUCache(most)

    def __contains__(self, name: bytes) -> bool:
        return name == ANY or name in self._kept

    def get(self, name: bytes) -> bytes | None:
        """The mask with that hash; it counts as used."""
        if name == ANY:
            return self._any
        found: bytes | None = self._kept.get(name)
        return found

    def keep(self, name: bytes, packed: bytes) -> bool:
        """False: it cannot be unpacked, for want of another one. Raises PeerMisbehaved: it is not what it is called, or
        allows nothing."""
        if name in self._kept:
            return True
        base = base_of(packed)
        known = None if base is None else self._kept.get(base)
        if base is not None and known is None:
            return False
        self.put(name, unpack(packed, self.num_bytes, known))
        return True

    def put(self, name: bytes, mask: bytes) -> None:
        """Raises PeerMisbehaved: it is not what it is called, or allows nothing."""
        if len(mask) != self.num_bytes or hash_of(mask) != name:
            raise PeerMisbehaved("a mask that is another one than it is called")
        if not self._allows_any(mask):
            raise PeerMisbehaved("a mask that allows nothing")
        self._kept[name] = mask

    def _allows_any(self, mask: bytes) -> bool:
        """Its last byte may have bits behind the vocabulary."""
        whole, rest = divmod(self._vocab_size, 8)
        return mask[:whole] != bytes(whole) or (rest > 0 and mask[whole] & (1 << rest) - 1 > 0)


class Shelves:
    """What a judge keeps for the replies of each owner together: strings and numbers are the same in all of them."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._of: LRUCache[bytes, Masks] = LRUCache(MAX_OWNERS)

    def of(self, owner: bytes) -> Masks:
        found: Masks = self._of.setdefault(owner, Masks(self._vocab_size))
        return found


class Places:
    """The masks of positions. A position is known by the digest of all before it, so that whichever epoch, branch or
    route a block is of, it finds those of its own path."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self._names: dict[bytes, bytes] = {}

    def learn(self, names: Mapping[bytes, bytes]) -> None:
        """Hashes of masks, by digest. What is said last counts."""
        for digest, name in names.items():
            self._names.pop(digest, None)
            self._names[digest] = name
        while len(self._names) > MAX_PLACES:
            del self._names[next(iter(self._names))]

    def forget(self) -> None:
        """A new route: its owner tells them again, perhaps as those of another reply."""
        self._names.clear()

    def of(self, digests: Sequence[bytes]) -> list[bytes] | None:
        """The masks of the positions behind these; None: some are lacking."""
        masks = [self.masks.get(self._names[digest]) for digest in digests if digest in self._names]
        found = [mask for mask in masks if mask is not None]
        return found if len(found) == len(digests) else None

    def lacking(self, digests: Sequence[bytes]) -> list[bytes]:
        """Hashes of masks that are known by name alone."""
        names = [self._names[digest] for digest in digests if digest in self._names]
        return [name for name in dict.fromkeys(names) if name not in self.masks]

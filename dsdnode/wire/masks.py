"""What an owner tells the judge of a reply whose tokens are drawn under masks (docs/protocol.md, section 11.7)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dsdnode.wire.messages import Message, SessionId

MASK_HASH_BYTES = 8
MAX_MASKS = 256
"""Of one message."""

MaskHash = Annotated[bytes, Meta(min_length=MASK_HASH_BYTES, max_length=MASK_HASH_BYTES)]


class Masks(Message, frozen=True, tag=49):
    """Owner to judge: under which masks the tokens of these positions are drawn. Buffer 0: digests of all that is
    before each; 1: hashes of their masks, as many; 2: msgpack list of PackedMask: those that the judge may lack.
    """

    session: SessionId


class PackedMask(msgspec.Struct, frozen=True, array_like=True):
    """A mask and what it is called (speculation/masks.py)."""

    name: MaskHash
    packed: bytes


class LackMasks(Message, frozen=True, tag=50):
    """Judge to owner: a block waits for these masks, which are not here, or not any more. Answered by Masks."""

    session: SessionId
    names: Annotated[tuple[MaskHash, ...], Meta(min_length=1, max_length=MAX_MASKS)]

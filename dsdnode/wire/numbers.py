"""Token ids as raw little-endian buffers, and the types that hidden states may travel in (tensors.py packs those).

Without numpy, which commands that only ask need not wait for.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from dsdnode.errors import BadInput, PeerMisbehaved
from dsdnode.wire.messages import WIRE_TYPES

EXACT_WIRE = "auto"
"""Nothing is rounded on the way; whoever wants that asks for it."""


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as int32 [n]."""
    return struct.pack(f"<{len(tokens)}i", *tokens)


def unpack_tokens(buffer: bytes, num_tokens: int, vocab_size: int) -> tuple[int, ...]:
    """`num_tokens` token ids. Raises PeerMisbehaved: another count, ids outside [0, vocab_size)."""
    if len(buffer) != 4 * num_tokens:
        raise PeerMisbehaved(f"{len(buffer)} bytes for {num_tokens} token ids")
    tokens: tuple[int, ...] = struct.unpack(f"<{num_tokens}i", buffer)
    if tokens and not (min(tokens) >= 0 and max(tokens) < vocab_size):
        raise PeerMisbehaved(f"token ids outside of a vocabulary of {vocab_size}")
    return tokens


def parse_wire(text: str) -> str:
    """A type of hidden states, one of WIRE_TYPES; `auto` is f32. Raises BadInput naming them."""
    if text == EXACT_WIRE:
        return "f32"
    if text not in WIRE_TYPES:
        raise BadInput(f"{text!r} is no type for hidden states: choose from {', '.join((EXACT_WIRE, *WIRE_TYPES))}")
    return text

"""What a judge guesses behind a verdict, as it travels: buffer 1 of Verdict, where the Open asked for guesses."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from dsdnode.errors import PeerMisbehaved

MAX_GUESSES = 16
"""In one verdict, at most."""
Guess = tuple[int, float]
"""A token, and the chance that its giver sees for it, where those before it are right."""


def pack_guesses(guesses: Sequence[Guess]) -> bytes:
    """Ids int32 [n], then chances float32 [n]."""
    num = len(guesses)
    return struct.pack(f"<{num}i{num}f", *(token for token, _ in guesses), *(chance for _, chance in guesses))


def unpack_guesses(data: bytes, vocab_size: int) -> tuple[Guess, ...]:
    """Raises PeerMisbehaved."""
    num, rest = divmod(len(data), 8)
    if rest or num > MAX_GUESSES:
        raise PeerMisbehaved(f"{len(data)} bytes of guesses")
    ids: tuple[int, ...] = struct.unpack_from(f"<{num}i", data)
    chances: tuple[float, ...] = struct.unpack_from(f"<{num}f", data, 4 * num)
    if not all(0 <= token < vocab_size for token in ids) or not all(0 <= chance <= 1 for chance in chances):
        raise PeerMisbehaved("guesses at tokens that the model does not have, or chances that are none")
    return tuple(zip(ids, chances, strict=True))

"""What a judge guesses behind a verdict, as it travels: buffer 1 of Verdict, where the Open asked for guesses."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dsdnode.errors import PeerMisbehaved

MAX_GUESSES = 16
"""In one verdict, at most."""
MAX_GUESS_MS = 86_400_000.0
Guess = tuple[int, float]
"""A token, and the chance that its giver sees for it, where those before it are right."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """At what stands behind a verdict's token; `spent_ms`: what they took the judge."""

    tokens: tuple[Guess, ...] = ()
    spent_ms: float = 0.0


NONE = Guesses()


def pack_guesses(guesses: Guesses) -> bytes:
    """The time float32, then ids int32 [n], then chances float32 [n]."""
    tokens, num = guesses.tokens, len(guesses.tokens)
    ids, chances = (token for token, _ in tokens), (chance for _, chance in tokens)
    return struct.pack(f"<f{num}i{num}f", min(guesses.spent_ms, MAX_GUESS_MS), *ids, *chances)


def unpack_guesses(data: bytes, vocab_size: int) -> Guesses:
    """Raises PeerMisbehaved."""
    num, rest = divmod(len(data) - 4, 8)
    if rest or not 0 <= num <= MAX_GUESSES:
        raise PeerMisbehaved(f"{len(data)} bytes of guesses")
    spent_ms, *numbers = struct.unpack(f"<f{num}i{num}f", data)
    ids, chances = numbers[:num], numbers[num:]
    if not all(0 <= token < vocab_size for token in ids) or not all(0 <= chance <= 1 for chance in chances):
        raise PeerMisbehaved("guesses at tokens that the model does not have, or chances that are none")
    if not 0 <= spent_ms <= MAX_GUESS_MS:
        raise PeerMisbehaved(f"guesses that took {spent_ms} ms")
    return Guesses(tuple(zip(ids, chances, strict=True)), spent_ms)

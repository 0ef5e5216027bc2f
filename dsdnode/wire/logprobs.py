"""Log-probabilities of a reply's tokens, as they travel: from judge to owner as numbers, to the client with the bytes
of each token, since a client has no tokenizer. (Without numpy, as numbers.py.)"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from dsdnode.errors import PeerMisbehaved
from dsdnode.wire.messages import MAX_BLOCK_POSITIONS, TokenId
from dsdnode.wire.shaping import MAX_LOGPROBS

MAX_TOKEN_BYTES = 256
"""Of one token's bytes; the few that are longer are runs of blanks, and are cut."""

LEAST_LOGPROB = -9999.0
"""Of what is impossible: there is no minus infinity in JSON, and this is what OpenAI writes."""
MOST_LOGPROB = 1.0
"""It is 0 or less, but for rounding."""

Logprob = Annotated[float, Meta(ge=-1e30, le=1e30)]
TokenBytes = Annotated[bytes, Meta(max_length=MAX_TOKEN_BYTES)]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of one position: the token that stands there, and the most likely ones, falling."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class SaidToken(msgspec.Struct, frozen=True, array_like=True):
    token: TokenId
    logprob: Logprob
    data: TokenBytes


class SaidPosition(msgspec.Struct, frozen=True, array_like=True):
    said: SaidToken
    top: Annotated[tuple[SaidToken, ...], Meta(max_length=MAX_LOGPROBS)] = ()


class PieceLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Buffer 2 of Piece, where they were asked for: of each of its tokens."""

    positions: Annotated[tuple[SaidPosition, ...], Meta(max_length=MAX_BLOCK_POSITIONS)]


def pack_logprobs(rows: Sequence[TokenLogprobs]) -> bytes:
    """Ids int32 [n, 1 + k], then values float32 [n, 1 + k]; all rows have k of the most likely."""
    said = [pair for row in rows for pair in ((row.token, row.logprob), *row.top)]
    return struct.pack(f"<{len(said)}i", *(token for token, _ in said)) + struct.pack(
        f"<{len(said)}f", *(value for _, value in said)
    )


def unpack_logprobs(data: bytes, num_top: int, vocab_size: int) -> tuple[TokenLogprobs, ...]:
    """Raises PeerMisbehaved."""
    width = 1 + num_top
    num, rest = divmod(len(data), 8 * width)
    if rest or num > MAX_BLOCK_POSITIONS + 1:
        raise PeerMisbehaved(f"{len(data)} bytes of log-probabilities, {width} for each token")
    ids: tuple[int, ...] = struct.unpack_from(f"<{num * width}i", data)
    values: tuple[float, ...] = struct.unpack_from(f"<{num * width}f", data, 4 * num * width)
    fit = all(LEAST_LOGPROB <= value <= MOST_LOGPROB for value in values)
    if num and not (min(ids) >= 0 and max(ids) < vocab_size and fit):
        raise PeerMisbehaved("log-probabilities of tokens that the model does not have, or that are none")
    pairs = list(zip(ids, values, strict=True))
    rows = (pairs[first : first + width] for first in range(0, len(pairs), width))
    return tuple(TokenLogprobs(*row[0], tuple(row[1:])) for row in rows)

"""Tokens at which relaxed acceptance stays strict: a digit or a bracket is right or wrong. Speculation section 5.

A judge has no tokenizer, so the owner of a reply sends the set with Open: one bit a token id, lowest bit first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

_KEY: Final = re.compile(r"[\d+\-*/=<>()\[\]{}^%$#@&|~\\_;`\u0000-\u001f\u007f\ufffd]|  |[\u2200-\u22ff×÷±−√²³¹€£¥]")
"""Digits of any script, operators, brackets, what code is made of, layout, currencies, and halves of characters."""


class KeyTokens:
    """A set of token ids. What it says nothing of (beyond its bits) is in it: better strict than sorry."""

    def __init__(self, bitmap: bytes) -> None:
        self._bitmap = bitmap

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, int) or token >= 8 * len(self._bitmap):
            return True
        return bool(self._bitmap[token >> 3] >> (token & 7) & 1)


def key_tokens(pieces: Sequence[bytes], others: Collection[int] = ()) -> bytes:
    """The bitmap of a vocabulary, given the bytes of each token; control tokens have none, and are in the set.

    `others`: ids that are in it whatever they say (the ends of a reply).
    """
    bitmap = bytearray(-(-len(pieces) // 8))
    for token, piece in enumerate(pieces):
        if not piece or token in others or _KEY.search(piece.decode("utf-8", "replace")):
            bitmap[token >> 3] |= 1 << (token & 7)
    for token in range(len(pieces), 8 * len(bitmap)):
        bitmap[token >> 3] |= 1 << (token & 7)
    return bytes(bitmap)

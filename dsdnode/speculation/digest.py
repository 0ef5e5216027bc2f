"""Digests of token sequences: they say whether two peers have the same tokens, and to who lacks the key nothing else.

The digest after n tokens covers all n. Keyed by a secret that only the owner of the reply has: stages compare digests,
none can try out prompts. BLAKE2b, 8 bytes: a chance equality among the some 10^4 compared in a reply is < 10^-11.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from dsdnode.speculation.actions import Tokens

DIGEST_BYTES = 8
MAX_OPEN_DIGESTS = 65_536
"""In Open (512 KiB): a stage can show that it still has as many positions; of a longer line the rest is sent again."""


def first(secret: bytes) -> bytes:
    """Digest of the empty sequence."""
    return blake2b(b"dsdnode", key=secret, digest_size=DIGEST_BYTES).digest()


def after(secret: bytes, digest: bytes, token: int) -> bytes:
    """Digest of a sequence one `token` longer than the one of `digest`."""
    return blake2b(digest + token.to_bytes(4, "little"), key=secret, digest_size=DIGEST_BYTES).digest()


def extend(secret: bytes, digest: bytes, tokens: Iterable[int]) -> list[bytes]:
    """Digests after each of `tokens`, which follow the sequence of `digest`; as many as there are tokens."""
    result = []
    for token in tokens:
        digest = after(secret, digest, token)
        result.append(digest)
    return result


def split(digests: bytes) -> list[bytes]:
    """The 8-byte digests of a buffer."""
    return [digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)]


def same(mine: bytes, theirs: bytes) -> bool:
    """Do both sequences hold the same tokens? Every comparison of the protocol goes through here."""
    return mine == theirs


class CommittedLine:
    """The owner's committed tokens with their digests."""

    def __init__(self, secret: bytes, tokens: Tokens) -> None:
        self.tokens = list(tokens)
        self.digests = [first(secret)]
        """`digests[i]` is of the first i tokens."""
        self._secret = secret
        self.digests += extend(secret, self.digests[0], tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def commit(self, token: int) -> None:
        self.tokens.append(token)
        self.digests.append(self.after(self.digests[-1], token))

    def after(self, digest: bytes, token: int) -> bytes:
        """Digest of a sequence one `token` longer than the one of `digest`."""
        return after(self._secret, digest, token)

    def open_digests(self) -> bytes:
        return b"".join(self.digests[:MAX_OPEN_DIGESTS])

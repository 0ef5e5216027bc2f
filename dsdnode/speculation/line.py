"""The owner's line of committed tokens with its digests."""

from __future__ import annotations

from dsdnode.speculation import digest as digest_
from dsdnode.speculation.actions import Tokens

MAX_OPEN_DIGESTS = 65_536
"""In Open (512 KiB): a stage can show that it still has as many positions; of a longer line the rest is sent again."""


class Line:
    def __init__(self, secret: bytes, tokens: Tokens) -> None:
        self.tokens = list(tokens)
        self.digests = [digest_.first(secret)]
        """`digests[i]` is of the first i tokens."""
        self._secret = secret
        self.digests += digest_.extend(secret, self.digests[0], tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def commit(self, token: int) -> None:
        self.tokens.append(token)
        self.digests.append(self.after(self.digests[-1], token))

    def after(self, digest: bytes, token: int) -> bytes:
        """Digest of a sequence one `token` longer than the one of `digest`."""
        return digest_.after(self._secret, digest, token)

    def open_digests(self) -> bytes:
        return b"".join(self.digests[:MAX_OPEN_DIGESTS])

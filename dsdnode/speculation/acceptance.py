"""Which draft tokens stand. Speculation section 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Acceptance(Protocol):
    """The seam for relaxed rules: they will need more of the judge's distribution than its draws."""

    def count(self, draft: Sequence[int], draws: Sequence[int]) -> int:
        """Leading draft tokens that stand; `draws[i]` is the judge's own token where `draft[i]` is, same length."""


class Exact:
    """A draft token stands while it equals the judge's own draw: lossless at every temperature (keyed noise)."""

    def count(self, draft: Sequence[int], draws: Sequence[int]) -> int:
        num_accepted = 0
        for guess, draw in zip(draft, draws, strict=True):
            if guess != draw:
                break
            num_accepted += 1
        return num_accepted

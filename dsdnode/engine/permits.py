"""The seam between a reply that is constrained and whatever knows its grammar: a process of its own, or a fake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """The masks of positions, by hash; `fresh`: those that were not told before, or all (speculation/masks.py)."""

    names: list[bytes]
    fresh: list[tuple[bytes, bytes]]


class Grammar(Protocol):
    """What one reply may say."""

    async def masks(self, tokens: Sequence[int], first: int, again: bool = False) -> FoundMasks:
        """Of the positions behind the first `first`, `first` + 1, ... of the reply's `tokens`; fewer where these are
        not what may be said. `again`: also those masks that were told before.

        Raises BadInput: the first `first` lead nowhere, or took too much; EngineLost."""

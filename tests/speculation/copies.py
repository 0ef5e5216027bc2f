"""Random schedules in which draft tokens are copied, rightly and wrongly, between those of the draft engine."""

from __future__ import annotations

from random import Random

from dsdnode.speculation.actions import DraftToken, Tokens
from dsdnode.speculation.owner.session import SessionMachine

from .toy import VOCABULARY
from .world import World


class Told:
    """In the place of the n-gram index: what the reply will say, but for some errors, as long runs or short ones."""

    def __init__(self, world: World, line: list[int]) -> None:
        """`line`: the owner's, as it grows."""
        self._world, self._line = world, line
        self._rng = Random(f"copies {world.seed}")
        self._rate = self._rng.choice([0.3, 0.7, 0.9, 1.0])

    def copied(self, drafted: Tokens, count: int) -> tuple[DraftToken, ...]:
        rng, start = self._rng, len(self._line) + len(drafted)
        count = min(count, rng.choice([0, 0, 1, 2, 5, 12]))
        right = self._world.right[start : start + count]
        tokens = (token if rng.random() < self._rate else rng.randrange(VOCABULARY - 1) for token in right)
        copied = tuple(DraftToken(token, rng.choice([0.6, 0.9]), copied=True) for token in tokens)
        self._world.watch.placed((*self._line, *drafted), copied)
        return copied


class Copying(World):
    def _make_owner(self, stream: bool) -> SessionMachine:
        owner = super()._make_owner(stream)
        owner._drafts._ngrams = Told(self, owner._line.tokens)  # type: ignore[assignment]
        return owner

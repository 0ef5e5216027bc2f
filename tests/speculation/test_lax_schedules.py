"""Random schedules (world.py) with a judge that lets more stand than she would say: no longer one right text.

Whatever is lost, doubled, re-routed or hedged: every token is hers or one that her rule allows there, and of those that
are not hers the owner has counted each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

import pytest

from dsdnode.speculation.acceptance import AcceptedPrefix, JudgeDraw
from dsdnode.speculation.actions import DraftToken
from dsdnode.speculation.owner.session import SessionConfig
from dsdnode.speculation.stage import judge

from . import world
from .toy import VOCABULARY, reference

pytestmark = pytest.mark.slow

SEEDS = 60


def neighbour(token: int) -> int:
    return (token + 1) % (VOCABULARY - 1)


class Lax:
    """What she would say, or the token after it."""

    num_top = 0

    def accept(self, start: int, draft: Sequence[int], own: Sequence[JudgeDraw]) -> AcceptedPrefix:
        stands = [
            draft_token in (mine.token, neighbour(mine.token)) for draft_token, mine in zip(draft, own, strict=True)
        ]
        count = next((index for index, stood in enumerate(stands) if not stood), len(stands))
        return AcceptedPrefix(count, tuple(start + index for index in range(count) if draft[index] != own[index].token))

    def is_hopeless(self, start: int, draft: Sequence[int], own: JudgeDraw) -> bool:
        return not self.accept(start, draft[:1], [own]).count


class LaxWorld(world.World):
    num_relaxed = 0
    _ahead: list[int]

    def _next(self, line: Sequence[int]) -> int:
        return reference(tuple(line), 1, self.num_stages, self.seed)[-1]

    def _draft_token(self, position: int) -> DraftToken:
        """As the model would go on from this very line, or nearly so, or wrong; the second choice is another of it."""
        asked = self.owner._drafts.asked
        if asked is None:  # is told already
            return DraftToken(0)
        line = self.owner._epochs.tokens(asked.epoch, 0, asked.start)
        if position == len(line):
            self._ahead = list(line)
        right = self._next(self._ahead)
        choices = [right, neighbour(right), (right + 5) % (VOCABULARY - 1)]
        weights = [self.draft_token_rate, 0.3, 0.2]
        token = self.rng.choices(choices, weights)[0]
        second = self.rng.choice([choice for choice in choices if choice != token])
        self._ahead.append(token)
        chance = self.rng.random()
        return DraftToken(token, chance, second, (1 - chance) * self.rng.random())

    def _check_text(self) -> None:
        line = list(self.prompt)
        for token in self.emitted:
            right = self._next(line)
            self.num_relaxed += token == neighbour(right)
            if token not in (right, neighbour(right)):
                self.violations.append(f"wrong token at {len(line)}")
            line.append(token)
        if self.owner.finished == "length" and len(self.emitted) != self.num_tokens:
            self.violations.append("text too short")
        if self.owner.log.statistics().relaxed != self.num_relaxed:
            self.violations.append("miscounted")


@pytest.mark.parametrize("stream", [False, True], ids=["rounds", "stream"])
def test_lax_schedules(stream: bool) -> None:
    lax_config = partial(SessionConfig, relaxed=True)
    red, num_relaxed = {}, 0
    with patch.object(judge, "ExactRule", Lax), patch.object(world, "SessionConfig", lax_config):
        for seed in range(SEEDS):
            run = LaxWorld(seed, stream=stream)
            run.run()
            num_relaxed += run.num_relaxed
            if run.violations:
                red[seed] = run.violations
    assert red == {}
    assert num_relaxed > 100

"""Random schedules in which a judge guesses at what comes behind its verdicts, rightly and wrongly."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from dsdnode.speculation import digest
from dsdnode.speculation.actions import DraftToken, Guessed, NeedRoute, Note, RunChunk, SendBlock, Tokens
from dsdnode.speculation.controller import WindowController
from dsdnode.speculation.owner.session import SessionMachine
from dsdnode.speculation.plan import Plan
from dsdnode.speculation.shaping import PLAIN
from dsdnode.speculation.stage.known import KnownLine
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.guesses import NONE, Guesses

from .peers import Peer
from .restless import Restless
from .toy import VOCABULARY
from .world import World


class Plain(Restless):
    """Nothing is drafted: what comes with verdicts is all there is."""

    def _any(self) -> Plan:
        return Plan("plain", 0, 0)


class Guessing(World):
    """A judge knows the tokens of the line, and of each block: those that it is asked to run are looked at."""

    def __init__(self, seed: int, *, stream: bool) -> None:
        self._told: dict[int, Tokens] = {}
        """By route: the line, when it was opened."""
        self._dice = Random(f"guesses {seed}")
        self._rate = self._dice.choice([0.3, 0.7, 0.9, 1.0])
        self.num_guessed = 0
        """Draft tokens that came with verdicts, and left."""
        super().__init__(seed, stream=stream)

    def _make_owner(self, stream: bool) -> SessionMachine:
        owner = super()._make_owner(stream)
        owner._drafts._may_come = True
        window: WindowController = owner._window if stream else Plain(self.rng)
        owner._window = window
        return owner

    def _open(self, action: NeedRoute) -> None:
        self._told[action.route] = self.owner.tokens
        super()._open(action)

    def known(self, route: int) -> KnownLine | None:
        line = self._told[route]
        return KnownLine(PLAIN, len(self.prompt), len(line), np.array(line, np.int32), guesses=True)

    def note(self, action: SendBlock) -> Note | None:
        block = action.block
        behind = max(0, len(self._told[block.route]) - block.position)
        return Note(b"", action.tokens[: block.num_given][behind:])

    def guessed(self, machine: StageMachine, run: RunChunk, draws: Tokens) -> Guessed | None:
        assert machine._running is not None and run.line is not None
        branch, line = machine._running[1], tuple(run.line.tolist())
        digests = branch.digests[run.position : run.position + len(line) + 1]
        if digests != [digests[0], *digest.extend(self.secret, digests[0], line)]:
            self.violations.append("a judge that takes other tokens for the line's")
        if not draws:
            return None
        first = len(line) - len(draws) + 1
        known = line[first:]
        index = next((i for i, (one, two) in enumerate(zip(draws, known, strict=False)) if one != two), len(known))
        position = run.position + first + index + 1
        right = self.right[position : position + self._dice.choice([0, 1, 2, 4])]
        return Guessed(position, Guesses(tuple((self._token(token), self._dice.random()) for token in right)))

    def _token(self, right: int) -> int:
        return right if self._dice.random() < self._rate else self._dice.randrange(VOCABULARY - 1)

    def on_verdict(self, verdict: Any, peer: Peer, guesses: Guesses | None = None) -> None:
        line = (*self.owner.tokens, *self._decided(verdict), verdict.token)
        self.watch.placed(line, tuple(DraftToken(token, chance) for token, chance in (guesses or NONE).tokens))
        super().on_verdict(verdict, peer, guesses)

    def _decided(self, verdict: Any) -> Tokens:
        """What it commits before its own token."""
        epoch = self.owner._epochs.get(verdict.epoch)
        if epoch is None or not len(self.owner.tokens) <= verdict.decided <= epoch.sent:
            return ()
        return self.owner._epochs.tokens(epoch, len(self.owner.tokens), verdict.decided)

    def _carry_out(self, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, SendBlock) and (main := self.owner._epochs.main) is not None:
                self.num_guessed += sum(placed.draft_token.guessed for placed in main.draft_tokens)
        super()._carry_out(actions)

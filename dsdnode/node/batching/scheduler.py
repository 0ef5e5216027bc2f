"""Whose turn it is at an engine: which waiting runs share the next decode, and with how much of each. Pure.

Whoever was served longest ago comes first: networks take turns, in each of them its addresses, at these their accounts,
and in these their owners (here an owner is one session: many of them get no more turns than one). While several owners
are at work, one decode has at most SHARED_POSITIONS: short runs (a block of draft tokens, a token) first, with them
PIECE_POSITIONS of the long ones (prompts). So nobody waits for longer than for one such decode, and no prompt waits for
ever. An owner that is alone is decoded in one piece.

Runs longer than a shared decode make many of these long, whoever else is in them. So all of them together take no more
of the time than they leave while other networks have shorter ones: after each piece there is a pause that is as long as
it took, whosever piece it was, and before the next one of that network shorter runs that are there go first, once. The
prompt of a usual question is none of these: it would wait its turn behind every long text's pieces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog

from dsdnode.accounts import NOBODY, Account, in_turn
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import DsdError
from dsdnode.pacing.fits import SHARED_POSITIONS

log = structlog.get_logger(__name__)

PIECE_POSITIONS = 32
ACTIVE_S = 1.0
"""An owner that had work here so short a time ago will be back: a whole prompt at once would be in its way."""

Owner = bytes | int
Done = Callable[[Output | DsdError | None], None]


@dataclass(slots=True, eq=False)
class Run:
    chunk: Chunk
    owner: Owner
    alive: Callable[[], bool]
    done: Done
    """Called once: the output; an error; or None when the chunk was dropped unrun."""
    life: int
    account: Account = NOBODY
    """Whom its turns are charged to."""
    parts: list[Output] = field(default_factory=list)
    num_done: int = 0
    over: bool = False

    @property
    def sequences(self) -> tuple[int, ...]:
        return (self.chunk.sequence,)

    @property
    def end(self) -> int:
        """The position behind it."""
        return self.chunk.position + len(self.chunk.inputs) + self.chunk.extend

    @property
    def is_long(self) -> bool:
        return len(self.chunk.inputs) + self.chunk.extend > SHARED_POSITIONS

    @property
    def num_left(self) -> int:
        return len(self.chunk.inputs) - self.num_done + self.chunk.extend

    def piece(self, room: int) -> Chunk:
        """The next positions, about `room` of them; the draws are all made in the last piece."""
        left = len(self.chunk.inputs) - self.num_done
        count = min(room, left - max(1, self.chunk.num_draws))
        start, position = self.num_done, self.chunk.position + self.num_done
        if self.num_left <= room or count <= 0:
            if start == 0:
                return self.chunk
            return dataclasses.replace(self.chunk, position=position, inputs=self.chunk.inputs[start:])
        inputs = self.chunk.inputs[start : start + count]
        return Chunk(self.chunk.sequence, position, inputs, owner=self.chunk.owner)

    def add(self, output: Output, num_positions: int) -> None:
        self.parts.append(output)
        self.num_done += num_positions

    def whole(self) -> Output:
        """What the engine would have given for the whole chunk."""
        last = self.parts[-1]
        if len(self.parts) == 1:
            return last
        states = [part.states for part in self.parts if part.states is not None]
        return dataclasses.replace(
            last,
            states=None if last.states is None else np.concatenate(states),
            compute_s=sum(part.compute_s for part in self.parts),
        )

    def finish(self, result: Output | DsdError | None) -> None:
        if self.over:
            return
        self.over = True
        try:
            self.done(result)
        except Exception:  # a bug in one reply must not end the others
            log.exception("bug in what follows a decode")


Batch = list[tuple[Run, Chunk]]


@dataclass(slots=True)
class _Owner:
    """Of one owner: the number of the decode that it was last part of, and when it last had work."""

    served: int
    active_s: float
    account: Account
    short_s: float = float("-inf")
    """When it last had a run that is not long."""


class Scheduler:
    """`max_positions` bounds one decode; a run that is larger, and cannot be cut, goes alone."""

    def __init__(self, max_positions: int) -> None:
        self._max_positions = max_positions
        self._turns: dict[Owner, _Owner] = {}
        self._num_decodes = 0
        self._rests_until_s = float("-inf")
        """A decode had a long run: until then there is none, where others have shorter ones."""
        self._went_first: set[str] = set()
        """Networks whose long runs have let shorter ones go before."""
        self._long: set[str] = set()
        """Of the decode chosen last."""

    def active(self, owner: Owner, now: float, account: Account = NOBODY) -> None:
        """It has work."""
        self._turns.setdefault(owner, _Owner(self._num_decodes, now, account)).active_s = now

    def forget(self, owner: Owner) -> None:
        self._turns.pop(owner, None)

    def choose(self, ready: Sequence[Run], now: float) -> Batch:
        """The next decode, out of runs (in order of arrival) of distinct sequences; their owners are active."""
        self._turns = {owner: turn for owner, turn in self._turns.items() if now - turn.active_s < ACTIVE_S}
        order = self._without_those_that_rest(self._in_turn(ready), now)
        batch = self._fill(order, shared=len(self._turns) > 1)
        self._num_decodes += 1
        for run, _ in batch:
            self._turns[run.owner].served = self._num_decodes
        self._long = {run.account.network for run, _ in batch if run.is_long}
        self._went_first -= self._long
        return batch

    def took(self, now: float, seconds: float) -> None:
        """The decode chosen last."""
        if self._long:
            self._rests_until_s = now + seconds

    @property
    def wakes_at(self) -> float:
        """When there may be a decode though nothing was chosen."""
        return self._rests_until_s

    def _without_those_that_rest(self, order: Sequence[Run], now: float) -> list[Run]:
        short = [run for run in order if not run.is_long]
        for run in short:
            self._turns[run.owner].short_s = now
        if len(short) == len(order):
            return short
        lately = {turn.account.network for turn in self._turns.values() if now - turn.short_s < ACTIVE_S}
        waits = set()
        long = [run.account.network for run in order if run.is_long]
        for network in dict.fromkeys(one for one in long if lately - {one}):
            lets_go_first = network not in self._went_first and any(run.account.network != network for run in short)
            rests = now < self._rests_until_s
            if rests or lets_go_first:
                waits.add(network)
            if not rests and lets_go_first:
                self._went_first.add(network)
        return [run for run in order if run in short or run.account.network not in waits]

    def _in_turn(self, ready: Sequence[Run]) -> list[Run]:
        if len(ready) < 2:
            return list(ready)
        served: dict[str | tuple[str, str] | Account, int] = {}
        for turn in self._turns.values():
            for payer in (turn.account.network, turn.account.place, turn.account):
                served[payer] = max(served.get(payer, 0), turn.served)

        def waits(run: Run) -> tuple[int, int, int, int]:
            turn = self._turns[run.owner]
            account = turn.account
            return served[account.network], served[account.place], served[account], turn.served

        return in_turn(sorted(ready, key=waits), lambda run: self._turns[run.owner].account)

    def _fill(self, order: Sequence[Run], *, shared: bool) -> Batch:
        limit = min(self._max_positions, SHARED_POSITIONS) if shared else self._max_positions
        piece = min(limit, PIECE_POSITIONS)
        long = [run for run in order if run.num_left > piece] if shared else []
        batch: Batch = []
        room = limit - piece if long else limit
        for run in order:
            left = run.num_left
            if run not in long and (left <= room or not (batch or long)):
                batch.append((run, run.piece(left)))
                room -= left
        room = piece if batch else limit
        for run in long:
            chunk = run.piece(room)
            batch.append((run, chunk))
            room -= len(chunk.inputs) + chunk.extend
            if room <= 0:
                break
        return batch

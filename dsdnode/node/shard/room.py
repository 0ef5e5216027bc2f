"""Who makes room at a stage when all sessions or all of the cache are taken. Pure.

First go conversations that rest. Then whoever has more than a fair share (accounts.py) loses what is reserved and not
used, and then sessions, the one without work for the longest time first. Where there are more networks than places, or
more names in one network than it has a share of, nobody has more than a share. There people take turns: a session that
is idle, or has had its turn, makes room for whoever else comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dsdnode.accounts import NEWCOMER, TURN_S, Account, Shares, Turns
from dsdnode.wire.messages import Refused

IDLE_S = 15.0
"""So long nothing was run for a session that is idle. A stage that is slow to answer takes less."""


class Tenant(Protocol):
    """A session at the stage, for its reply `since_s`. It has `reserved_positions` of the cache, whatever it uses.

    `needed_positions`: what it has there, or needs for the line that it had when it was opened.
    """

    account: Account
    parked: bool
    reserved_positions: int
    num_cells: int
    since_s: float

    @property
    def needed_positions(self) -> int: ...

    @property
    def held_positions(self) -> int: ...

    @property
    def worked_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Coming:
    """A session that asks for room."""

    account: Account
    num_positions: int


S = TypeVar("S", bound=Tenant)


class Room(Generic[S]):
    """Of those who are `here`, and of those who are `coming` beside whoever asks, at one moment."""

    def __init__(
        self,
        now: float,
        max_sessions: int,
        max_positions: int,
        here: Iterable[S],
        coming: Iterable[Coming] = (),
        turns: Turns | None = None,
    ) -> None:
        self._now = now
        self._max_sessions = max_sessions
        self._max_positions = max_positions
        self._here = list(here)
        self._coming = list(coming)
        self._turns = turns or Turns()
        self._cut: set[int] = set()
        """Whose reservations are to be no more than what they use."""

    def make(self, asker: Coming) -> list[S] | Refused:
        """Who is to go so that one more has room."""
        going: list[S] = []
        while True:
            if len(self._here) + len(self._coming) >= self._max_sessions:
                full = f"all {self._max_sessions} sessions are taken"
                coming = [(one.account, 1) for one in self._coming]
                gives = self._gives(asker.account, 1, self._max_sessions, lambda one: 1, coming)
                cuts = False
            elif self._num_held() + asker.num_positions > self._max_positions:
                full = "the cache is reserved by other sessions"
                coming = [(one.account, one.num_positions) for one in self._coming]
                gives = self._gives(
                    asker.account,
                    asker.num_positions,
                    self._max_positions,
                    self._held,
                    coming,
                    lambda one: one.held_positions,
                )
                gives = gives or self._own(asker)
                cuts = gives is not None and not gives.parked and self._held(gives) > gives.needed_positions
            else:
                break
            if gives is None:
                return Refused(full, retry=True)
            if cuts:
                self._cut.add(id(gives))
            else:
                self._here.remove(gives)
                going.append(gives)
        for session in self._here:
            if id(session) in self._cut:
                session.reserved_positions = session.needed_positions
        return going

    def num_for_a_newcomer(self) -> int:
        """Sessions that are free, or rest, or are idle and would make room for whoever holds nothing here."""
        working = [one for one in self._here if not one.parked]
        num_free = max(0, self._max_sessions - len(working) - len(self._coming))
        num_idle = sum(one.worked_s + IDLE_S < self._now for one in working)
        accounts = [*(one.account for one in working), *(one.account for one in self._coming)]
        shares = Shares(self._max_sessions, ((account, 1) for account in accounts))
        given = (num for num in range(num_idle) if not shares.over(NEWCOMER, num_free + num + 1))
        return num_free + next(given, num_idle)

    def grow(self, session: S) -> list[S]:
        """Who is to go so that the cache holds all that is in use; that very one, when nobody has to make room."""
        going: list[S] = []
        while sum(one.num_cells for one in [*self._here, session]) > self._max_positions:
            gives = self._gives(session.account, session.num_cells, self._max_positions, lambda one: one.num_cells)
            if gives is None:
                return [session]
            self._here.remove(gives)
            going.append(gives)
        return going

    def _num_held(self) -> int:
        return sum(map(self._held, self._here)) + sum(one.num_positions for one in self._coming)

    def _held(self, session: S) -> int:
        return session.needed_positions if id(session) in self._cut else session.held_positions

    def _own(self, asker: Coming) -> S | None:
        """A session of the asker's own that has reserved more than its share of what is theirs, and not used it: an
        owner has many clients, and one of them must not take the cache from all others."""
        mine = {str(number): one for number, one in enumerate(self._here) if one.account == asker.account}
        theirs = self._max_positions - self._num_held() + sum(map(self._held, mine.values()))
        shares = Shares(theirs, ((Account(b"", number), self._held(one)) for number, one in mine.items()))
        over = [mine[one.network] for one in shares.over(Account(b"", "asker"), asker.num_positions)]
        return next((one for one in over if self._held(one) > one.needed_positions), None)

    def _gives(
        self,
        asker: Account,
        amount: int,
        capacity: int,
        size: Callable[[S], int],
        coming: Iterable[tuple[Account, int]] = (),
        asked: Callable[[S], int] | None = None,
    ) -> S | None:
        """Who has some of what there is `capacity` of, and is the next to make room; None: nobody has to. `asked`: what
        each has asked for, if it is not what it has: who takes turns has asked for as much as the asker."""
        having, coming = [one for one in self._here if size(one)], list(coming)
        shares = Shares(capacity, [*((one.account, size(one)) for one in having), *coming])
        for account in shares.heaviest():
            for session in having:  # who rests longest comes first
                if session.parked and session.account == account:
                    return session
        for account in shares.over(asker, amount):
            mine = [one for one in having if one.account == account]
            if mine:
                return min(mine, key=lambda one: one.worked_s)
        turns = shares if asked is None else Shares(capacity, [*((one.account, asked(one)) for one in having), *coming])
        takes_turns = set(turns.beside(asker, amount))
        beside = [
            one for one in having if one.account in takes_turns and self._turns.may_take(self._now, asker, one.account)
        ]
        idle = [one for one in beside if one.worked_s + IDLE_S < self._now]
        over = [one for one in beside if one.since_s + TURN_S < self._now]
        gives = min(idle, key=lambda one: one.worked_s, default=min(over, key=lambda one: one.since_s, default=None))
        if gives is not None:
            self._turns.lost(self._now, gives.account, asker, gives.since_s)
        return gives

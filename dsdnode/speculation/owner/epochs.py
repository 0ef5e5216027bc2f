"""The owner's epochs: main line of draft tokens, hedges beside it, what of them is on its way. Speculation section 4.

An epoch's content is the committed line and then its draft tokens; it has gone out up to `sent`, and what has gone out
is never rewritten. When the line grows by a token, an epoch whose next draft token is that token lives on, one that has
sent another token there is dead, and one that has sent nothing there forgets its draft tokens and lives on. So every
live epoch agrees with the line, always.

The main epoch is the one that goes on. A hedge is a child of it that begins with the second choice for a position that
the main epoch has sent already; it lives until the line passes that position, and if it was right it becomes the main.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dsdnode.speculation.actions import DraftToken, SendBlock, Tokens
from dsdnode.speculation.digest import CommittedLine
from dsdnode.speculation.plan import Plan
from dsdnode.wire.messages import Block


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A draft token in its place; `digest` is of everything up to and with it, `chance` that it and all before it
    stand."""

    draft_token: DraftToken
    digest: bytes
    chance: float


@dataclass(frozen=True, slots=True)
class Flight:
    """A block sent and not answered. `alone`: nothing else of the reply was in flight."""

    action: SendBlock
    plan: Plan
    sent_s: float
    alone: bool

    @property
    def start(self) -> int:
        return self.action.block.position

    @property
    def end(self) -> int:
        return self.start + self.num_positions

    @property
    def num_positions(self) -> int:
        return self.action.block.num_given + self.action.block.num_draft


@dataclass(slots=True, eq=False)
class OwnEpoch:
    number: int
    parent: int
    base: int
    sent: int
    """Positions before it have gone out (in this epoch or, before `base`, in the parent)."""
    sequence: int
    """Of the draft engine."""
    draft_tokens: list[PlacedToken] = field(default_factory=list)
    """For the positions from the end of the line on."""
    flights: list[Flight] = field(default_factory=list)

    def again(self, start: int) -> list[SendBlock]:
        """What is unanswered from there on."""
        return [flight.action for flight in self.flights if flight.start >= start]


class Epochs:
    """`main` is None before `begin`."""

    def __init__(self, line: CommittedLine, session: bytes, num_sequences: int, number: int = 0) -> None:
        """`number`: the highest that is in use already."""
        self.main: OwnEpoch | None = None
        self.hedges: list[OwnEpoch] = []
        self._line = line
        self._session = session
        self._num_sequences = num_sequences
        self.number = number
        """The highest in use."""

    @property
    def live(self) -> list[OwnEpoch]:
        return [] if self.main is None else [self.main, *self.hedges]

    def get(self, number: int) -> OwnEpoch | None:
        return next((epoch for epoch in self.live if epoch.number == number), None)

    # --- content --------------------------------------------------------------------------------------------------

    @property
    def length(self) -> int:
        """Of the line."""
        return len(self._line.tokens)

    @property
    def line_digest(self) -> bytes:
        """Of all of it."""
        return self._line.digests[len(self._line.tokens)]

    def digest_after(self, digest: bytes, token: int) -> bytes:
        return self._line.after(digest, token)

    def end(self, epoch: OwnEpoch) -> int:
        """Length of its content."""
        return len(self._line.tokens) + len(epoch.draft_tokens)

    def digest_at(self, epoch: OwnEpoch, length: int) -> bytes:
        """Of the first `length` tokens of its content."""
        num_tokens = length - len(self._line.tokens)
        return self._line.digests[length] if num_tokens <= 0 else epoch.draft_tokens[num_tokens - 1].digest

    def tokens(self, epoch: OwnEpoch, start: int, end: int) -> Tokens:
        length = len(self._line.tokens)
        draft_tokens = epoch.draft_tokens[max(0, start - length) : max(0, end - length)]
        return (*self._line.tokens[start:end], *(item.draft_token.token for item in draft_tokens))

    def extend(self, epoch: OwnEpoch, draft_token: DraftToken, chance: float) -> None:
        """`chance`: of this draft token alone, given that what is before it stands."""
        digest = self._line.after(self.digest_at(epoch, self.end(epoch)), draft_token.token)
        epoch.draft_tokens.append(PlacedToken(draft_token, digest, chance * self.chance(epoch)))

    def chance(self, epoch: OwnEpoch) -> float:
        """That everything drafted in it stands."""
        return epoch.draft_tokens[-1].chance if epoch.draft_tokens else 1.0

    def num_unsent(self, epoch: OwnEpoch) -> int:
        """Draft tokens not sent."""
        return len(epoch.draft_tokens) - max(0, epoch.sent - len(self._line.tokens))

    def num_unjudged(self) -> int:
        """Draft tokens sent, in all epochs."""
        length, num = len(self._line.tokens), 0
        for epoch in self.live:
            behind = epoch.base if epoch.base > length else length
            if epoch.sent > behind:
                num += epoch.sent - behind
        return num

    @property
    def num_flights(self) -> int:
        return sum([len(epoch.flights) for epoch in self.live])

    # --- coming and going -----------------------------------------------------------------------------------------

    def begin(self, parent: int, base: int) -> OwnEpoch:
        """A new main epoch in the place of all; its last token at least goes out again. The main's draft tokens
        stay."""
        base = min(base, len(self._line) - 1)
        self.number += 1
        old = self.main
        sequence, draft_tokens = (0, []) if old is None else (old.sequence, old.draft_tokens)
        self.main = OwnEpoch(self.number, parent if base else 0, base, base, sequence, draft_tokens)
        self.hedges = []
        return self.main

    def hedge(self, index: int, chance: float) -> OwnEpoch:
        """A child of the main epoch: the second choice in the place of its draft token `index`, which was sent."""
        main = self.main
        assert main is not None
        base = len(self._line) + index
        self.number += 1
        used = [epoch.sequence for epoch in self.live]
        sequence = next(number for number in range(self._num_sequences) if number not in used)
        epoch = OwnEpoch(self.number, main.number, base, base, sequence, main.draft_tokens[:index])
        draft_token = main.draft_tokens[index].draft_token
        self.extend(epoch, DraftToken(draft_token.second, draft_token.second_probability), chance)
        self.hedges.append(epoch)
        return epoch

    @property
    def can_hedge(self) -> bool:
        return len(self.live) < self._num_sequences

    def drop(self, hedge: OwnEpoch, length: int) -> list[SendBlock]:
        """A stage refused it, having so much. Less than its base: it is the main epoch that goes out again from there,
        or every hedge would be refused in turn until an innocent stage is left."""
        self.hedges.remove(hedge)
        return self.main.again(length) if self.main is not None and length < hedge.base else []

    def commit(self, token: int) -> None:
        """The line grows by `token`. Afterwards `main` may be None: nobody had it, and `replace` must follow."""
        position = len(self._line)
        self._line.commit(token)
        self.hedges = [epoch for epoch in self.hedges if _follow(epoch, token)]
        main = self.main
        if main is None or _follow(main, token):
            return
        if main.sent <= position:
            main.draft_tokens = []
            return
        self.main = max(self.hedges, key=lambda epoch: len(epoch.draft_tokens), default=None)
        if self.main is not None:
            self.hedges.remove(self.main)

    # --- sending --------------------------------------------------------------------------------------------------

    def send(
        self,
        now: float,
        epoch: OwnEpoch,
        route: int,
        num_given: int,
        num_draft: int,
        plan: Plan,
        num_guesses: int = 0,
    ) -> SendBlock:
        """The next positions of the epoch; given tokens are of the line, and come first."""
        start = epoch.sent
        end = start + num_given + num_draft
        floor = min(other.number for other in self.live)
        place = (self._session, route, epoch.number, epoch.parent, epoch.base, start)
        block = Block(*place, num_given, num_draft, floor)
        digests = b"".join(self.digest_at(epoch, length) for length in range(start, end + 1))
        action = SendBlock(block, digests, self.tokens(epoch, start, end), num_guesses)
        epoch.flights.append(Flight(action, plan, now, alone=self.num_flights == 0))
        epoch.sent = end
        return action


def _follow(epoch: OwnEpoch, token: int) -> bool:
    """Was the next draft token right? (No draft token: nothing was wrong.)"""
    if epoch.draft_tokens and epoch.draft_tokens[0].draft_token.token != token:
        return False
    del epoch.draft_tokens[:1]
    return True

"""What a drafter's replies sit on: a session's names and caches, and a place in the draft engine.

When a conversation may go on, the seat of a finished reply is kept for its client: the stages and the draft engine have
the line in their caches, and the next prompt, which begins like it, costs only what is new. Kept seats are in nobody's
way: they go, the oldest first, when a reply needs their place.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from dsdnode.engine.port import Engine
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.drafter.reply import Reply
from dsdnode.node.drafter.routes import PARKED_S, Router
from dsdnode.node.drafter.sequences import DraftLine
from dsdnode.speculation.actions import MAX_BRANCHES
from dsdnode.speculation.plan import Carried
from dsdnode.speculation.sampling import Sampling

MAX_KEPT_PER_CLIENT = 4
MIN_SHARED_TOKENS = 16
"""A chat template's first words are the same in every conversation."""


@dataclass(slots=True, eq=False)
class Seat:
    """`peers`: who has the session; `num_positions`: that the reply may grow to."""

    client: bytes
    model_id: str
    session: bytes
    secret: bytes
    place: int | None
    num_positions: int
    peers: dict[bytes, None] = field(default_factory=dict)
    line: DraftLine | None = None
    carried: Carried = field(default_factory=Carried)
    tokens: tuple[int, ...] = ()
    """Kept: prompt and reply."""
    timer: asyncio.TimerHandle | None = None


class Seats:
    def __init__(self, engine: Engine, batcher: Batcher, router: Router, max_sessions: int, rng: Random) -> None:
        """`rng`: of secrets."""
        self._engine = engine
        self._batcher = batcher
        self._router = router
        self._rng = rng
        self._free = list(range(min(max_sessions, engine.shard.max_sequences // MAX_BRANCHES)))
        """Places in the draft engine: MAX_BRANCHES sequences each."""
        self._max_kept = max_sessions
        self._taken: dict[bytes, Seat] = {}
        self._kept: dict[bytes, Seat] = {}
        """By session, the oldest first."""

    def take(self, client: bytes, model_id: str, prompt: Sequence[int], num_positions: int, *, again: bool) -> Seat:
        """`again`: perhaps the one of the turn before. Give it back with `leave`."""
        seat = self._fitting(client, model_id, prompt) if again else None
        if seat is None:
            seat = Seat(client, model_id, self._rng.randbytes(16), self._rng.randbytes(32), None, num_positions)
        else:
            self._pop(seat)
        seat.num_positions = num_positions
        while self._kept and self._is_full(seat):
            self._drop(next(iter(self._kept.values())))
        if seat.place is None and self._free:
            seat.place = self._free.pop()
        self._taken[seat.session] = seat
        return seat

    def draft_line(self, seat: Seat, sampling: Sampling, *, drafted: bool) -> DraftLine | None:
        """The seat's sequences, for a reply that draws like this; None: no place, or nothing is to be drafted."""
        if seat.place is None or not drafted:
            self._forget_drafts(seat)
            return None
        if seat.line is None:
            sequences = range(seat.place * MAX_BRANCHES, (seat.place + 1) * MAX_BRANCHES)
            seat.line = DraftLine(self._batcher, sequences, sampling)
        else:
            seat.line = seat.line.follow(sampling)
        return seat.line

    def leave(self, seat: Seat, reply: Reply | None, *, keep: bool) -> None:
        """The reply is over, or (None) was never begun; not `keep`: though there were more to come."""
        del self._taken[seat.session]
        if reply is None or reply.carried is None or not keep:
            return self._free_it(seat)
        seat.carried, seat.tokens = reply.carried, reply.tokens
        self._kept[seat.session] = seat
        seat.timer = asyncio.get_running_loop().call_later(PARKED_S, self._drop, seat)
        mine = [one for one in self._kept.values() if one.client == seat.client]
        if len(mine) > MAX_KEPT_PER_CLIENT or len(self._kept) > self._max_kept:
            self._drop(mine[0] if len(mine) > MAX_KEPT_PER_CLIENT else next(iter(self._kept.values())))

    def forget(self, client: bytes | None = None) -> None:
        """Keep nothing for this client, or for nobody (None)."""
        for seat in [seat for seat in self._kept.values() if client in (None, seat.client)]:
            self._drop(seat)

    def draft_lost(self) -> None:
        """The draft engine died: what it had cached of kept lines is gone."""
        for seat in self._kept.values():
            self._forget_drafts(seat)

    def _fitting(self, client: bytes, model_id: str, prompt: Sequence[int]) -> Seat | None:
        """The kept seat whose line the prompt follows for the longest way."""
        mine = [seat for seat in self._kept.values() if (seat.client, seat.model_id) == (client, model_id)]
        best = max(mine, key=lambda seat: _num_shared(seat.tokens, prompt), default=None)
        return None if best is None or _num_shared(best.tokens, prompt) < MIN_SHARED_TOKENS else best

    def _is_full(self, seat: Seat) -> bool:
        """Is there no place for one more, or no room in the draft engine's cache?"""
        taken = [*self._taken.values(), seat]
        num_positions = sum(one.num_positions for one in taken) + sum(len(one.tokens) for one in self._kept.values())
        lacks_place = seat.place is None and not self._free
        return lacks_place or num_positions > self._engine.shard.context_tokens

    def _drop(self, seat: Seat) -> None:
        self._pop(seat)
        self._free_it(seat)

    def _pop(self, seat: Seat) -> None:
        del self._kept[seat.session]
        if seat.timer is not None:
            seat.timer.cancel()

    def _free_it(self, seat: Seat) -> None:
        self._router.close(seat.session, list(seat.peers), seat.peers)
        self._forget_drafts(seat)
        if seat.place is not None:
            self._free.append(seat.place)

    def _forget_drafts(self, seat: Seat) -> None:
        if seat.line is not None:
            seat.line.release()
            seat.line = None
        seat.carried = dataclasses.replace(seat.carried, cached=())


def _num_shared(mine: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    pairs = zip(mine, other, strict=False)
    return next((index for index, (one, two) in enumerate(pairs) if one != two), min(len(mine), len(other)))

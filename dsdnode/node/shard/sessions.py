"""Who is served by a stage: sessions with their sequences and reserved cache, and why one more is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from dsdnode.accounts import Account, Asking, Shares, Turns
from dsdnode.engine.port import Engine
from dsdnode.identity import peer_id
from dsdnode.node.admission import NOT_YOU, PAUSED, Admission
from dsdnode.node.shard.room import Coming, Room
from dsdnode.node.shard.terms import Asked
from dsdnode.speculation import digest as digest_
from dsdnode.speculation.digest import DIGEST_BYTES
from dsdnode.speculation.masks import Shelves
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.stage.arrivals import DEFAULT_LIMITS, Pool, StageLimits
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.messages import MAX_REASON, WIRE_TYPES, Open, Refused, StagePlace, is_session_of

SEQUENCES_PER_SESSION = 8
"""A main line and three hedges, and as many that were just left."""
SHARED_STEP = 64
"""Tokens."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Hidden states of blocks that wait, of all sessions."""
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""So of outputs kept for duplicates; each session has its share."""


@dataclass(slots=True, eq=False)
class StageSession:
    """One owner's session. `asked` is of its current route."""

    machine: StageMachine
    account: Account
    sequences: tuple[int, ...]
    reserved_positions: int
    asked: Asked
    timer: asyncio.TimerHandle | None = None
    peers: tuple[bytes, ...] = field(default=())
    parked: bool = False
    """Between two replies: it is kept while nobody else needs the place."""
    begun: bool = False
    """A block of the current route has come."""
    since_s: float = 0.0
    """It has its place for this reply."""
    num_ways: int = 1
    """By which its hidden states have come, one after the other: what is cached is of the last one."""
    line_positions: int = 0
    """Of the line, when it was opened."""
    num_cells: int = 0
    """In use, as of the last event."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    sampling: Sampling = field(init=False)

    def __post_init__(self) -> None:
        self.sampling = self.asked.sampling

    def reopen(self, asked: Asked) -> None:
        self.begun = self.begun and asked.message.route == self.opened.route
        self.asked, self.parked = asked, False
        self.sampling = asked.sampling
        self.peers = tuple(peer_id(stage.contact.public_key) for stage in asked.stages)
        self.line_positions = max(0, len(asked.digests) // DIGEST_BYTES - 1)

    @property
    def opened(self) -> Open:
        return self.asked.message

    @property
    def id(self) -> bytes:
        return self.opened.session

    @property
    def owner(self) -> bytes:
        return self.account.owner

    @property
    def needed_positions(self) -> int:
        return max(self.line_positions, self.num_cells)

    @property
    def held_positions(self) -> int:
        """Of the cache: what was reserved, or more is in use."""
        return max(self.reserved_positions, self.num_cells)

    @property
    def last(self) -> bool:
        return self.asked.judges

    @property
    def after(self) -> bytes | None:
        """The next stage."""
        return None if self.last else self.peers[self.opened.index + 1]

    @property
    def worked_s(self) -> float:
        return self.machine.worked_s

    def is_another_reply(self, asked: Asked) -> bool:
        """(Its Park may be lost.)"""
        return self.parked or self.asked.terms != asked.terms

    def comes_another_way(self, asked: Asked) -> bool:
        return self.asked.way != asked.way and asked.message.route >= self.opened.route and not self.machine.is_over

    def changes_its_route(self, asked: Asked) -> bool:
        """Until a block has come its owner may still be looking for the other stages. From then on a run may be in
        flight that belongs to this place on this route."""
        return self.begun and asked.message.route == self.opened.route and asked.place != self.asked.place


class Sessions:
    """Limits: sessions, cache positions, sequences. Who must make room for whom says room.py."""

    def __init__(self, engine: Engine, max_sessions: int, admission: Admission | None = None) -> None:
        self._engine = engine
        self._shelves = Shelves(engine.shard.vocab_size)
        self._admission = admission or Admission()
        self._sessions: dict[bytes, StageSession] = {}
        num_sequences = min(engine.shard.max_sequences, max_sessions * SEQUENCES_PER_SESSION)
        self._free = list(range(num_sequences))
        self._per_session = max(1, num_sequences // max_sessions)
        self._max_sessions = min(max_sessions, num_sequences // self._per_session)
        self._limits = _limits(engine.shard.width, max_sessions)
        self._coming: dict[bytes, Coming] = {}
        """For whom room is being made, by session: nobody else gets it."""
        self._turns = Turns()
        self.draining = False
        self._asking = Asking()

    def __len__(self) -> int:
        """Replies in progress: who is parked does not count."""
        return sum(not session.parked for session in self._sessions.values())

    def __iter__(self) -> Iterator[StageSession]:
        return iter(list(self._sessions.values()))

    def get(self, session: bytes) -> StageSession | None:
        return self._sessions.get(session)

    def num_free(self, now: float) -> int:
        """For whoever may come: who is idle beyond a fair share makes room."""
        if self.draining or self._engine.quarantined:
            return 0
        return self._room(now, self._sessions.values(), self._coming.values()).num_for_a_newcomer()

    def _room(self, now: float, here: Iterable[StageSession], coming: Iterable[Coming] = ()) -> Room[StageSession]:
        return Room(now, self._max_sessions, self._engine.shard.context_tokens, here, coming, self._turns)

    def admit(self, now: float, account: Account, asked: Asked) -> StageSession:
        """After `refusal` gave None, and `room_for` nobody. A session that is here already hears of a new reply."""
        known, max_positions = self._sessions.get(asked.message.session), asked.message.max_positions
        if known is None:
            known = self._add(account, asked)
            known.since_s = self._turns.since_s(now, account)
            self._admission.begun(account.owner)
            return known
        known.account = account
        if known.is_another_reply(asked):
            known.machine.on_turn(max_positions, asked.acceptance, asked.places(self._shelves, account.owner))
            known.reserved_positions, known.since_s = max_positions, now
            self._admission.begun(account.owner)
        return known

    def _add(self, account: Account, asked: Asked) -> StageSession:
        message = asked.message
        sequences, self._free = tuple(self._free[: self._per_session]), self._free[self._per_session :]
        machine = StageMachine(
            message.session,
            sequences,
            max_positions=message.max_positions,
            limits=replace(self._limits, account=account),
            acceptance=asked.acceptance,
            places=asked.places(self._shelves, account.owner),
        )
        session = StageSession(machine, account, sequences, message.max_positions, asked)
        self._sessions[message.session] = session
        return session

    def lender(self, session: StageSession) -> tuple[int, list[bytes]]:
        """Where a new session can begin: a sequence of another one of its owner's, and the digests of what they share.

        Only of one whose hidden states come through the same stages, in the same wire type: another's may be wrong, or
        rounded, and the text of a route must not hang on a stage that is not on it.

        In whole steps: an owner serves many people, and whoever could tell how many tokens of his own prompt were known
        already might guess another one's, token by token.

        Not where such a copy is work of its own: nobody's turn it would be, on nobody's account, while all others wait.
        """
        line = digest_.split(session.asked.digests)
        if self._engine.shard.is_recurrent:
            return 0, line[:1]
        mine = (one for one in self._sessions.values() if one.owner == session.owner and one is not session)
        others = [one for one in mine if one.asked.way == session.asked.way]
        shared, sequence = max((one.machine.lends(line) for one in others), default=(0, 0))
        return sequence, line[: shared // SHARED_STEP * SHARED_STEP + 1]

    def park(self, session: StageSession) -> None:
        session.parked = True
        self._sessions[session.id] = self._sessions.pop(session.id)

    def remove(self, session: StageSession) -> bool:
        """False: it was gone already."""
        if self._sessions.get(session.id) is not session:
            return False
        del self._sessions[session.id]
        self._free.extend(session.sequences)
        session.gone.set()
        return True

    def refusal(self, owner: bytes, asked: Asked) -> Refused | None:
        """Why not, in words; None: it may be opened, or opened again, where there is `room_for` it."""
        message, stages = asked.message, asked.stages
        shard, known = self._engine.shard, self._sessions.get(message.session)
        if not self._admission.serves(owner):
            return NOT_YOU
        if message.index >= len(stages) or message.model_id != shard.model_id:
            return Refused(f"this peer hosts {shard.model_name}, not the model asked for")
        place = stages[message.index]
        if (place.start, place.end) != (shard.start, shard.end):
            return Refused(f"this peer hosts layers {shard.start}:{shard.end}, not {place.start}:{place.end}")
        if peer_id(message.owner.public_key) != owner or not is_session_of(owner, message.session):
            return Refused("this session is another peer's")
        if known is not None and known.owner != owner:
            return Refused("this session is another peer's")
        if message.wire not in WIRE_TYPES:
            return Refused(f"states travel as {' or '.join(WIRE_TYPES)} here, not as {message.wire!r}")
        if not _make_a_model(stages, shard.num_layers):
            return Refused("the stages do not make up the model, one after the other")
        if not self._engine.available:
            over = self._engine.quarantined
            return Refused(over[:MAX_REASON] or "the engine is restarting", retry=not over)
        if known is not None and not known.is_another_reply(asked):
            changed = known.changes_its_route(asked)
            return Refused("blocks of this route have come: other terms take a higher one") if changed else None
        if known is not None and message.route <= known.opened.route:  # or less would be reserved than is in use
            return Refused("another reply of this session takes a higher route", retry=True)
        if self.draining:
            return Refused("this peer is leaving", retry=True)
        if self._admission.rests_for(owner):
            return PAUSED
        if message.max_positions > shard.context_tokens:
            return Refused(f"{message.max_positions} positions do not fit the cache of {shard.context_tokens}")
        return None

    def room_for(self, now: float, account: Account, asked: Asked) -> list[StageSession] | Refused:
        """Who must go before this session may be opened, or go on with another reply. Refused: nobody has to."""
        message = asked.message
        known = self._sessions.get(message.session)
        if known is not None and not known.is_another_reply(asked):
            return []
        self._asking.asks(account.network, now, message.max_positions)
        others = [one for one in self._sessions.values() if one is not known and not one.machine.is_over]
        used = Shares(self._engine.shard.context_tokens, ((one.account, one.num_cells) for one in others))
        if not used.is_modest(account, message.max_positions, self._asking.lately(now)):
            return Refused("your network has its share of the cache in long sessions, while others ask", retry=True)
        coming = [one for session, one in self._coming.items() if session != message.session]
        return self._room(now, others, coming).make(Coming(account, message.max_positions))

    def leaving(self, asked: Asked) -> StageSession | None:
        """Who is over, but for a run in flight, and is still in the way of this session."""
        message = asked.message
        known = self._sessions.get(message.session)
        if known is not None and not known.is_another_reply(asked):
            return None
        others = [one for one in self._sessions.values() if one is not known]
        num_held = sum(one.held_positions for one in others)
        if len(others) < self._max_sessions and num_held + message.max_positions <= self._engine.shard.context_tokens:
            return None
        return next((one for one in others if one.machine.is_over), None)

    def overflow(self, now: float, session: StageSession) -> list[StageSession]:
        """A session has grown: who must go, perhaps that very one, for the cache to hold what is in it."""
        max_positions = self._engine.shard.context_tokens
        if sum(one.num_cells for one in self._sessions.values()) <= max_positions:
            return []
        others = [one for one in self._sessions.values() if one is not session and not one.machine.is_over]
        return self._room(now, others).grow(session)

    @contextmanager
    def kept_for(self, account: Account, message: Open) -> Iterator[None]:
        """The room that is being made for this session is nobody else's."""
        self._coming[message.session] = Coming(account, message.max_positions)
        try:
            yield
        finally:
            self._coming.pop(message.session, None)


def _make_a_model(stages: Sequence[StagePlace], num_layers: int) -> bool:
    ends = [0, *(stage.end for stage in stages)]
    follow = all(stage.start == end < stage.end for stage, end in zip(stages, ends, strict=False))
    return follow and ends[-1] == num_layers


def _limits(width: int, max_sessions: int) -> StageLimits:
    kept = MAX_KEPT_BYTES // (4 * width * max_sessions)
    return StageLimits(max_kept_positions=min(kept, DEFAULT_LIMITS.max_kept_positions), pool=Pool(MAX_WAITING_BYTES))

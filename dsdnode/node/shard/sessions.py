"""Who is served by a stage: sessions with their sequences and reserved cache, and why one more is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from dsdnode.engine.port import Engine
from dsdnode.identity import peer_id
from dsdnode.speculation.acceptance import AcceptanceRule, ExactRule, KeyTokens, RelaxedRule
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.stage.arrivals import DEFAULT_LIMITS, Pool, StageLimits
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.messages import (
    MAX_REASON,
    WIRE_TYPES,
    Open,
    Refused,
    StagePlace,
    WireAcceptance,
    WireSampling,
    is_session_of,
)

SEQUENCES_PER_SESSION = 8
"""A main line and three hedges, and as many that were just left."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Hidden states of blocks that wait, of all sessions."""
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""So of outputs kept for duplicates; each session has its share."""


@dataclass(slots=True)
class StageSession:
    """One owner's session. `opened` and `stages` are of its current route."""

    machine: StageMachine
    owner: bytes
    sequences: tuple[int, ...]
    reserved_positions: int
    opened: Open
    stages: tuple[StagePlace, ...]
    sampling: Sampling
    timer: asyncio.TimerHandle | None = None
    peers: tuple[bytes, ...] = field(default=())
    parked: bool = False
    """Between two replies: it is kept while nobody else needs the place."""
    begun: bool = False
    """A block of the current route has come."""

    def reopen(self, message: Open, stages: tuple[StagePlace, ...]) -> None:
        self.begun = self.begun and message.route == self.opened.route
        self.opened, self.stages, self.parked = message, stages, False
        self.reserved_positions = message.max_positions
        self.sampling = _sampling(message)
        self.peers = tuple(peer_id(stage.contact.public_key) for stage in stages)

    @property
    def id(self) -> bytes:
        return self.opened.session

    @property
    def last(self) -> bool:
        return self.opened.index == len(self.stages) - 1

    @property
    def evictable(self) -> bool:
        """A run in flight must end first."""
        return self.parked and not self.machine.busy

    def is_another_reply(self, message: Open) -> bool:
        """(Its Park may be lost.)"""
        return self.parked or _terms(self.opened) != _terms(message)

    def changes_its_route(self, message: Open, stages: tuple[StagePlace, ...]) -> bool:
        """Until a block has come its owner may still be looking for the other stages. From then on a run may be in
        flight that belongs to this place on this route."""
        same = (message, stages) == (self.opened, self.stages)
        return self.begun and message.route == self.opened.route and not same


class Sessions:
    """Limits: sessions, cache positions, sequences."""

    def __init__(self, engine: Engine, max_sessions: int) -> None:
        self._engine = engine
        self._sessions: dict[bytes, StageSession] = {}
        num_sequences = min(engine.shard.max_sequences, max_sessions * SEQUENCES_PER_SESSION)
        self._free = list(range(num_sequences))
        self._per_session = max(1, num_sequences // max_sessions)
        self._max_sessions = min(max_sessions, num_sequences // self._per_session)
        self._limits = _limits(engine.shard.width, max_sessions)
        self.draining = False

    def __len__(self) -> int:
        """Replies in progress: who is parked does not count."""
        return sum(not session.parked for session in self._sessions.values())

    def __iter__(self) -> Iterator[StageSession]:
        return iter(list(self._sessions.values()))

    def get(self, session: bytes) -> StageSession | None:
        return self._sessions.get(session)

    @property
    def num_free(self) -> int:
        return 0 if self.draining or self._engine.quarantined else self._max_sessions - len(self)

    def admit(self, owner: bytes, message: Open, stages: tuple[StagePlace, ...], key_tokens: bytes) -> StageSession:
        """After `refusal` gave None, and `in_the_way` nothing. A session that is here already hears of a new reply."""
        known = self._sessions.get(message.session)
        if known is None:
            return self._add(owner, message, stages, key_tokens)
        if known.is_another_reply(message):
            known.machine.on_turn(message.max_positions, _acceptance(message, key_tokens))
        return known

    def _add(self, owner: bytes, message: Open, stages: tuple[StagePlace, ...], key_tokens: bytes) -> StageSession:
        sequences, self._free = tuple(self._free[: self._per_session]), self._free[self._per_session :]
        machine = StageMachine(
            message.session,
            sequences,
            max_positions=message.max_positions,
            limits=self._limits,
            acceptance=_acceptance(message, key_tokens),
        )
        session = StageSession(machine, owner, sequences, message.max_positions, message, stages, _sampling(message))
        self._sessions[message.session] = session
        return session

    def park(self, session: StageSession) -> None:
        session.parked = True
        self._sessions[session.id] = self._sessions.pop(session.id)

    def remove(self, session: StageSession) -> bool:
        """False: it was gone already."""
        if self._sessions.get(session.id) is not session:
            return False
        del self._sessions[session.id]
        self._free.extend(session.sequences)
        return True

    def refusal(self, owner: bytes, message: Open, stages: tuple[StagePlace, ...]) -> Refused | None:
        """Why not, in words; None: it may be opened, or opened again."""
        shard, known = self._engine.shard, self._sessions.get(message.session)
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
        if known is not None and not known.is_another_reply(message):
            changed = known.changes_its_route(message, stages)
            return Refused("blocks of this route have come: other terms take a higher one") if changed else None
        if known is not None and message.route <= known.opened.route:  # or less would be reserved than is in use
            return Refused("another reply of this session takes a higher route", retry=True)
        others = [session for session in self._sessions.values() if session is not known]
        return self._no_room(message.max_positions, [session for session in others if not session.evictable])

    def in_the_way(self, message: Open) -> StageSession | None:
        """A parked session that must make room for this one, the one that was parked first."""
        others = [session for session in self._sessions.values() if session.id != message.session]
        if self._no_room(message.max_positions, others) is None:
            return None
        return next((session for session in others if session.evictable), None)

    def _no_room(self, max_positions: int, others: Sequence[StageSession]) -> Refused | None:
        """What is in the way of a session beside these others."""
        shard = self._engine.shard
        if self.draining:
            return Refused("this peer is leaving", retry=True)
        if len(others) >= self._max_sessions:
            return Refused(f"all {self._max_sessions} sessions are taken", retry=True)
        if max_positions > shard.context_tokens:
            return Refused(f"{max_positions} positions do not fit the cache of {shard.context_tokens}")
        reserved = sum(session.reserved_positions for session in others)
        if reserved + max_positions > shard.context_tokens:
            return Refused("the cache is reserved by other sessions", retry=True)
        return None


def _make_a_model(stages: Sequence[StagePlace], num_layers: int) -> bool:
    ends = [0, *(stage.end for stage in stages)]
    follow = all(stage.start == end < stage.end for stage, end in zip(stages, ends, strict=False))
    return follow and ends[-1] == num_layers


def _acceptance(message: Open, key_tokens: bytes) -> AcceptanceRule:
    asked = message.acceptance
    if asked.threshold == 0:
        return ExactRule()
    return RelaxedRule(asked.threshold, deferred=asked.deferred, key_tokens=KeyTokens(key_tokens))


def _sampling(message: Open) -> Sampling:
    return Sampling(**msgspec.structs.asdict(message.sampling))


def _terms(message: Open) -> tuple[WireSampling, WireAcceptance, int]:
    """What is one reply's: draws, and their fate, are made by these."""
    return message.sampling, message.acceptance, message.max_positions


def _limits(width: int, max_sessions: int) -> StageLimits:
    kept = MAX_KEPT_BYTES // (4 * width * max_sessions)
    return StageLimits(max_kept_positions=min(kept, DEFAULT_LIMITS.max_kept_positions), pool=Pool(MAX_WAITING_BYTES))

"""The role `shard`: hosts one layer range for many replies. Thin: every decision is speculation/stage.py's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import structlog

from dsdnode.engine.port import Chunk, Engine, Output
from dsdnode.errors import DsdError, EngineLost, PeerMisbehaved
from dsdnode.identity import peer_id
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.batcher import Batcher
from dsdnode.speculation import actions as do
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.stage import StageMachine
from dsdnode.wire.codec import decode_body
from dsdnode.wire.messages import (
    Block,
    Close,
    Closed,
    Message,
    Open,
    Opened,
    OpenStages,
    Refused,
    SessionLost,
    StagePlace,
)
from dsdnode.wire.tensors import pack_states, pack_tokens, unpack_states, unpack_tokens

log = structlog.get_logger(__name__)

SEQUENCES_PER_SESSION = 4
MAX_LEASE_S = 60.0


@dataclass(slots=True)
class _Session:
    machine: StageMachine
    owner: bytes
    sequences: tuple[int, ...]
    reserved_positions: int
    opened: Open
    stages: tuple[StagePlace, ...]
    sampling: Sampling
    timer: asyncio.TimerHandle | None = None
    peers: tuple[bytes, ...] = field(default=())

    def reopen(self, message: Open, stages: tuple[StagePlace, ...]) -> None:
        self.opened, self.stages = message, stages
        self.peers = tuple(peer_id(stage.contact.public_key) for stage in stages)

    @property
    def last(self) -> bool:
        return self.opened.index == len(self.stages) - 1


class StageHost:
    """Serves Open, Block, Closed and Close for one engine. Limits: sessions, cache positions, sequences."""

    def __init__(self, rpc: Rpc, engine: Engine, *, max_sessions: int, max_lease_s: float = MAX_LEASE_S) -> None:
        self._rpc = rpc
        self._engine = engine
        self._batcher = Batcher(engine)
        self._max_sessions = max_sessions
        self._max_lease_s = max_lease_s
        self._sessions: dict[bytes, _Session] = {}
        num_sequences = min(engine.shard.max_sequences, max_sessions * SEQUENCES_PER_SESSION)
        self._free = list(range(num_sequences))
        self._per_session = num_sequences // max_sessions
        self._num_losses = 0
        self.draining = False
        self.on_change: Callable[[], None] = lambda: None
        """Called when a session comes or goes: the node's record says how many are free."""

    def start(self) -> None:
        self._batcher.start()
        self._engine.on_lost(self._engine_lost)
        self._rpc.on_request(Open, self._open)
        self._rpc.on_notice(Block, self._block)
        self._rpc.on_notice(Closed, self._closed)
        self._rpc.on_notice(Close, self._close)
        self._rpc.on_notice(SessionLost, self._next_lost)

    async def close(self) -> None:
        for session in self._sessions.values():
            if session.timer is not None:
                session.timer.cancel()
            self._tell(
                session.owner,
                SessionLost(session.opened.session, session.opened.index, "the stage is leaving", session.opened.route),
            )
        self._sessions.clear()
        await self._batcher.close()

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    @property
    def num_free_sessions(self) -> int:
        return 0 if self.draining or self._engine.quarantined else self._max_sessions - len(self._sessions)

    # --- messages

    async def _open(self, peer: bytes, message: Open, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        try:
            return self._admit(peer, message, buffers), []
        except DsdError as error:
            return Refused(str(error)[:512]), []

    def _admit(self, peer: bytes, message: Open, buffers: list[bytes]) -> Message:
        if len(buffers) != 2:
            raise PeerMisbehaved("Open has two buffers")
        stages = decode_body(buffers[0], OpenStages).stages
        refusal = self._refusal(peer, message, stages)
        if refusal is not None:
            return refusal
        session = self._sessions.get(message.session)
        if session is None:
            sequences, self._free = tuple(self._free[: self._per_session]), self._free[self._per_session :]
            machine = StageMachine(message.session, sequences, max_positions=message.max_positions)
            wire = message.sampling
            sampling = Sampling(wire.temperature, wire.top_k, wire.top_p, wire.min_p, wire.seed)
            session = _Session(machine, peer, sequences, message.max_positions, message, stages, sampling)
            self._sessions[message.session] = session
            self.on_change()
        now = asyncio.get_running_loop().time()
        lease_s = min(message.lease_s, self._max_lease_s)
        length = session.machine.on_open(now, message.route, message.index, len(stages), lease_s, buffers[1])
        if length is None:
            return Refused("an older route of this session")
        session.reopen(message, stages)
        for stage in stages:
            self._rpc.transport.introduce(stage.contact)
        if not session.last:  # warm the link before the first block needs it
            self._rpc.warm(session.peers[message.index + 1])
        self._schedule(session)
        return Opened(length)

    def _refusal(self, peer: bytes, message: Open, stages: tuple[StagePlace, ...]) -> Refused | None:
        shard, known = self._engine.shard, self._sessions.get(message.session)
        if message.index >= len(stages) or message.model_id != shard.model_id:
            return Refused(f"this peer hosts {shard.model_name}, not the model asked for")
        place = stages[message.index]
        if (place.start, place.end) != (shard.start, shard.end):
            return Refused(f"this peer hosts layers {shard.start}:{shard.end}, not {place.start}:{place.end}")
        if peer_id(message.owner.public_key) != peer or (known is not None and known.owner != peer):
            return Refused("this session is another peer's")
        if not self._engine.available:
            return Refused(self._engine.quarantined or "the engine is restarting", retry=not self._engine.quarantined)
        if known is not None:
            return None
        if self.draining:
            return Refused("this peer is leaving", retry=True)
        if len(self._sessions) >= self._max_sessions or len(self._free) < self._per_session:
            return Refused(f"all {self._max_sessions} sessions are taken", retry=True)
        if message.max_positions > shard.context_tokens:
            return Refused(f"{message.max_positions} positions do not fit the cache of {shard.context_tokens}")
        reserved = sum(session.reserved_positions for session in self._sessions.values())
        if reserved + message.max_positions > shard.context_tokens:
            return Refused("the cache is reserved by other sessions", retry=True)
        return None

    def _block(self, peer: bytes, message: Block, buffers: list[bytes]) -> None:
        session = self._sessions.get(message.session)
        if session is None:  # the sender is the owner, or a stage that passes it on to the owner
            self._tell(peer, SessionLost(message.session, 0, "unknown session", message.route))
            return
        index = session.opened.index
        sender = session.owner if index == 0 else session.peers[index - 1]
        if message.route != session.opened.route or peer != sender:
            return  # of a route that was left: its owner knows
        if len(buffers) != (2 if index == 0 else 3):
            raise PeerMisbehaved("a block has two buffers, three after the first stage")
        shard, num_positions = self._engine.shard, message.num_given + message.num_draft
        num_tokens = num_positions if index == 0 else message.num_draft
        tokens = tuple(unpack_tokens(buffers[1], num_tokens, shard.vocab_size).tolist())
        states = None if index == 0 else unpack_states(buffers[2], num_positions, shard.width, session.opened.wire)
        now = asyncio.get_running_loop().time()
        self._carry_out(session, session.machine.on_block(now, message, buffers[0], tokens, states))

    def _closed(self, peer: bytes, message: Closed, buffers: list[bytes]) -> None:
        session = self._sessions.get(message.session)
        if session is not None and peer == session.peers[-1] and message.route == session.opened.route:
            now = asyncio.get_running_loop().time()
            self._carry_out(session, session.machine.on_closed(now, message))

    def _close(self, peer: bytes, message: Close, buffers: list[bytes]) -> None:
        session = self._sessions.get(message.session)
        if session is not None and peer == session.owner:
            self._carry_out(session, session.machine.on_close(asyncio.get_running_loop().time()))

    def _next_lost(self, peer: bytes, message: SessionLost, buffers: list[bytes]) -> None:
        """The stage after us was restarted and knows no owner to tell: we do."""
        session = self._sessions.get(message.session)
        if session is not None and not session.last and peer == session.peers[session.opened.index + 1]:
            self._tell(session.owner, message)

    def _engine_lost(self) -> None:
        self._num_losses += 1
        now = asyncio.get_running_loop().time()
        for session in list(self._sessions.values()):
            self._carry_out(session, session.machine.on_engine_lost(now))
        self.on_change()

    # --- actions

    def _carry_out(self, session: _Session, actions: list[do.StageAction]) -> None:
        for action in actions:
            match action:
                case do.CopySequence(source, target, position):
                    self._batcher.copy(source, target, position)
                case do.TruncateSequence(sequence, position):
                    self._batcher.truncate(sequence, position)
                case do.ReleaseSequence(sequence):
                    self._batcher.release(sequence)
                case do.RunChunk():
                    self._run(session, action)
                case do.ForwardBlock(block, digests, tokens, states):
                    buffers = [digests, pack_tokens(list(tokens)), pack_states(states, session.opened.wire)]
                    self._tell(session.peers[session.opened.index + 1], block, buffers, Priority.VERIFY)
                case do.SendToOwner(message):
                    self._tell(session.owner, message)
                case do.BroadcastClosed(message):
                    for peer in session.peers[: session.opened.index]:
                        self._tell(peer, message)
                case do.Gone():
                    self._forget(session)
        self._schedule(session)

    def _run(self, session: _Session, run: do.RunChunk) -> None:
        inputs = np.asarray(run.tokens, np.int32) if run.states is None else run.states
        sampling = session.sampling if run.num_draws else None
        chunk = Chunk(run.sequence, run.position, inputs, run.num_draws, sampling)

        num_losses = self._num_losses

        def done(result: Output | DsdError | None) -> None:
            if isinstance(result, EngineLost) and num_losses != self._num_losses:
                return  # the machine has been told, and may have a new life already
            now = asyncio.get_running_loop().time()
            if isinstance(result, Output):
                draws = () if result.tokens is None else tuple(result.tokens.tolist())
                self._carry_out(session, session.machine.on_output(now, result.states, draws, result.compute_s))
            elif isinstance(result, EngineLost):
                self._carry_out(session, session.machine.on_engine_lost(now))
            else:
                log.warning("a block was not decoded", reason=str(result))
                self._carry_out(session, session.machine.on_run_failed(now))

        self._batcher.run(chunk, done)

    def _tell(
        self, peer: bytes, message: Message, buffers: list[bytes] | None = None, priority: Priority = Priority.CONTROL
    ) -> None:
        """Best effort: what is lost is seen by the owner's deadlines."""
        try:
            self._rpc.notify(peer, message, buffers or [], priority=priority)
        except DsdError as error:
            log.debug("not sent", message=type(message).__name__, reason=str(error))

    def _forget(self, session: _Session) -> None:
        if self._sessions.pop(session.opened.session, None) is not None:
            self._free.extend(session.sequences)
            self.on_change()

    def _schedule(self, session: _Session) -> None:
        """Have the machine's `tick` called when it next wants it."""
        if session.timer is not None:
            session.timer.cancel()
            session.timer = None
        wakeup = session.machine.next_wakeup()
        if wakeup is not None and session.opened.session in self._sessions:
            session.timer = asyncio.get_running_loop().call_at(wakeup, self._tick, session)

    def _tick(self, session: _Session) -> None:
        self._carry_out(session, session.machine.tick(asyncio.get_running_loop().time()))

"""The role `shard`: hosts one layer range for many replies. Thin: every decision is speculation/stage/machine.py's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from dsdnode.accounts import Account
from dsdnode.engine.port import Engine, Output
from dsdnode.errors import DsdError, EngineLost, Overloaded
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.admission import Admission
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.batching.culprits import REFUSED
from dsdnode.node.batching.scheduler import Owner
from dsdnode.node.shard.neighbours import Neighbours
from dsdnode.node.shard.owners import Owners
from dsdnode.node.shard.sessions import Sessions, StageSession
from dsdnode.node.shard.terms import Asked, BlockBuffers, chunk_of, guessed_of, seen_of, told_by, verdict_buffers
from dsdnode.speculation import actions as do
from dsdnode.speculation import seal
from dsdnode.swarm.pings import Pings
from dsdnode.wire.masks import Masks
from dsdnode.wire.messages import (
    MAX_REASON,
    Block,
    Close,
    Closed,
    Message,
    Open,
    Opened,
    Park,
    Refused,
    SessionLost,
    Trace,
    Traced,
)
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.tensors import pack_states

log = structlog.get_logger(__name__)

MAX_LEASE_S = 60.0
MAX_PARKED_S = 600.0


class StageHost:
    """Serves Open, Block, Closed and Close for one engine. `look`: see Neighbours."""

    def __init__(
        self,
        rpc: Rpc,
        pings: Pings,
        engine: Engine,
        *,
        max_sessions: int,
        max_lease_s: float = MAX_LEASE_S,
        look: Callable[[], Awaitable[object]] | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._neighbours = Neighbours(rpc.transport, look)
        self._rpc = rpc
        self._pings = pings
        self._owners = Owners(rpc.transport, pings, self._owner_gone)
        self._engine = engine
        self._batcher = Batcher(engine)
        self._sessions = Sessions(engine, max_sessions, admission)
        self._max_lease_s = max_lease_s
        self._num_losses = 0
        self._hears: list[Callable[[], None]] = []
        self.on_change: Callable[[], None] = lambda: None
        """Called when a session comes or goes: the node's record says how many are free."""

    def start(self) -> None:
        self._batcher.start()
        self._batcher.on_lost(self._engine_lost)
        self._engine.on_change(lambda: self.on_change())
        self._rpc.on_request(Open, self._open)
        self._rpc.on_request(Trace, self._trace)
        on = self._rpc.on_notice
        self._hears = [on(Block, self._block), on(Closed, self._closed), on(Close, self._close), on(Park, self._park)]
        self._hears += [on(SessionLost, self._next_lost), on(Masks, self._masks)]
        self._hears.append(self._rpc.transport.on_peer_lost(self._peer_lost))
        self._hears.append(self._rpc.transport.on_broken(lambda peer, bulk, since_s: self._link_broken(peer)))

    async def close(self) -> None:
        for session in self._sessions:
            if session.timer is not None:
                session.timer.cancel()
            lost = SessionLost(session.id, session.opened.index, "the stage is leaving", session.opened.route)
            self._tell(session.owner, lost)
            self._sessions.remove(session)
        while self._hears:
            self._hears.pop()()
        await self._owners.close()
        await self._batcher.close()

    @property
    def draining(self) -> bool:
        return self._sessions.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._sessions.draining = value
        for session in self._sessions:
            if session.parked:
                self._end(session.owner, session.id)

    @property
    def batcher(self) -> Batcher:
        """How busy it is, and what its decodes cost, is for the node to publish."""
        return self._batcher

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    @property
    def num_free_sessions(self) -> int:
        return self._sessions.num_free(asyncio.get_running_loop().time())

    # --- messages

    async def _open(self, peer: bytes, message: Open, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        asked, account = Asked.of(message, buffers, self._engine.shard), self._rpc.account_of(peer)
        if self._batcher.culprits.is_refused(message.session, asyncio.get_running_loop().time()):
            return Refused(REFUSED), []
        refusal = self._sessions.refusal(peer, asked)
        refusal = refusal or await self._neighbours.refusal(message.index, asked.stages)
        if refusal is None:
            with self._sessions.kept_for(account, message):
                refusal = await self._make_room(account, asked)
        if refusal is not None:
            return refusal, []
        now, lease_s = asyncio.get_running_loop().time(), min(message.lease_s, self._max_lease_s)
        known = self._sessions.get(message.session)
        session = self._sessions.admit(now, account, asked)
        if known is None:
            lender, digests = self._sessions.lender(session)
            self._carry_out(session, session.machine.borrow(lender, digests) if len(digests) > 1 else [])
        elif session.comes_another_way(asked):
            session.num_ways += 1
            self._batcher.drop(session.id)
            self._carry_out(session, session.machine.on_new_way())
        session.machine.known = asked.known
        length = session.machine.on_open(now, message.route, message.index, len(asked.stages), lease_s, asked.digests)
        if length is None:
            return Refused("an older route of this session, or its end", retry=True), []
        session.reopen(asked)
        self.on_change()
        if session.after is not None:  # warm the link before the first block needs it
            self._rpc.warm(session.after)
        self._schedule(session)
        return Opened(length), []

    async def _make_room(self, account: Account, asked: Asked) -> Refused | None:
        """None: the session may be admitted, now."""
        while True:
            now = asyncio.get_running_loop().time()
            refusal = self._sessions.refusal(account.owner, asked)
            going = refusal or self._sessions.room_for(now, account, asked)
            if isinstance(going, Refused):
                return going
            for session in going:
                self._evict(session)
            leaving = self._sessions.leaving(asked)
            if leaving is None:
                return None
            await leaving.gone.wait()

    def _evict(self, session: StageSession) -> None:
        if not session.parked and not session.machine.is_over:
            why = "others have asked for their share of this peer"
            self._tell(session.owner, SessionLost(session.id, session.opened.index, why, session.opened.route))
        self._carry_out(session, session.machine.on_close(asyncio.get_running_loop().time()))

    async def _trace(self, peer: bytes, message: Trace, buffers: list[bytes]) -> tuple[Message, list[bytes]]:
        session = self._sessions.get(message.session)
        if session is None or peer != session.owner or message.route != session.opened.route:
            return Refused("no such session of yours is here"), []
        trouble = ""
        if session.after is not None:  # our connection to it may be dead without our knowing
            self._pings.ask(session.after)
            trouble = self._rpc.transport.trouble_with(session.after)
        return Traced(session.machine.reached(message.epoch, message.end), trouble[:MAX_REASON]), []

    def _block(self, peer: bytes, message: Block, buffers: list[bytes]) -> None:
        session = self._sessions.get(message.session)
        if session is None:  # the sender is the owner, or a stage that passes it on to the owner
            self._tell(peer, SessionLost(message.session, 0, "unknown session", message.route))
            return
        index = session.opened.index
        sender = session.owner if index == 0 else session.peers[index - 1]
        if message.route != session.opened.route or peer != sender:
            return  # of a route that was left: its owner knows
        has = BlockBuffers.of(session.asked, message, buffers, self._engine.shard)
        session.begun = True
        now, on_block = asyncio.get_running_loop().time(), session.machine.on_block
        self._carry_out(session, on_block(now, message, has.digests, has.tokens, has.states, has.note))

    def _masks(self, peer: bytes, message: Masks, buffers: list[bytes]) -> None:
        session = self._sessions.get(message.session)
        if session is not None and peer == session.owner:
            now = asyncio.get_running_loop().time()
            self._carry_out(session, session.machine.on_masks(now, *told_by(buffers)))

    def _closed(self, peer: bytes, message: Closed, buffers: list[bytes]) -> None:
        session = self._sessions.get(message.session)
        if session is not None and peer == session.peers[-1] and message.route == session.opened.route:
            now = asyncio.get_running_loop().time()
            self._carry_out(session, session.machine.on_closed(now, message))

    def _close(self, peer: bytes, message: Close, buffers: list[bytes]) -> None:
        """In the loop's next turn: the task that serves an Open which came just before it is to run first."""
        asyncio.get_running_loop().call_soon(self._end, peer, message.session)

    def _park(self, peer: bytes, message: Park, buffers: list[bytes]) -> None:
        asyncio.get_running_loop().call_soon(self._keep, peer, message)

    def _keep(self, owner: bytes, message: Park) -> None:
        session = self._sessions.get(message.session)
        if session is None or owner != session.owner or message.route != session.opened.route:
            return
        if session.parked:  # the same Park once more: a second one would count as the end of the next route, too
            return
        if self.draining:
            return self._end(owner, session.id)
        session.machine.on_park(asyncio.get_running_loop().time(), min(message.keep_s, MAX_PARKED_S))
        self._sessions.park(session)
        self._batcher.forget(session.id)
        self._schedule(session)
        self.on_change()

    def _end(self, owner: bytes, session_id: bytes) -> None:
        session = self._sessions.get(session_id)
        if session is not None and owner == session.owner:
            self._carry_out(session, session.machine.on_close(asyncio.get_running_loop().time()))

    def _peer_lost(self, peer: bytes, reason: str, at_s: float) -> None:
        if any(session.owner == peer for session in self._sessions):
            self._owners.check(peer)

    def _link_broken(self, peer: bytes) -> None:
        now = asyncio.get_running_loop().time()
        for session in (one for one in self._sessions if one.after == peer):
            self._carry_out(session, session.machine.on_link_broken(now))

    def _owner_gone(self, owner: bytes) -> None:
        for session in self._sessions:
            self._end(owner, session.id)

    def _next_lost(self, peer: bytes, message: SessionLost, buffers: list[bytes]) -> None:
        """The stage after us was restarted and knows no owner to tell: we do. It cannot know what of."""
        session = self._sessions.get(message.session)
        if session is not None and peer == session.after:
            self._tell(session.owner, replace(message, culprit=False))

    def _engine_lost(self, culprit: Owner | None) -> None:
        self._num_losses += 1
        for session in self._sessions:
            self._lose(session, "its worker died", culprit=session.id == culprit)
        self.on_change()

    def _lose(self, session: StageSession, reason: str, *, culprit: bool) -> None:
        """What it has cached is gone. Whose own work that is, for the second time, is not served again."""
        now = asyncio.get_running_loop().time()
        refused = culprit and self._batcher.culprits.is_refused(session.id, now)
        reason = (REFUSED if refused else reason)[:MAX_REASON]
        self._carry_out(session, session.machine.on_engine_lost(now, reason, culprit=culprit))
        if refused:
            self._end(session.owner, session.id)

    # --- actions

    def _carry_out(self, session: StageSession, actions: list[do.StageAction]) -> None:
        session.num_cells = session.machine.num_cells
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
                case do.ForwardBlock(block, digests, tokens, states, note):
                    try:
                        buffers = [digests, pack_tokens(list(tokens)), pack_states(states, session.opened.wire)]
                        buffers += [] if note is None else [note.data]
                    except ValueError as error:
                        return self._fail(session, str(error))
                    self._tell(session.peers[session.opened.index + 1], block, buffers, Priority.VERIFY)
                case do.SendToOwner(message, logprobs, guesses):
                    self._tell(session.owner, message, verdict_buffers(logprobs, guesses))
                case do.BroadcastClosed(message, digest):
                    sealed = replace(message, seal=seal.of(session.opened.seal_key, message, digest))
                    for peer in session.peers[: session.opened.index]:
                        self._tell(peer, sealed)
                case do.Gone():
                    self._forget(session)
        self._schedule(session)

    def _fail(self, session: StageSession, reason: str) -> None:
        """Its work cannot be done, as we found out ourselves: that may be said of it once."""
        self._batcher.culprits.mark({session.id: sys.maxsize}, asyncio.get_running_loop().time())
        self._break(session, reason, culprit=True)

    def _break(self, session: StageSession, reason: str, *, culprit: bool) -> None:
        """What this session has cached cannot be used, or cannot be known: forget it all, the owner sends it again."""
        log.warning("a session is emptied", reason=reason, culprit=culprit)
        for sequence in session.sequences:
            self._batcher.release(sequence)
        self._lose(session, reason, culprit=culprit)

    def _run(self, session: StageSession, run: do.RunChunk) -> None:
        now = asyncio.get_running_loop().time()
        for one in self._sessions.overflow(now, session):
            self._evict(one)
        if session.machine.is_over:
            return self._carry_out(session, session.machine.on_run_failed(now))
        try:
            chunk = chunk_of(session.asked, session.sampling, run, self._engine.shard, session.owner)
        except Exception:  # or its run would never end, and its place never be free
            log.exception("bug in a run")
            return self._fail(session, "what is to be run cannot be made")
        num_losses, num_ways = self._num_losses, session.num_ways

        def alive() -> bool:  # else the machine may have a new life already
            return num_losses == self._num_losses and num_ways == session.num_ways

        def done(result: Output | DsdError | None) -> None:
            if not alive():
                return
            try:
                self._done(session, result)
            except Exception:
                log.exception("bug in what follows a run")
                self._fail(session, "what was run cannot be used")

        self._batcher.run(chunk, done, alive, session.id, session.account)

    def _done(self, session: StageSession, result: Output | DsdError | None) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(result, Output):
            queue = self._batcher.num_others(session.id)
            draws = () if result.tokens is None else tuple(result.tokens.tolist())
            seen, guessed = seen_of(result), guessed_of(result)
            actions = session.machine.on_output(
                now, result.states, draws, result.compute_s, seen=seen, queue=queue, guessed=guessed
            )
            self._carry_out(session, actions)
        elif isinstance(result, Overloaded):
            log.warning("a block was not decoded", reason=str(result))
            self._carry_out(session, session.machine.on_run_failed(now))
        else:
            self._break(session, str(result), culprit=not isinstance(result, EngineLost))

    def _tell(
        self, peer: bytes, message: Message, buffers: list[bytes] | None = None, priority: Priority = Priority.CONTROL
    ) -> None:
        """Best effort: what is lost is seen by the owner's deadlines."""
        try:
            self._rpc.notify(peer, message, buffers or [], priority=priority)
        except (DsdError, ValueError) as error:  # ValueError: larger than a message may be
            log.debug("not sent", message=type(message).__name__, reason=str(error))

    def _forget(self, session: StageSession) -> None:
        if self._sessions.remove(session):
            self._batcher.forget(session.id)
            self.on_change()

    def _schedule(self, session: StageSession) -> None:
        """Have `tick` called when the machine wants it. A timer that ends too soon is left: that tick does nothing."""
        wakeup = session.machine.next_wakeup() if self._sessions.get(session.id) is session else None
        if session.timer is not None and (wakeup is None or wakeup < session.timer.when()):
            session.timer.cancel()
            session.timer = None
        if session.timer is None and wakeup is not None:
            session.timer = asyncio.get_running_loop().call_at(wakeup, self._tick, session)

    def _tick(self, session: StageSession) -> None:
        session.timer = None
        self._carry_out(session, session.machine.tick(asyncio.get_running_loop().time()))

"""One reply, driven: carries the owner's machine's actions out and feeds it what happens. Decides nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import structlog
from msgspec.structs import replace

from dsdnode.config import POSITION_PATIENCE_S
from dsdnode.errors import DsdError, NoPipeline, PeerUnavailable
from dsdnode.identity import short_id
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.constrained import Constrained
from dsdnode.node.drafter.conversations import Conversation, session_config
from dsdnode.node.drafter.drafting import Drafts, DraftTokens
from dsdnode.node.drafter.options import ReplyOptions
from dsdnode.node.drafter.phases import NEXT, Phase
from dsdnode.node.drafter.route import Route
from dsdnode.node.drafter.routes import Routes
from dsdnode.pacing.estimates import with_estimates
from dsdnode.pacing.suspects import Straggler, StragglerWatch
from dsdnode.speculation import actions as do
from dsdnode.speculation.owner.session import SessionMachine
from dsdnode.wire.codec import printable
from dsdnode.wire.masks import LackMasks
from dsdnode.wire.messages import MAX_KILLED, Nack, SessionLost, Verdict
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.replies import StageInfo, Statistics

log = structlog.get_logger(__name__)

WATCH_S = 1.0
"""Stages of a reply in progress are pinged so often, and asked where a block is that nobody answers."""
MAX_FRUITLESS_ROUTES = 16
"""In a row, without a token: something is wrong that another pipeline does not mend."""


class Reply:
    """`async for emit in reply.run()`; afterwards `reason` and `statistics()`.

    Raises NoPipeline or Overloaded out of run() when no pipeline can be had (what was emitted stands).
    """

    def __init__(self, rpc: Rpc, routes: Routes, conversation: Conversation, options: ReplyOptions) -> None:
        """A draft engine that is restarting will be back: `on_drafter_back` tells."""
        self.conversation = conversation
        self.keep = options.keep
        """Another reply of the conversation may follow: then it rests at the end of this one."""
        self._rpc = rpc
        self._routes = routes
        self._options = options
        self._out: asyncio.Queue[do.Emit | do.Finish | Exception] = asyncio.Queue()
        self._constrained = Constrained.of(rpc, conversation, options, self._out.put_nowait)
        self._drafts = Drafts.of(conversation, options, self._constrained, self._drafted, self._out.put_nowait)
        drafting = self._drafts is not None and self._drafts.available
        config = session_config(conversation, options)
        self._machine = SessionMachine(config, conversation.tokens, options.window, drafter=drafting)
        self.phase = Phase.OPENING
        self._route: Route | None = None  # the one opened last
        self._avoid: dict[bytes, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._opening: asyncio.Task[None] | None = None
        self._checking: dict[bytes, None] = {}  # their connections have ended
        self._num_fruitless = self._num_forgotten = self._num_killed = 0
        self._num_answered, self._progress_s, self._trouble = 0, self._now(), ""
        self._traced: dict[tuple[int, int, int], None] = {}
        """Blocks that were asked for, by route, epoch and end."""
        self._stragglers = StragglerWatch(routes.tuning)

    # --- for the drafter

    async def run(self) -> AsyncGenerator[do.Emit, None]:
        self._carry_out(self._machine.start(self._now()))
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                event = await self._out.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, do.Finish):
                    return
                yield event
        finally:
            watch.cancel()
            self._end()

    def cancel(self, reason: str) -> None:
        self._carry_out(self._machine.cancel(self._now(), reason))

    @property
    def reason(self) -> str:
        return self._machine.finished or "error"

    def statistics(self) -> Statistics:
        figures = with_estimates(self._machine.log.statistics(), self._machine.log.passes)
        return replace(figures, pipeline=self.pipeline, wire=self._options.wire)

    @property
    def pipeline(self) -> tuple[StageInfo, ...]:
        return self._route.stages() if self._route is not None else ()

    @property
    def still_s(self) -> float:
        """Since the last step forward."""
        return self._now() - self._progress_s

    @property
    def waits_for(self) -> str:
        return self._trouble or (f"at work: {self._route.told()}" if self._route else "looking for a pipeline")

    def _stepped(self) -> None:
        self._progress_s, self._trouble, self._num_forgotten = self._now(), "", 0

    # --- events (sync: decide, then act)

    def on_verdict(self, peer: bytes, verdict: Verdict, buffers: list[bytes]) -> None:
        judge = self._route.peers[-1] if self._route else b""
        if self._route and (peer == judge or self._machine.is_sealed(verdict, judge)):
            place = self._machine.decided(verdict)
            if self._constrained and not self._constrained.allows(place, verdict.token):
                return self.on_peer_lost(judge)
            dead_end = self._constrained.dead_end(place) if self._constrained else None
            told = (self._options.logprobs_of(buffers), self._options.guesses_of(buffers)) if peer == judge else ()
            actions = self._machine.on_verdict(self._now(), verdict, *told)
            is_taken = self._machine.num_answered > self._num_answered
            if dead_end is not None and is_taken:
                self._carry_out(dead_end.told(actions))
                return self._out.put_nowait(dead_end.why)
            self._carry_out(actions)
            if is_taken:
                self._num_answered = self._machine.num_answered
                self._stepped()
                self._routes.passed(self._route)
            self._look_for_stragglers(self._route)

    def on_nack(self, peer: bytes, nack: Nack) -> None:
        if self._route and nack.index < len(self._route.peers) and peer == self._route.peers[nack.index]:
            self._carry_out(self._machine.on_nack(self._now(), nack))

    def on_lack_masks(self, peer: bytes, lack: LackMasks) -> None:
        if self._route and peer == self._route.peers[-1] and self._constrained is not None:
            self._constrained.tell_again(lack.names)

    def on_session_lost(self, peer: bytes, lost: SessionLost) -> None:
        """Of the stage itself, or told by the one before it; on a route that is not open nothing is lost."""
        is_open = self.phase is Phase.RUNNING and lost.route == self._machine.route
        if is_open and self._route and peer in self._route.peers:
            log.info("session lost", peer=short_id(peer), reason=lost.reason, culprit=lost.culprit)
            if lost.culprit and not self._may_go_on(peer, lost.reason):
                return
            self._carry_out(self._machine.on_session_lost(self._now(), self._route.peers.index(peer)))

    def _may_go_on(self, peer: bytes, reason: str) -> bool:
        """A stage says that its engine died of this very reply: try once more, with another one if there is one."""
        self._num_killed += 1
        self._avoid[peer] = None
        if self._num_killed < MAX_KILLED:
            return True
        self._out.put_nowait(
            NoPipeline(
                f"{self._num_killed} engines died of this reply or could not do its work, the last one "
                f"{short_id(peer)} ({printable(reason)}): it is not carried on to another"
            )
        )
        return False

    def on_link_lost(self, peer: bytes) -> None:
        """A hint, no proof: a peer may close a link that it seldom uses, or may have moved."""
        if self._route and peer in self._route.peers and peer not in self._checking:
            self._checking[peer] = None
            self._spawn(self._check(peer, self._route))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _check(self, peer: bytes, route: Route) -> None:
        try:
            rtt_s = await self._routes.pings.rtt_s(peer)
        finally:
            del self._checking[peer]
        if rtt_s is None:
            return self.on_peer_lost(peer)
        if self._route is route:
            self._carry_out(self._machine.on_link_broken(self._now()))

    def on_peer_lost(self, peer: bytes) -> None:
        if self._route and peer in self._route.peers:
            log.info("stage lost", peer=short_id(peer))
            self._told(f"{self._route.told(self._route.peers.index(peer))} does not answer")
            self._avoid[peer] = None
            self._carry_out(self._machine.on_peer_lost(self._now(), [self._route.peers.index(peer)]))

    def _look_for_stragglers(self, route: Route) -> None:
        passes = self._machine.log.passes
        slow = self._stragglers.on_verdict(passes[-1]) if passes else None
        if slow is not None:
            self._spawn(self._go_round(route, slow))

    async def _go_round(self, route: Route, slow: Straggler) -> None:
        """Take another pipeline, if there is one that is worth it."""
        better = await self._routes.better_than(
            self.conversation.session, self._options.model, route, slow.index, slow.factor
        )
        log.info("straggler", peer=short_id(route.peers[slow.index]), factor=round(slow.factor, 1), better=better)
        if better and self._route is route:
            self._carry_out(self._machine.on_peer_lost(self._now(), [slow.index], "straggler"))

    def on_drafter_lost(self) -> None:
        if self._drafts is not None and self._machine.finished is None:
            self._drafts.begin_again()
            self._carry_out(self._machine.on_drafter_lost(self._now()))

    def on_drafter_back(self) -> None:
        """The engine is; whether it drafts for this reply, too, it says itself."""
        if self._drafts is not None and self._drafts.available and self._machine.finished is None:
            self._drafts.begin_again()
            self._carry_out(self._machine.on_drafter_back(self._now()))

    # --- actions

    def _carry_out(self, actions: list[do.SessionAction]) -> None:
        try:
            for action in actions:
                self._act(action)
        except Exception as bug:  # or nobody would ever hear of it, and the reply never end
            self._out.put_nowait(bug)
        self._schedule()

    def _act(self, action: do.SessionAction) -> None:
        match action:
            case do.SendBlock():
                self._send(action)
            case do.Draft():
                assert self._drafts is not None
                self._drafts.draft(action)
            case do.NeedRoute():
                self._need_route(action)
            case do.Emit() | do.Finish():
                self._num_fruitless = self._num_killed = 0
                if self._constrained is not None and isinstance(action, do.Emit):
                    self._constrained.commit(action.tokens)
                self._out.put_nowait(action)

    def _send(self, sent: do.SendBlock) -> None:
        if self._route is None:
            return
        buffers = [sent.digests, pack_tokens(list(sent.tokens)), *self._route.line.notes(sent)]
        try:
            self._rpc.notify(self._route.peers[0], sent.block, buffers, priority=Priority.VERIFY)
        except DsdError as error:
            log.info("block not sent", reason=str(error))  # the pass times out, and another route is asked for
        if self._constrained is not None:
            judge = self._route.peers[-1]
            self._constrained.tell(sent.block, sent.digests, sent.tokens, judge, self._routes.told_masks.of(judge))

    def _drafted(self, tokens: DraftTokens | None) -> None:
        if tokens is None:  # dead or full: go on without
            self.on_drafter_lost()
        else:
            self._carry_out(self._machine.on_draft(self._now(), tokens))

    def _need_route(self, action: do.NeedRoute) -> None:
        log.info("route", number=action.route, reason=action.reason)
        self._num_fruitless += 1
        if self._num_fruitless > MAX_FRUITLESS_ROUTES:
            return self._out.put_nowait(PeerUnavailable(f"{MAX_FRUITLESS_ROUTES} pipelines failed one after another"))
        if self._route is not None:
            self._blame(self._route, action)
        if self._opening is not None:
            self._opening.cancel()
        self._step("route wanted")
        self._opening = asyncio.create_task(self._open_route(action))

    def _blame(self, route: Route, action: do.NeedRoute) -> None:
        """A worker that died is back at once; a stage that forgets the reply again, before anything came, is no use."""
        if action.reason == "session_lost":
            self._num_forgotten += 1
        else:
            self._avoid.update((route.peers[index], None) for index in action.suspects)
        if self._num_forgotten > 1 or action.reason in ("nack", "timeout"):
            self._routes.fruitless(route)

    async def _open_route(self, action: do.NeedRoute) -> None:
        try:
            route = await self._routes.open(
                self.conversation,
                self._options,
                action.route,
                action.digests,
                tuple(self._avoid),
                self._machine.tokens,
                self._progress_s + self._options.patience_s,
                self._told,
            )
        except Exception as error:  # whatever it is, the reply must not wait for this route
            self._out.put_nowait(error)
            return
        self._route = route
        self._step("opened")
        left = [peer for peer in self.conversation.holders if peer not in route.peers]
        self._routes.close(self.conversation, left)
        self._stragglers.on_route(route.costs)
        if route.trial_s is not None:
            self._spawn(self._try_out(route, route.trial_s))
        costs = route.costs, route.first_costs
        self._carry_out(self._machine.on_route(self._now(), action.route, route.lengths, *costs, route.max_positions))

    async def _try_out(self, route: Route, trial_s: float) -> None:
        num_answered = self._num_answered
        await asyncio.sleep(trial_s)
        if self._route is route and self._num_answered == num_answered:
            self._told(self._routes.disappointed(route))
            self._carry_out(self._machine.on_peer_lost(self._now(), [], "block_lost"))

    def _told(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.info("waiting", reason=trouble)
        self._trouble = trouble

    async def _watch(self) -> None:
        """A stage that hangs keeps its connection: ask the application."""
        while True:
            await asyncio.sleep(WATCH_S)
            route = self._route
            if route is None or self.phase is not Phase.RUNNING:
                continue
            await self._look_for_losses(route)
            if self.still_s > self._options.patience_s + POSITION_PATIENCE_S * self._machine.num_in_flight:
                return self._out.put_nowait(NoPipeline(f"{self.waits_for}; nothing came for {self.still_s:.0f} s"))
            answers = await asyncio.gather(*(self._routes.pings.rtt_s(peer) for peer in route.peers))
            for peer, rtt in zip(route.peers, answers, strict=True):
                if rtt is None and self._route is route:
                    self.on_peer_lost(peer)
                    break

    async def _look_for_losses(self, route: Route) -> None:
        """A block was sent twice and nobody answers: leave the place where it was lost, if the stages know.

        What was sent again has WATCH_S to arrive; a stage that only is slow is left no sooner than the timer says.
        """
        block = self._machine.unanswered
        if block is None:
            return
        key = (self._machine.route, *block)
        asked_before, self._traced = key in self._traced, {key: None}
        loss = await self._routes.trace(self.conversation, route, key[0], block)
        if self._route is not route or self._machine.unanswered != block:
            return
        self._told(loss.told(route))
        if self._machine.num_timeouts > 1 if loss.computing else asked_before or loss.trouble:
            self._routes.suspect(route, loss)
            self._carry_out(self._machine.on_peer_lost(self._now(), [], "block_lost"))

    def _end(self) -> None:
        opened = self.phase is Phase.RUNNING
        self._step("end")
        for task in (self._opening, *self._tasks):
            if task is not None:
                task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._constrained is not None:
            self._constrained.close()
        if self._machine.finished is None:
            self._machine.cancel(self._now(), "error")
        elif self.keep and opened:
            self.conversation.rest(self._machine.carry(), self._machine.tokens)
            if self._drafts is not None and self._drafts.close():
                self.conversation.forget_drafts()
            return self._routes.park(self.conversation, self._machine.route)
        self._routes.close(self.conversation)
        if self._drafts is not None:
            self._drafts.begin_again()

    def _step(self, event: str) -> None:
        self.phase = NEXT.get((self.phase, event), self.phase)

    def _schedule(self) -> None:
        """A timer that ends too soon is left: nearly every event puts the time off, and such a tick does nothing."""
        wakeup = self._machine.next_wakeup()
        if self._timer is not None and (wakeup is None or wakeup < self._timer.when()):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and wakeup is not None:
            self._timer = asyncio.get_running_loop().call_at(wakeup, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self._machine.tick(self._now()))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

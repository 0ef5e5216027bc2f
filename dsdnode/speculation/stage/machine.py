"""One stage of a pipeline, for one session: what to do with each block that arrives. Speculation section 4.

A block is looked at only while no run is in flight; what becomes of it says Fate (cache.py), and `_deal` does it. Which
events a session hears, and what it is then, says NEXT.

Digests are of contents, so a cache survives re-routing, unless other stages come before this one, and what was cached
for a dropped line may serve again. Blocks and closings of another route are dropped: their pipeline is no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dsdnode.speculation import actions as do
from dsdnode.speculation import digest as digest_
from dsdnode.speculation.acceptance import AcceptanceRule, JudgeDraw
from dsdnode.speculation.actions import Guessed, Note, StageAction, States, Tokens
from dsdnode.speculation.masks import Places
from dsdnode.speculation.stage.arrivals import DEFAULT_LIMITS, Arrival, KeptOutputs, StageLimits, WaitingBlocks, arrive
from dsdnode.speculation.stage.cache import Branch, BranchCache, Closing, Fate
from dsdnode.speculation.stage.judge import Decision, Judge, StageMessages
from dsdnode.speculation.stage.known import KnownLine, behind_line
from dsdnode.speculation.stage.phases import NEXT, Phase
from dsdnode.wire.masks import PackedMask
from dsdnode.wire.messages import Block, Closed

LOST_S = 10.0
"""So long a connection may have been dead before that is noticed (net/port.py: SILENT_S; swarm/pings.py), and more."""


class StageMachine:
    """One session at one stage. Every event returns the actions to carry out, in order; after Gone none.

    While a RunChunk is unanswered any other event may arrive; none of them then gives an engine action.
    """

    def __init__(
        self,
        session: bytes,
        sequences: Sequence[int],
        *,
        max_positions: int,
        limits: StageLimits = DEFAULT_LIMITS,
        acceptance: AcceptanceRule | None = None,
        places: Places | None = None,
    ) -> None:
        """`sequences`: empty ones, this session's until Gone; 8 hold all that one hedges. No `acceptance`: exact.
        `places`: as in Judge."""
        assert sequences
        self._messages = StageMessages(session)
        self._max_positions = max_positions
        self._cache = BranchCache(sequences, limits.max_closings)
        self._judge = Judge(acceptance, places)
        self._kept = KeptOutputs(limits)
        self._inbox = WaitingBlocks(limits)
        self._running: tuple[Arrival, Branch, Judge] | None = None
        self.known: KnownLine | None = None
        """Set before on_open: what the judge is told, where its draws have a past."""
        self._known: KnownLine | None = None
        self._told, self._num_stages = -1, 0
        """`_told`: the route that `_known` is of."""
        self._max_spare_positions = limits.max_spare_positions
        self._lease_s, self._lease_end_s = 0.0, float("inf")
        self._renews = True
        """Has it earned another lease? An Open alone does not: it could be repeated for ever."""
        self.worked_s = 0.0
        """When it was opened for a reply, or a run of it began or ended, whatever was last."""
        self.phase = Phase.OPEN

    # --- events ---------------------------------------------------------------------------------------------------

    def next_wakeup(self) -> float | None:
        """When `tick` must be called at the latest; ask again after every event."""
        if self.is_over:
            return None
        overdue_s = None if self._running else self._inbox.next_overdue_s()
        return self._lease_end_s if overdue_s is None else min(self._lease_end_s, overdue_s)

    def on_open(
        self, now: float, route: int, index: int, num_stages: int, lease_s: float, digests: bytes
    ) -> int | None:
        """Open, first or again. Returns `length` for Opened; None: an old route, or over: answer Refused.

        Index 0 takes tokens, index num_stages - 1 judges. Forgets what belongs to lower routes, but not the cache.
        """
        if route < self._route or not self._hears("Open"):
            return None
        if route > self._route:
            self._inbox.items.clear()
            self._kept.clear()
            self._judge.begin_route()
        if route != self._told or (self.known is None) != (self._known is None):
            self._known, self._told = self.known, route
            self._cache.tell(None if self.known is None else self.known.length)
        self._messages.route, self._messages.index, self._num_stages = route, index, num_stages
        self._cache.judging = self._is_last
        self._lease_s = lease_s
        if self._renews:
            self._renews, self.worked_s, self._lease_end_s = False, now, now + lease_s
        return self._cache.matching(digest_.split(digests))

    def lends(self, line: Sequence[bytes]) -> tuple[int, int]:
        """How many leading tokens of a line (its digests) one of its sequences has, and which."""
        arrival, branch = self._running[:2] if self._running else (None, None)
        return (0, 0) if self.is_over else self._cache.lends(line, branch, arrival.block.position if arrival else 0)

    def borrow(self, lender: int, digests: list[bytes]) -> list[StageAction]:
        """Before the first on_open: begin with what that sequence, another session's, has of the same line."""
        return self._cache.borrow(lender, digests)

    def on_new_way(self) -> list[StageAction]:
        """Before on_open: other stages come before this one now. What came by the last ones must not serve: all is
        released, and the run in flight, if there is one, has no on_output."""
        self._running = None
        self._kept.clear()
        self._inbox.items.clear()
        return self._cache.release()

    def on_park(self, now: float, keep_s: float) -> None:
        """The reply is over; what is cached of it is kept for so long. Blocks of its route come too late now."""
        self._messages.route += 1
        self._inbox.items.clear()
        self._kept.clear()
        self._lease_end_s = now + keep_s

    def on_turn(self, max_positions: int, acceptance: AcceptanceRule, places: Places | None = None) -> None:
        """Another reply comes, with the next on_open: nothing that was drawn for the last one may serve it."""
        self._max_positions, self._judge, self._renews = max_positions, Judge(acceptance, places), True
        self._cache.forget_draws()

    def on_block(
        self, now: float, block: Block, digests: bytes, tokens: Tokens, states: States | None, note: Note | None = None
    ) -> list[StageAction]:
        """Buffers as in Block's docstring, decoded; `states` None at the first stage. Raises PeerMisbehaved: no fit."""
        if block.route != self._route or not self._hears("Block"):
            return []
        first = self._messages.index == 0
        arrival = arrive(now, block, digests, tokens, states, first=first, max_positions=self._max_positions)
        if note is not None:
            arrival = replace(arrival, note=note, behind=behind_line(self._known, arrival, note))
        if self.phase is Phase.LOST:
            return [self._messages.lost("its cache is gone")]
        self._inbox.drop_dead(block.floor)
        if self._running is None or self._running[0].key != arrival.key:
            self._inbox.put(arrival)
        return self._go_on(now)

    def on_output(
        self,
        now: float,
        states: States | None,
        draws: Tokens,
        compute_s: float,
        *,
        seen: Sequence[JudgeDraw] = (),
        queue: int = 0,
        guessed: Guessed | None = None,
    ) -> list[StageAction]:
        """The RunChunk is done: `states` [n, width] of it, or at the last stage its `draws` (num_draws tokens).

        `seen`: the draws with the distributions behind them, where num_top asked for these; `queue`: how many other
        sessions had work waiting when the run was asked for; `guessed`: behind one of its draws.
        """
        assert self._running is not None
        arrival, branch, judge = self._running
        self._running = None
        self._worked(now)
        self._hears("run over")
        if self.phase is Phase.GONE:
            return self._leave()
        if draws and judge is self._judge:
            judge.keep_draws(branch, arrival.block, draws, seen)
        if arrival.block.route != self._route or self._closing_of(arrival.block) is not None:
            return self._go_on(now)
        block = arrival.passed(now, compute_s, queue)
        if not self._is_last:
            return self._forward(now, arrival, block, states) + self._go_on(now)
        decision = self._judge.judge(branch, block, arrival.draft, guessed)
        return self._announce(block, branch, decision) + self._go_on(now)

    def on_run_failed(self, now: float) -> list[StageAction]:
        """The engine refused the RunChunk (Overloaded), perhaps with a part of it cached. The owner sends it again."""
        assert self._running is not None
        arrival, branch, _ = self._running
        self._running = None
        self._hears("run over")
        if self.phase is Phase.GONE:
            return self._leave()
        del branch.digests[arrival.block.position + 1 :]
        if self._known is not None:
            del branch.tail[max(0, arrival.block.position - self._known.length) :]
        return [do.TruncateSequence(branch.sequence, branch.length), *self._go_on(now)]

    def on_engine_lost(
        self, now: float, reason: str = "its worker died", *, culprit: bool = False
    ) -> list[StageAction]:
        """The worker died, running or not: all sequences are gone. The machine stays, empty, for a re-Open.

        `culprit`: it died of this session's work.
        """
        if not self._hears("worker died"):
            return []
        self._running = None
        self._cache.forget()
        self._kept.clear()
        self._inbox.items.clear()
        if self.phase is Phase.GONE:
            return self._leave()
        return [self._messages.lost(reason, culprit=culprit)]

    def on_closed(self, now: float, closed: Closed) -> list[StageAction]:
        """The judge's Closed (the driver checks that the sender is the route's last stage)."""
        if closed.route != self._route or not self._hears("Closed"):
            return []
        self._cache.close(closed.epoch, Closing(closed.position, closed.token, closed.relaxed, closed.seal))
        return self._go_on(now)

    def on_masks(self, now: float, names: Mapping[bytes, bytes], packed: Iterable[PackedMask]) -> list[StageAction]:
        """The owner's Masks: `names` by digest (speculation/masks.py). Raises PeerMisbehaved: they are none."""
        places = self._judge.places
        if places is None or not self._hears("Masks"):
            return []
        places.learn(names)
        for one in packed:
            places.masks.keep(one.name, one.packed)
        return self._go_on(now)

    def on_link_broken(self, now: float) -> list[StageAction]:
        """A connection to the next stage has ended, and the stage is there: what went to it of late may be lost."""
        return [*self._kept.since(now - LOST_S)] if self.phase is Phase.OPEN else []

    def on_close(self, now: float) -> list[StageAction]:
        """The owner's Close: releases, Gone (after the run in flight, if any)."""
        return self._close() if self._hears("Close") else []

    def tick(self, now: float) -> list[StageAction]:
        """Timers: hop timeouts (Nack), the lease (SessionLost, releases, Gone)."""
        if self.is_over:
            return []
        if now >= self._lease_end_s and self._hears("lease over"):
            return [self._messages.lost("its lease ran out"), *self._close()]
        overdue = [] if self._running else self._inbox.take_overdue(now)
        if overdue:
            self._judge.ask_again()
        return [self._messages.nack(item.block, self._cache.length_for(item.block)) for item in overdue]

    def reached(self, epoch: int, end: int) -> int:
        """How far the block of `epoch` that ends at `end` has come, as in Traced."""
        here = [*self._inbox.items, *([self._running[0]] if self._running else [])]
        if any(item.block.epoch == epoch and item.block.position + item.num_positions >= end for item in here):
            return 1
        branch = self._cache.get(epoch)
        run = branch is not None and branch.length >= end
        return 2 if run or self._cache.closing_of(epoch, 0, 0) is not None else 0

    # --- decisions ------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Has it work that is not done?"""
        return self._running is not None or bool(self._inbox.items)

    @property
    def num_cells(self) -> int:
        """What it has in the engine's cache, all branches together."""
        return self._cache.num_cells

    @property
    def is_over(self) -> bool:
        return self.phase in (Phase.CLOSING, Phase.GONE)

    def _worked(self, now: float) -> None:
        """A run began or ended: that renews the lease."""
        self._renews, self.worked_s, self._lease_end_s = True, now, max(self._lease_end_s, now + self._lease_s)

    def _hears(self, event: str) -> bool:
        """Go where the event leads; False: it means nothing now."""
        after = NEXT.get((self.phase, event))
        if after is not None:
            self.phase = after
        return after is not None

    @property
    def _route(self) -> int:
        return self._messages.route

    @property
    def _is_last(self) -> bool:
        return self._messages.index == self._num_stages - 1

    def _go_on(self, now: float) -> list[StageAction]:
        """Deal with the waiting blocks, first come first, until a run starts or only blocks that must wait are left."""
        actions: list[StageAction] = []
        while self._running is None:
            for arrival in self._inbox.items:
                fate = self._fate(arrival)
                if fate is not Fate.WAIT:
                    break
            else:
                break
            self._inbox.items.remove(arrival)
            actions += self._deal(now, arrival, fate)
        lacking = self._judge.to_ask(self._inbox.items) if self._is_last else ()
        return [*actions, self._messages.lacking(lacking)] if lacking else actions

    def _fate(self, arrival: Arrival) -> Fate:
        """What Fate says."""
        block = arrival.block
        fate, branch = self._cache.fate(block, arrival.digests[0])
        if fate is Fate.APPEND and self._is_last and not self._judge.can_judge(branch, block):
            return Fate.NO_DRAW
        if fate is Fate.APPEND and self._is_last and self._judge.rejects(branch, block, arrival.draft):
            return Fate.REJECTED
        if fate is Fate.APPEND and self._is_last and self._judge.masks(arrival) is None:
            return Fate.WAIT
        return fate

    def _closing_of(self, block: Block) -> Closing | None:
        return self._cache.closing_of(block.epoch, block.parent, block.base)

    # --- deeds ----------------------------------------------------------------------------------------------------

    def _deal(self, now: float, arrival: Arrival, fate: Fate) -> list[StageAction]:
        block = arrival.block
        if fate is Fate.APPEND:
            self._worked(now)
            return self._append(arrival)
        if fate is Fate.DUPLICATE:
            return self._again(arrival)
        if fate is Fate.CLOSED:
            return self._closing_again(block)
        if fate is Fate.MISMATCH:
            return [self._messages.nack(block, 0)]
        if fate is Fate.NO_DRAW:
            return [self._messages.nack(block, max(0, block.position - 1))]
        if fate is Fate.REJECTED:
            _, branch = self._cache.fate(block, arrival.digests[0])
            assert branch is not None
            return self._announce(block, branch, self._judge.reject(branch, block))
        return []

    def _append(self, arrival: Arrival) -> list[StageAction]:
        block = arrival.block
        branch, actions = self._cache.ready(block, arrival.digests[0])
        branch.digests.extend(arrival.digests[1:])
        branch.tail += arrival.behind
        actions += self._cache.shrink(self._max_positions + self._max_spare_positions, branch)
        self._running = (arrival, branch, self._judge)
        num_draws = self._judge.num_draws(block) if self._is_last else 0
        tokens = arrival.tokens if self._messages.index == 0 else None
        num_top = self._judge.num_top if num_draws else 0
        past = self._known.past(branch, block, arrival.draft) if self._known and num_draws else None
        masks = self._judge.masks(arrival) if num_draws else ()
        place = branch.sequence, block.position
        line = None if self._known is None else self._known.line(branch, block)
        num_guesses = 0 if arrival.note is None or not num_draws else arrival.note.num_guesses
        run = do.RunChunk(*place, tokens, arrival.states, num_draws, num_top, past, masks or (), line, num_guesses)
        return [*actions, run]

    def _again(self, arrival: Arrival) -> list[StageAction]:
        """A duplicate: what followed from it may have been lost."""
        branch = self._cache.get(arrival.block.epoch)
        assert branch is not None
        if self._is_last:
            decision = self._judge.again(branch, arrival.block)
            return [] if decision is None else [self._messages.verdict(arrival.block, decision)]
        kept = self._kept.get(arrival.key)
        return [self._messages.nack(arrival.block, branch.length) if kept is None else kept]

    def _closing_again(self, block: Block) -> list[StageAction]:
        closing = self._closing_of(block)
        assert closing is not None
        self._cache.close(block.epoch, closing)
        decision = Decision(closing.position, closing.token, True, closing.relaxed)
        return [self._messages.verdict(block, decision, closing.seal)]

    def _forward(self, now: float, arrival: Arrival, block: Block, states: States | None) -> list[StageAction]:
        assert states is not None
        output = do.ForwardBlock(block, b"".join(arrival.digests), arrival.draft, states, arrival.note)
        self._kept.put(output, now)
        return [output]

    def _announce(self, block: Block, branch: Branch, decision: Decision) -> list[StageAction]:
        actions: list[StageAction] = [self._messages.verdict(block, decision)]
        if decision.closed:
            self._cache.close(block.epoch, Closing(decision.decided, decision.token, decision.relaxed))
            actions.append(self._messages.closed(block, decision, branch.digests[decision.decided]))
        return actions

    def _close(self) -> list[StageAction]:
        if self._running:
            return []
        self._hears("run over")
        return self._leave()

    def _leave(self) -> list[StageAction]:
        self._inbox.items.clear()
        self._kept.clear()
        return [*self._cache.release(), do.Gone()]

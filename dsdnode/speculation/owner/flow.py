"""What goes out next, and what is drafted next: the owner's epochs under the window controller's plan.

plain    given tokens alone
rounds   the last given token waits for its draft and goes out with it; nothing more until its verdict
stream   given tokens leave at once, with the draft tokens that are there; further draft tokens follow in blocks while
the window
         allows, a smaller block only when the pipeline is idle or no more will come
hedged   the same for the main epoch and its hedges; the drafter works where the next draft token is likeliest to be
needed
copied   a round or a stream of draft tokens that cost no time, in between, while they last and are worth it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from dsdnode.speculation.actions import Draft, SendBlock
from dsdnode.speculation.controller import WindowController
from dsdnode.speculation.owner.drafting import DraftPlanner
from dsdnode.speculation.owner.epochs import Epochs, OwnEpoch
from dsdnode.speculation.owner.prefill import MAX_POSITIONS_IN_FLIGHT, MAX_SINGLES_POSITIONS, Prefill
from dsdnode.speculation.plan import CALL_S, MIN_CHANCE, Plan

MAX_FLIGHTS = 32
"""Blocks in flight; a stage lets twice as many wait."""
MIN_HEDGE_CHANCE = 0.05
MAX_COPIED = 64
"""Draft tokens that are looked at for a plan."""


@dataclass(slots=True)
class Flow:
    epochs: Epochs
    drafts: DraftPlanner
    prefill: Prefill
    max_length: int
    call_tokens: int = 2
    """What the draft engine gives in CALL_S, as seen of late."""
    _copying: Plan | None = None

    def plan(self, window: WindowController) -> Plan:
        """The controller's, or its other one while copied draft tokens are there: those are put into the main epoch."""
        plan, main = window.plan(), self.epochs.main
        if main is None or not (window.may_copy and self.drafts.can_copy):
            return plan
        if not main.draft_tokens:
            self._copying = None
        if self._may_copy(main, self._copying or plan):  # the longer it goes well, the larger blocks are worth
            self._copying = self._priced(main, window)
            if self._copying is not None:
                self._copy(main, self._copying)
        return self._copying or plan

    def _may_copy(self, main: OwnEpoch, plan: Plan) -> bool:
        """Behind a round's or a given token's verdict; in a stream behind what was drafted. Not before the draft engine
        was asked to read the prompt, which it does while the pipeline reads it."""
        is_reading = self.drafts.alive and not plan.copied and plan.block > 0 and self.epochs.length - main.sent > 1
        is_waiting = plan.mode == "rounds" and any(flight.action.block.num_draft for flight in main.flights)
        return not is_reading and not is_waiting and not self.epochs.num_unsent(main)

    def _priced(self, main: OwnEpoch, window: WindowController) -> Plan | None:
        found = self.drafts.copies(main, min(MAX_COPIED, self._room - len(main.draft_tokens)))
        if not found:
            return None
        survival = [*accumulate((chance for _, chance in found), mul, initial=1.0)]
        plan = window.copying(survival)
        if plan is None:
            self.drafts.decline(main)
        return plan

    def _copy(self, main: OwnEpoch, plan: Plan) -> None:
        """As many as the plan lets leave, and are likely to be needed."""
        num_more = plan.window - self.epochs.num_unjudged() - self.epochs.num_unsent(main)
        if plan.mode == "rounds" and main.draft_tokens:
            return
        for one, chance in self.drafts.copies(main, min(num_more, self._room - len(main.draft_tokens))):
            if chance * self.epochs.chance(main) < MIN_CHANCE:
                return
            self.epochs.extend(main, one, chance)

    def blocks(self, now: float, route: int, plan: Plan, num_guesses: int = 0) -> Iterator[SendBlock]:
        """Everything that may leave now. `num_guesses`: that are asked for behind each verdict."""
        for epoch in self.epochs.live:
            while self.epochs.num_flights < MAX_FLIGHTS:
                sizes = self._next_sizes(epoch, plan)
                if sizes is None:
                    break
                yield self.epochs.send(now, epoch, route, *sizes, plan, num_guesses)

    def draft(self, now: float, plan: Plan) -> Draft | None:
        """What to ask of the draft engine now, if anything."""
        main = self.epochs.main
        if plan.block == 0 or plan.copied or main is None:
            return None
        if plan.mode == "rounds":
            count = self._num_lacking(main, plan)
            return self.drafts.ask(now, main, count) if count > 0 and self.drafts.can_ask(main) else None
        if self.drafts.asked is not None or not self.drafts.alive:
            return None
        epoch = self._most_promising(main, plan)
        return None if epoch is None else self.drafts.ask(now, epoch, self._stride(epoch, plan))

    # --- blocks ---------------------------------------------------------------------------------------------------

    def _next_sizes(self, epoch: OwnEpoch, plan: Plan) -> tuple[int, int] | None:
        """(given, draft) positions of the epoch's next block."""
        num_left = self.epochs.length - epoch.sent
        if num_left > 0:
            return self._given(epoch, num_left, plan)
        size = self._num_ready(epoch, plan)
        return (0, size) if size > 0 else None

    def _given(self, epoch: OwnEpoch, num_left: int, plan: Plan) -> tuple[int, int] | None:
        given = [flight.num_positions for flight in epoch.flights if flight.action.block.num_draft == 0]
        num_given = self.prefill.next_size(epoch.sent, self.epochs.length)
        if len(given) >= self.prefill.max_blocks or sum(given) + num_given > MAX_POSITIONS_IN_FLIGHT:
            return None
        if num_given < num_left or num_given > MAX_SINGLES_POSITIONS or plan.block == 0:
            return num_given, 0
        num_draft = min(self.epochs.num_unsent(epoch), plan.block, self._room)
        if plan.mode == "rounds" and self._is_round_filling(epoch, num_given, num_draft, plan):
            return None
        return num_given, num_draft

    def _is_round_filling(self, epoch: OwnEpoch, num_given: int, num_draft: int, plan: Plan) -> bool:
        if plan.copied or num_given > 1 or epoch.flights or num_draft >= min(plan.block, self._room):
            return False
        return self.drafts.asked is not None or self.drafts.can_ask(epoch)

    def _num_ready(self, epoch: OwnEpoch, plan: Plan) -> int:
        """Draft tokens that may leave behind what has left."""
        if plan.mode not in ("stream", "hedged"):
            return 0
        num_unsent = self.epochs.num_unsent(epoch)
        size = min(num_unsent, plan.block, plan.window - self.epochs.num_unjudged())
        if size >= plan.block or self.epochs.num_flights == 0:
            return size
        is_last = plan.copied or (not self._is_wanted(epoch, plan) and self.drafts.asked is None)
        return size if is_last and size == num_unsent else 0

    # --- drafts ---------------------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """Draft tokens that the reply has room for: one token more is the judge's."""
        return self.max_length - self.epochs.length - 1

    def _num_lacking(self, main: OwnEpoch, plan: Plan) -> int:
        """Of a round. While the pipeline reads the prompt one draft token more is made, for the judge's own token."""
        if any(flight.action.block.num_draft for flight in main.flights):
            return 0
        return min(plan.block + bool(main.flights), self._room) - len(main.draft_tokens)

    def _is_wanted(self, epoch: OwnEpoch, plan: Plan) -> bool:
        """May another draft token be drafted at its end?"""
        if len(epoch.draft_tokens) >= self._room or self.epochs.chance(epoch) < MIN_CHANCE:
            return False
        num_unsent = sum([self.epochs.num_unsent(other) for other in self.epochs.live])
        return num_unsent + self.epochs.num_unjudged() < plan.window + plan.block

    def _most_promising(self, main: OwnEpoch, plan: Plan) -> OwnEpoch | None:
        """The epoch whose next draft token is likeliest to be needed; perhaps a new hedge."""
        wanted = [epoch for epoch in self.epochs.live if self._is_wanted(epoch, plan) and self.drafts.can_ask(epoch)]
        best = max(wanted, key=self.epochs.chance, default=None)
        if plan.mode != "hedged" or len(self.epochs.hedges) >= plan.hedges or not self.epochs.can_hedge:
            return best
        if best is None and not self._is_wanted(main, plan) and self.epochs.chance(main) >= MIN_CHANCE:
            return None  # the window is full
        hedge = self.drafts.best_hedge(max(MIN_HEDGE_CHANCE, self.epochs.chance(best) if best else 0.0))
        return best if hedge is None else self.epochs.hedge(*hedge)

    def _stride(self, epoch: OwnEpoch, plan: Plan) -> int:
        """Up to a full block, but no longer than CALL_S."""
        lacking = plan.block - self.epochs.num_unsent(epoch) % plan.block
        return max(1, min(lacking, self.call_tokens, self._room - len(epoch.draft_tokens)))

    def called(self, num_tokens: int, seconds: float) -> None:
        """The draft engine took so long for so many. A call costs something before its first token, so that the next
        one's length is felt for, a token at a time, rather than reckoned."""
        if seconds + seconds / num_tokens <= CALL_S:
            self.call_tokens = max(self.call_tokens, num_tokens + 1)
        elif seconds > CALL_S and num_tokens <= self.call_tokens:
            self.call_tokens = max(1, num_tokens - 1)

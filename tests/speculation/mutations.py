"""Each guard of the protocol, taken out: the schedules must then turn red (`schedules --mutate all`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from dsdnode.speculation import digest
from dsdnode.speculation.acceptance import JudgeDraw
from dsdnode.speculation.actions import ReleaseSequence, TruncateSequence
from dsdnode.speculation.owner import timer
from dsdnode.speculation.owner.drafting import DraftPlanner
from dsdnode.speculation.owner.session import SessionMachine
from dsdnode.speculation.stage import judge
from dsdnode.speculation.stage.cache import BranchCache, Fate
from dsdnode.speculation.stage.judge import Judge
from dsdnode.speculation.stage.known import KnownLine
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.speculation.stage.phases import Phase

from .mutation import Mutation, always, constant
from .mutations_stream import STREAM


def _fate(change: Callable[[BranchCache, Any, Fate], Fate]) -> tuple[Any, str, Callable[[Any], Any]]:
    def replace(original: Any) -> Any:
        def fate(self: BranchCache, block: Any, before: bytes) -> Any:
            fate, branch = original(self, block, before)
            return change(self, block, fate), branch

        return fate

    return BranchCache, "fate", replace


def _rewrite(original: Any) -> Any:
    """Truncate to the position of the block, then append."""

    def ready(self: BranchCache, block: Any, before: bytes) -> Any:
        branch, actions = original(self, block, before)
        if branch.length > block.position:
            del branch.digests[block.position + 1 :]
            actions = [*actions, TruncateSequence(branch.sequence, block.position)]
        return branch, actions

    return ready


def _accept_without_draw(self: Judge, branch: Any, block: Any, draft: Any, guessed: Any) -> Any:
    start = block.position + block.num_given
    own = [JudgeDraw(branch.draws.get(start + i, token)) for i, token in enumerate(draft)]
    num_accepted = self._acceptance.accept(start, draft, own).count
    branch.decided = start + num_accepted
    return judge.Decision(branch.decided, branch.draws[branch.decided], num_accepted < len(draft))


def _another_line(original: Any) -> Any:
    """Each token is taken for the one behind it."""

    def line(self: KnownLine, branch: Any, block: Any) -> Any:
        told = original(self, branch, block)
        return None if told is None else np.roll(told, 1)

    return line


def _own_closing_only(original: Any) -> Any:
    return lambda self, epoch, parent, base: self._closings.get(epoch)


def _close_all_children(original: Any) -> Any:
    """Children die with the parent wherever they began."""

    def closing_of(self: BranchCache, epoch: int, parent: int, base: int) -> Any:
        return self._closings.get(epoch) or self._closings.get(parent)

    return closing_of


def _free_on_arrival(original: Any) -> Any:
    """The floor counts at once, not when the block that carries it is appended."""

    def on_block(self: StageMachine, now: float, block: Any, *buffers: Any) -> Any:
        if block.route == self._route and self._running is None and not self.is_over:
            return self._cache._raise_floor(block.floor, None) + original(self, now, block, *buffers)
        return original(self, now, block, *buffers)

    return on_block


def _without(kind: type) -> Callable[[Any], Any]:
    """The cache asks for everything but actions of this kind."""

    def change(original: Any) -> Any:
        def ready(self: BranchCache, block: Any, before: bytes) -> Any:
            branch, actions = original(self, block, before)
            return branch, [action for action in actions if not isinstance(action, kind)]

        return ready

    return change


def _failed_run_stays(original: Any) -> Any:
    def on_run_failed(self: StageMachine, now: float) -> Any:
        self._running = None
        self._hears("run over")
        return self._leave() if self.phase is Phase.GONE else self._go_on(now)

    return on_run_failed


def _part_stays(original: Any) -> Any:
    def on_run_failed(self: StageMachine, now: float) -> Any:
        return [action for action in original(self, now) if not isinstance(action, TruncateSequence)]

    return on_run_failed


def _any_epoch(original: Any) -> Any:
    """A verdict of another epoch is taken for one of the main."""

    def current(self: SessionMachine, route: int, epoch: int) -> Any:
        return original(self, route, epoch) or (route == self.route and _running(self, route, epoch)) or None

    return current


def _any_route(original: Any) -> Any:
    return lambda self, route, epoch: original(self, self.route, epoch)


def _running(self: SessionMachine, route: int, epoch: int) -> Any:
    return None if self.finished or self._routing else self._epochs.main


def _timeouts(step: Callable[[int], int | None]) -> Callable[[Any], Any]:
    """`step` says after how many timeouts in a row the owner believes itself to be; None: it never wakes."""

    def change(original: Any) -> Any:
        def tick(self: SessionMachine, now: float) -> Any:
            believed = step(self._timer.num_timeouts)
            if believed is None:
                self._timer.waiting_since_s = now
                return []
            self._timer.num_timeouts = believed
            return original(self, now)

        return tick

    return change


def _believe_all_cached(original: Any) -> Any:
    return lambda self, cached, epoch: min(len(cached), self._epochs.end(epoch))


def _hear_other_routes(original: Any) -> Any:
    def on_block(self: StageMachine, now: float, block: Any, *buffers: Any) -> Any:
        return original(self, now, msgspec.structs.replace(block, route=self._route), *buffers)

    return on_block


def _without_seal(original: Any) -> Any:
    def on_closed(self: StageMachine, now: float, closed: Any) -> Any:
        return original(self, now, msgspec.structs.replace(closed, seal=b""))

    return on_closed


def _no_lease(original: Any) -> Any:
    def on_open(self: StageMachine, now: float, *rest: Any) -> Any:
        length = original(self, now, *rest)
        self._lease_s = self._lease_end_s = 1e9
        return length

    return on_open


_NO_CLOSING = (BranchCache, "close", always(None))
_DUPLICATE_TWICE = (
    _fate(lambda self, block, fate: Fate.APPEND if fate is Fate.DUPLICATE else fate),
    (BranchCache, "ready", _rewrite),
)

MUTATIONS = {
    "digest": Mutation("any digest will do", ((digest, "same", always(True)),)),
    "gap": Mutation(
        "append beyond the length", (_fate(lambda self, block, fate: Fate.APPEND if fate is Fate.WAIT else fate),)
    ),
    "rewrite": Mutation("truncate to the position of the block", _DUPLICATE_TWICE),
    "wait": Mutation(
        "drop what must wait", (_fate(lambda self, block, fate: Fate.DROP if fate is Fate.WAIT else fate),)
    ),
    "closed": Mutation("closed epochs go on", (_NO_CLOSING,)),
    "closing-again": Mutation(
        "late blocks of closed epochs get no answer", ((StageMachine, "_closing_again", always([])),)
    ),
    "closing-seal": Mutation("they get one without the judge's seal", ((StageMachine, "on_closed", _without_seal),)),
    "descendants": Mutation("children beyond a closing live", ((BranchCache, "closing_of", _own_closing_only),)),
    "siblings": Mutation("children before a closing die", ((BranchCache, "closing_of", _close_all_children),)),
    "undecided": Mutation("a source need not be decided", ((BranchCache, "_is_decided", always(True)),)),
    "floor": Mutation(
        "blocks under the floor are not dropped",
        (_fate(lambda self, block, fate: Fate.APPEND if fate is Fate.DROP else fate),),
    ),
    "floor-frees": Mutation("nothing under the floor is freed", ((BranchCache, "_raise_floor", always([])),)),
    "floor-early": Mutation("the floor frees on arrival", ((StageMachine, "on_block", _free_on_arrival),)),
    "in-place": Mutation("never copy", ((BranchCache, "_may_take_over", always(True)),)),
    "truncate": Mutation("take over without truncating", ((BranchCache, "ready", _without(TruncateSequence)),)),
    "release": Mutation("reuse a sequence unreleased", ((BranchCache, "ready", _without(ReleaseSequence)),)),
    "no-draw": Mutation(
        "judge without an own draw",
        ((Judge, "can_judge", always(True)), (Judge, "judge", constant(_accept_without_draw))),
    ),
    "stage-route": Mutation("a stage hears other routes", ((StageMachine, "on_block", _hear_other_routes),)),
    "run-failed": Mutation("a refused run counts as done", ((StageMachine, "on_run_failed", _failed_run_stays),)),
    "run-failed-part": Mutation("what a refused run cached stays", ((StageMachine, "on_run_failed", _part_stays),)),
    "engine-lost": Mutation("the cache is believed after a death", ((BranchCache, "forget", always(None)),)),
    "kept": Mutation("duplicates are not answered", ((StageMachine, "_again", always([])),)),
    "lease": Mutation("no lease", ((StageMachine, "on_open", _no_lease),)),
    "owner-epoch": Mutation("verdicts of any epoch commit", ((SessionMachine, "_current", _any_epoch),)),
    "owner-route": Mutation("verdicts of any route commit", ((SessionMachine, "_current", _any_route),)),
    "nack": Mutation("the owner ignores NACKs", ((SessionMachine, "on_nack", always([])),)),
    "timeouts": Mutation("the owner waits for ever", ((SessionMachine, "tick", _timeouts(lambda count: None)),)),
    "resend": Mutation("nothing is sent again", ((SessionMachine, "tick", _timeouts(lambda count: max(count, 1))),)),
    "bump": Mutation("no new epoch", ((SessionMachine, "tick", _timeouts(lambda count: count + (count == 1))),)),
    "route": Mutation("no new route", ((SessionMachine, "tick", _timeouts(lambda count: min(count, 1))),)),
    "patience": Mutation("the timer never grows", ((timer, "MAX_DOUBLINGS", constant(0)),)),
    "told-line": Mutation("a judge takes other tokens for the line's", ((KnownLine, "line", _another_line),)),
    "draft-cache": Mutation("the draft cache is believed right", ((DraftPlanner, "_num_common", _believe_all_cached),)),
} | STREAM

SECOND_LINES = {
    "owner-route": "owner-epoch",
    "bump": "nack",
}
"""Guards behind another one, whose loss shows only when that one is taken out as well."""

"""Guards of the stream, of hedges and of conversations, taken out (mutations.py has the others)."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from dsdnode.speculation.actions import DraftToken
from dsdnode.speculation.owner.drafting import DraftPlanner
from dsdnode.speculation.owner.epochs import Epochs
from dsdnode.speculation.owner.session import SessionMachine
from dsdnode.speculation.stage.cache import BranchCache
from dsdnode.speculation.stage.machine import StageMachine

from .mutation import Mutation, always


def _in_the_same_epoch(original: Any) -> Any:
    """What follows a rejection or a loss goes out in the epoch that it happened to."""

    def begin(self: Epochs, parent: int, base: int) -> Any:
        epoch = original(self, parent, base)
        if parent:
            epoch.number, epoch.parent = parent, 0
        return epoch

    return begin


def _hedges_live(original: Any) -> Any:
    def commit(self: Epochs, token: int) -> None:
        hedges = list(self.hedges)
        original(self, token)
        for hedge in hedges:
            if hedge not in self.live:
                del hedge.draft_tokens[:1]
                self.hedges.append(hedge)

    return commit


def _floor_of_the_main(original: Any) -> Any:
    def send(self: Epochs, now: float, epoch: Any, *rest: Any) -> Any:
        action = original(self, now, epoch, *rest)
        floor = min(epoch.number, max(other.number for other in self.live))
        changed = dataclasses.replace(action, block=msgspec.structs.replace(action.block, floor=floor))
        epoch.flights[-1] = dataclasses.replace(epoch.flights[-1], action=changed)
        return changed

    return send


def _draft_tokens_of_another_line(original: Any) -> Any:
    def answered(self: DraftPlanner, draft_tokens: Any) -> None:
        asked, digest = self.asked, self._digest
        assert asked is not None
        self._digest = lambda epoch, length: asked.digest if length == asked.start else digest(epoch, length)  # type: ignore[method-assign]
        try:
            original(self, draft_tokens)
        finally:
            del self._digest

    return answered


def _draft_cache_outlives(original: Any) -> Any:
    def died(self: DraftPlanner) -> None:
        cached = [list(digests) for digests in self._cached]
        original(self)
        self._cached = cached

    return died


def _whose_run_it_was(original: Any) -> Any:
    """Draws of a run that began in the reply before are kept for this one."""

    def on_output(self: StageMachine, *arguments: Any, **more: Any) -> Any:
        if self._running is not None:
            self._running = (*self._running[:2], self._judge)
        return original(self, *arguments, **more)

    return on_output


def _parked_hears(original: Any) -> Any:
    def on_park(self: StageMachine, *arguments: Any) -> None:
        route = self._messages.route
        original(self, *arguments)
        self._messages.route = route

    return on_park


def _numbered_anew(original: Any) -> Any:
    return lambda self: dataclasses.replace(original(self), epoch=0)


def _line_lives(original: Any) -> Any:
    def commit(self: Epochs, token: int) -> None:
        main = self.main
        original(self, token)
        if main is not None and self.main is None:
            main.draft_tokens, self.main = [], main

    return commit


def _known_does_not_matter(original: Any) -> Any:
    """Draft tokens behind others that were wrong, as was decided meanwhile, are taken."""

    def answered(self: DraftPlanner, draft_tokens: tuple[DraftToken, ...]) -> None:
        asked = self.asked
        assert asked is not None
        epoch = asked.epoch if asked.epoch in self._epochs.live else self._epochs.main
        end = self._epochs.end(epoch) if epoch is not None else 0
        if epoch is not None and end >= asked.start and self._digest(epoch, asked.start) == asked.digest:
            known = self._epochs.tokens(epoch, asked.start, end)
            right = [
                dataclasses.replace(draft_token, token=token)
                for draft_token, token in zip(draft_tokens, known, strict=False)
            ]
            draft_tokens = (*right, *draft_tokens[len(right) :])
        original(self, draft_tokens)

    return answered


def _run_of_any_route(original: Any) -> Any:
    """What a run gives is passed on though its route is no more."""

    def on_output(self: StageMachine, *arguments: Any, **more: Any) -> Any:
        assert self._running is not None
        arrival, branch, judge = self._running
        block = msgspec.structs.replace(arrival.block, route=self._route)
        self._running = (dataclasses.replace(arrival, block=block), branch, judge)
        return original(self, *arguments, **more)

    return on_output


STREAM = {
    "new-epoch": Mutation("an epoch is rewritten", ((Epochs, "begin", _in_the_same_epoch),)),
    "line-lives": Mutation("a line that is wrong lives on", ((Epochs, "commit", _line_lives),)),
    "hedges-live": Mutation("hedges that are wrong live on", ((Epochs, "commit", _hedges_live),)),
    "hedge-nack": Mutation("a refused hedge lives on", ((Epochs, "drop", always([])),)),
    "hedge-floor": Mutation("the floor is the newest epoch's", ((Epochs, "send", _floor_of_the_main),)),
    "draft-line": Mutation(
        "draft tokens for another line are taken", ((DraftPlanner, "answered", _draft_tokens_of_another_line),)
    ),
    "draft-known": Mutation(
        "draft tokens behind a wrong one are taken", ((DraftPlanner, "answered", _known_does_not_matter),)
    ),
    "draft-lost": Mutation(
        "the draft cache is believed after a death", ((DraftPlanner, "died", _draft_cache_outlives),)
    ),
    "run-route": Mutation("runs of another route are passed on", ((StageMachine, "on_output", _run_of_any_route),)),
    "turn-draws": Mutation("draws serve the next reply too", ((BranchCache, "forget_draws", always(None)),)),
    "turn-run": Mutation("draws of a run of the reply before count", ((StageMachine, "on_output", _whose_run_it_was),)),
    "park-route": Mutation("a parked session hears its old route", ((StageMachine, "on_park", _parked_hears),)),
    "carried-epoch": Mutation("epochs are numbered anew", ((SessionMachine, "carry", _numbered_anew),)),
}

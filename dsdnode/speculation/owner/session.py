"""The owner of a reply: numbers the epochs, sends blocks, commits what the judge decides. Speculation section 4.

    routing  --on_route-->  running  --NeedRoute-->  routing ...      any  --Finish-->  finished

While running, what the pipeline lacks of the line goes out in the main epoch as given tokens, in chunks, and behind it
draft tokens, as the window controller's plan says: a round's with the last given token, then none until the verdict; a
stream's in blocks, ahead of the verdicts; hedges beside the main epoch (epochs.py), where drafting.py sees a use. A
verdict is cumulative: it commits the accepted draft tokens and the judge's own token after them. A new main epoch
begins

    after a rejection      with the correction; its parent is the epoch judged (or a hedge had it: that one goes on)
    after a NACK           at the length that the stage has (if a block in flight begins there it is sent again instead)
    after the 2nd timeout  at the first block unanswered (after the 1st these are sent again, the 3rd asks for a route)
    on a new route         at the shortest length that all its stages still have, whichever epoch they have it from

and every block carries the lowest live epoch as floor. Verdicts and NACKs of other epochs or routes are ignored, so
an old epoch never commits.
"""

from __future__ import annotations

from collections.abc import Sequence

from dsdnode.cost import PipelineCost
from dsdnode.speculation import seal
from dsdnode.speculation.actions import MAX_BRANCHES, DraftToken, Emit, Finish, NeedRoute, SessionAction, Tokens
from dsdnode.speculation.controller import WindowController
from dsdnode.speculation.digest import CommittedLine
from dsdnode.speculation.events import EventLog, PassEvent
from dsdnode.speculation.owner.drafting import DraftPlanner
from dsdnode.speculation.owner.epochs import Epochs, Flight, OwnEpoch
from dsdnode.speculation.owner.flow import Flow
from dsdnode.speculation.owner.ngrams import NgramIndex
from dsdnode.speculation.owner.prefill import Prefill
from dsdnode.speculation.owner.timer import RetransmissionTimer
from dsdnode.speculation.plan import Continuation, Plan, SessionConfig
from dsdnode.wire.guesses import Guesses
from dsdnode.wire.logprobs import TokenLogprobs
from dsdnode.wire.messages import Nack, Verdict

__all__ = ["MAX_NACKS", "SessionConfig", "SessionMachine"]

MAX_NACKS = 8
"""In a row, without a verdict: then the stage that refuses is suspected. The same of those that lack what was judged on
this route, without a verdict on more: where one spoils some of the blocks, the same positions are judged for ever."""


class SessionMachine:
    """One reply. Every event returns the actions to carry out, in order; after Finish every event returns []."""

    def __init__(self, config: SessionConfig, prompt: Tokens, window: WindowController, *, drafter: bool) -> None:
        """`prompt`: at least one token (resumed: with the tokens so far). `drafter`: a draft engine is there."""
        carried = config.carried
        assert prompt and config.chunk_positions <= 1024
        self.log = EventLog(len(prompt))
        """log.statistics() is what `run --json` shows."""
        self.route = carried.route
        """Of the current route, or of the one asked for last."""
        self.finished: str | None = None
        """Reason of Finish, once it was given."""
        self._config = config
        self._window = window
        self._line = CommittedLine(config.secret, prompt)
        self._epochs = Epochs(self._line, config.session, MAX_BRANCHES, carried.epoch)
        num_prompt = len(prompt) - config.num_resumed
        self._drafts = DraftPlanner(
            self._epochs,
            MAX_BRANCHES,
            alive=drafter,
            cached=carried.cached,
            shaping=config.shaping,
            num_prompt=num_prompt,
            ngrams=NgramIndex(self._line.tokens, config.least_match) if config.least_match else None,
            guesses=config.guesses,
        )
        self._wanted_length = len(prompt) + config.max_tokens
        self._max_length = min(self._wanted_length, config.max_positions)
        self._prefill = Prefill(num_prompt, config.chunk_positions, fixed=config.fixed_chunks)
        self._flow = Flow(self._epochs, self._drafts, self._prefill, self._max_length)
        self._full = "context" if self._max_length == config.max_positions else "length"
        self._routing = True
        self._timer = RetransmissionTimer(config.pass_timeout_s, config.position_timeout_s)
        self._num_nacks = 0
        self._num_judged = 0
        """How far the verdicts of this route have come."""
        self._num_lacking = 0
        """Nacks of stages that have less, since it came so far."""
        self._last_nack: Nack | None = None
        self._depth = 0
        """Draft tokens in a row that were right."""

    @property
    def tokens(self) -> Tokens:
        """Prompt and reply so far."""
        return tuple(self._line.tokens)

    def carry(self) -> Continuation:
        """For the next reply of the session, once this one is finished."""
        return Continuation(self.route + 1, self._epochs.number, self._drafts.held())

    def next_wakeup(self) -> float | None:
        """When `tick` must be called at the latest; ask again after every event."""
        main = self._epochs.main
        if self.finished or self._routing or main is None or not main.flights:
            return None
        return self._timer.ends_s(main.flights[-1].end - main.flights[0].start)

    @property
    def unanswered(self) -> tuple[int, int] | None:
        """Epoch and end of the block that was waited for in vain and sent again; None while all is well."""
        main = self._epochs.main
        if self.finished or self._routing or main is None or not main.flights or not self._timer.num_timeouts:
            return None
        return main.number, main.flights[0].end

    @property
    def num_timeouts(self) -> int:
        """In a row."""
        return self._timer.num_timeouts

    @property
    def num_in_flight(self) -> int:
        """Positions."""
        return sum(flight.num_positions for epoch in self._epochs.live for flight in epoch.flights)

    @property
    def num_answered(self) -> int:
        """Verdicts so far: each is a step forward, also where it only says that some of the prompt was read."""
        return self._timer.num_answers

    # --- events ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[SessionAction]:
        """First event. Asks for a route."""
        self.log.start(now)
        if len(self._line) >= self._max_length:
            return self._finish(self._full)
        return [NeedRoute(self.route, "start", (), self._line.open_digests())]

    def on_route(
        self,
        now: float,
        route: int,
        lengths: Sequence[int],
        costs: PipelineCost | None = None,
        first_costs: PipelineCost | None = None,
        max_positions: int | None = None,
    ) -> list[SessionAction]:
        """All stages of `route` answered Opened, with these lengths. Not the route asked for last: ignored.

        `first_costs`, else `costs`, decide how the prompt is cut. `max_positions`: that this route has room for; None:
        as the configuration says.
        """
        if self.finished or not self._routing or route != self.route:
            return []
        self._routing = False
        if max_positions is not None:
            self._max_length = self._flow.max_length = min(self._wanted_length, max_positions)
            self._full = "context" if self._max_length == max_positions else "length"
            if len(self._line) >= self._max_length:
                return self._finish(self._full)
        self._timer.begin_route()
        if costs is not None:
            self._window.on_route(costs)
        base = self._num_judged = self._epochs.begin(0, min(lengths)).base
        self._num_lacking = 0
        self.log.opened(base)
        self._prefill.begin_route(base, len(lengths), first_costs or costs)
        return self._go_on(now)

    def on_draft(self, now: float, draft_tokens: tuple[DraftToken, ...]) -> list[SessionAction]:
        """Answer to the outstanding Draft."""
        asked = self._drafts.asked
        if self.finished or asked is None:
            return []
        if len(asked.draft.tokens) == 1 and draft_tokens:
            seconds = now - asked.asked_s
            self._flow.called(len(draft_tokens), seconds)
            self._window.on_draft(len(draft_tokens), seconds)
        self._drafts.answered(draft_tokens)
        return self._go_on(now)

    def on_drafter_lost(self, now: float) -> list[SessionAction]:
        """The draft engine died with its cache; an outstanding Draft will not be answered. Window 0 from here."""
        self._drafts.died()
        return self._go_on(now)

    def on_drafter_back(self, now: float) -> list[SessionAction]:
        """The draft engine is there again, empty."""
        self._drafts.died()
        self._drafts.alive = True
        return self._go_on(now)

    def on_verdict(
        self, now: float, verdict: Verdict, logprobs: tuple[TokenLogprobs, ...] = (), guesses: Guesses | None = None
    ) -> list[SessionAction]:
        """Cumulative: it answers every block up to `decided`, and commits when it decides past the line. `logprobs`: of
        the last positions up to there; where too few came that should, or others than of what is to be committed, it
        is as if it had been lost. `guesses`: at what stands behind its own token."""
        epoch = self._current(verdict.route, verdict.epoch)
        if epoch is None or verdict.token >= self._config.vocab_size or verdict.decided > epoch.sent:
            return []
        judged = next((flight for flight in epoch.flights if flight.end >= verdict.decided), None)
        told = self._told(verdict, epoch, logprobs)
        if judged is None or told is None:
            return []
        left = [flight for flight in epoch.flights if flight.end > verdict.decided]
        if len(left) == len(epoch.flights) and verdict.decided < len(self._line):
            return []  # it answers nothing: said again and again, it would pass for a judge at work
        epoch.flights = left
        self._timer.answered(now, judged.sent_s)
        self._num_nacks, self._last_nack = 0, None
        if verdict.decided > self._num_judged:
            self._num_lacking, self._num_judged = 0, verdict.decided
        if verdict.decided < len(self._line):
            return self._go_on(now)
        actions = self._commit(now, verdict, epoch, judged, told)
        if self.finished is None and self._epochs.main is None:
            self._epochs.begin(verdict.epoch, verdict.decided)
        if guesses is not None and len(self._line) == verdict.decided + 1:
            self._window.on_guesses(len(guesses.tokens), guesses.spent_ms / 1000)
            self._drafts.guessed(guesses.tokens)
        return actions + self._go_on(now)

    def is_sealed(self, verdict: Verdict, judge: bytes) -> bool:
        """Is it a closing of this `judge` (a peer id), whichever stage repeats it, that decides something?

        What it decided once it decides no more: said again and again it would pass for a judge at work."""
        digest = self.decided(verdict)
        key = seal.key_for(self._config.secret, verdict.route, judge)
        return digest is not None and seal.fits(key, verdict, digest)

    def decided(self, verdict: Verdict) -> bytes | None:
        """The digest of all that is before the place that it decides; None: it decides none that is open."""
        epoch = self._current(verdict.route, verdict.epoch)
        if epoch is None or not len(self._line) <= verdict.decided <= epoch.sent:
            return None
        return self._epochs.digest_at(epoch, verdict.decided)

    def on_nack(self, now: float, nack: Nack) -> list[SessionAction]:
        epoch = self._current(nack.route, nack.epoch)
        if epoch is None or not epoch.flights or nack == self._last_nack:
            return []  # each block that waited in vain says the same: once is enough, the timeout is behind it
        if nack.length >= epoch.flights[-1].end and self._timer.num_timeouts == 0:
            return []  # a network's duplicate, whose output the stage no longer keeps: nothing is missing
        self._last_nack = nack
        self._num_nacks += 1
        self._num_lacking += nack.length < self._num_judged
        if max(self._num_nacks, self._num_lacking) > MAX_NACKS:
            return self._ask_route("nack", (nack.index,))
        if any(flight.start == nack.length for flight in epoch.flights):
            return [*epoch.again(nack.length)]
        if epoch is not self._epochs.main:
            return [*self._epochs.drop(epoch, nack.length), *self._go_on(now)]
        return self._recover(now, min(nack.length, epoch.flights[0].start))

    def on_session_lost(self, now: float, index: int) -> list[SessionAction]:
        """Stage `index` of the current route does not know the session (the driver checks sender and route)."""
        return self._leave_route("session_lost", (index,))

    def on_peer_lost(self, now: float, suspects: Sequence[int], reason: str = "peer_lost") -> list[SessionAction]:
        """These stages of the current route do not answer pings, cannot be reached, or ("straggler") are too slow."""
        return self._leave_route(reason, suspects)

    def on_link_broken(self, now: float) -> list[SessionAction]:
        """A connection to a stage of the route has ended, and the stage is there: what was on its way may be lost."""
        main = self._epochs.main
        if self.finished or self._routing or main is None:
            return []
        return [flight.action for flight in main.flights]

    def tick(self, now: float) -> list[SessionAction]:
        """Timers: resend, then a new epoch, then another route."""
        wakeup = self.next_wakeup()
        if wakeup is None or now < wakeup:
            return []
        main = self._epochs.main
        assert main is not None
        self._window.on_failure()
        num_timeouts = self._timer.ran_out(now)
        if num_timeouts == 1:
            return [flight.action for flight in main.flights]
        if num_timeouts == 2:
            return self._recover(now, main.flights[0].start)
        return self._ask_route("timeout", ())

    def cancel(self, now: float, reason: str) -> list[SessionAction]:
        """Client gone, stop string seen, no pipeline: Finish(reason)."""
        return [] if self.finished else self._finish(reason)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _current(self, route: int, epoch: int) -> OwnEpoch | None:
        if self.finished or self._routing or route != self.route:
            return None
        return self._epochs.get(epoch)

    def _go_on(self, now: float) -> list[SessionAction]:
        """Send what may be sent, draft what may be drafted."""
        if self.finished or self._routing:
            return []
        plan = self._flow.plan(self._window)
        if not plan.copied:
            self.log.planned(now, plan)
        if self._epochs.num_flights == 0:
            self._timer.waiting_since_s = now
        actions = self._blocks(now, plan)
        draft = self._flow.draft(now, plan)
        if draft is None:
            return actions
        return [*actions, draft, *self._blocks(now, plan)]  # a new hedge may leave before the drafter goes on with it

    def _blocks(self, now: float, plan: Plan) -> list[SessionAction]:
        num_guesses = self._window.guesses() if self._config.guesses else 0
        sent = list(self._flow.blocks(now, self.route, plan, num_guesses))
        for one in sent:
            self.log.sent(one.block.num_draft)
        return [*sent]

    def _told(
        self, verdict: Verdict, epoch: OwnEpoch, logprobs: tuple[TokenLogprobs, ...]
    ) -> tuple[TokenLogprobs, ...] | None:
        """Those of the tokens that it would commit, if they are asked for. None: these are not among them."""
        position = len(self._line)
        if not self._config.logprobs or verdict.decided < position:
            return ()
        tokens = (*self._epochs.tokens(epoch, position, verdict.decided), verdict.token)
        told = logprobs[max(0, len(logprobs) - len(tokens)) :]
        return told if tuple(one.token for one in told) == tokens else None

    def _commit(
        self, now: float, verdict: Verdict, epoch: OwnEpoch, judged: Flight, told: tuple[TokenLogprobs, ...]
    ) -> list[SessionAction]:
        """The accepted draft tokens and the judge's own token behind them, up to the end of the reply if that is
        there. `told`: of each of them, if they are asked for."""
        position = len(self._line)
        tokens: Tokens = self._epochs.tokens(epoch, position, verdict.decided)
        if not (self._config.relaxed and judged.end == verdict.decided < epoch.sent):
            tokens = (*tokens, verdict.token)
        tokens = tokens[: self._max_length - position]
        stop = next((i for i, token in enumerate(tokens) if token in self._config.end_tokens), len(tokens))
        outcome, main = self._drafts.judge(tokens[:stop]), self._epochs.main
        num_sent = 0 if main is None else max(0, main.sent - position)
        for token in tokens[:stop]:
            self._epochs.commit(token)
        rejected = outcome.num_judged > outcome.num_accepted
        event = PassEvent(
            verdict.epoch,
            position,
            num_positions=judged.num_positions,
            num_judged=outcome.num_judged,
            num_accepted=outcome.num_accepted,
            num_committed=stop,
            sent_s=judged.sent_s,
            judged_s=now,
            stage_s=tuple(value / 1000 for value in verdict.stage_ms),
            waited_s=tuple(value / 1000 for value in verdict.waited_ms),
            queue=verdict.queue,
            num_draft=judged.action.block.num_draft,
            depth=self._depth,
            confidences=outcome.confidences,
            covered=rejected and self._epochs.main not in (None, main),
            num_relaxed=sum(position <= place < len(self._line) for place in verdict.relaxed),
            alone=judged.alone,
            window=judged.plan.window,
            mode=judged.plan.mode,
            copied=judged.plan.copied,
            num_copied=outcome.num_copied,
            num_copied_right=outcome.num_copied_right,
            num_guessed=outcome.num_guessed,
            num_guessed_right=outcome.num_guessed_right,
        )
        self._depth = 0 if rejected else self._depth + outcome.num_accepted
        self.log.judged(event, num_sent)
        self._window.on_verdict(event)
        num_accepted = min(outcome.num_accepted, num_sent)
        actions: list[SessionAction] = [Emit(tokens[:stop], num_accepted, told[:stop])] if stop else []
        if stop < len(tokens):
            return actions + self._finish("stop")
        return actions + self._finish(self._full) if len(self._line) == self._max_length else actions

    def _recover(self, now: float, base: int) -> list[SessionAction]:
        main = self._epochs.main
        assert main is not None
        self.log.recovered()
        self._epochs.begin(main.number, base)
        return self._go_on(now)

    def _leave_route(self, reason: str, suspects: Sequence[int]) -> list[SessionAction]:
        return [] if self.finished or self._routing else self._ask_route(reason, suspects)

    def _ask_route(self, reason: str, suspects: Sequence[int]) -> list[SessionAction]:
        self.log.recovered()
        self.route += 1
        self._routing = True
        return [NeedRoute(self.route, reason, tuple(suspects), self._line.open_digests())]

    def _finish(self, reason: str) -> list[SessionAction]:
        self.finished = reason
        return [Finish(reason)]

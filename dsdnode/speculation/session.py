"""The owner of a reply: numbers the epochs, sends blocks, commits what the judge decides. Speculation section 4.

    routing  --on_route-->  running  --NeedRoute-->  routing ...      any  --Finish-->  finished

While running, the line is sent up to `sent` in the current epoch; what the pipeline lacks of it goes out as given
tokens, in chunks; the last token goes with a draft behind it (a round) and waits for its verdict. A verdict commits the
accepted draft and the judge's own token after it. A new epoch begins

    after a rejection      at the first wrong token; its parent is the epoch that was rejected
    after a NACK           at the length that the stage has (if a block in flight begins there it is sent again instead)
    after the 2nd timeout  at the first block unanswered (after the 1st these are sent again, the 3rd asks for a route)
    on a new route         at the shortest length that all its stages still have, whichever epoch they have it from

and every block carries its own epoch as floor: this owner has one line of guesses. Verdicts and NACKs of another epoch
or route are ignored, so an old epoch never commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsdnode.speculation.actions import Emit, Finish, NeedRoute, SendBlock, SessionAction, Tokens
from dsdnode.speculation.events import EventLog, PassEvent
from dsdnode.speculation.line import Drafting, Flight, Line
from dsdnode.speculation.window import Plan, WindowController
from dsdnode.wire.messages import Block, Nack, Verdict

MAX_DOUBLINGS = 5
MAX_NACKS = 8
"""In a row, without a verdict: then the stage that refuses is suspected."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """`secret` (16+ random bytes) keys the digests; `session` is the random id. `max_positions` caps prompt + reply."""

    session: bytes
    secret: bytes
    max_tokens: int
    max_positions: int
    vocab_size: int
    end_tokens: frozenset[int] = frozenset()
    chunk_positions: int = 256
    prefill_blocks: int = 4
    """Chunks of the prompt in flight at once: they need no verdict, so they may fill the pipeline."""
    pass_timeout_s: float = 4.0
    position_timeout_s: float = 0.05
    """A pass may take pass_timeout_s + position_timeout_s * positions in flight before it counts as lost."""


class SessionMachine:
    """One reply. Every event returns the actions to carry out, in order; after Finish every event returns []."""

    def __init__(self, config: SessionConfig, prompt: Tokens, window: WindowController, *, drafter: bool) -> None:
        """`prompt`: at least one token (resumed: with the tokens so far). `drafter`: a draft engine is there."""
        assert prompt and config.chunk_positions <= 1024
        self.log = EventLog(len(prompt))
        """log.statistics() is what `run --json` shows."""
        self.route = 0
        """Of the current route, or of the one asked for last."""
        self.finished: str | None = None
        """Reason of Finish, once it was given."""
        self._config = config
        self._window = window
        self._line = Line(config.secret, prompt)
        self._drafting = Drafting(drafter)
        self._max_length = min(len(prompt) + config.max_tokens, config.max_positions)
        self._full = "context" if self._max_length == config.max_positions else "length"
        self._routing = True
        self._epoch, self._parent, self._base, self._sent = 0, 0, 0, 0
        self._flights: list[Flight] = []
        self._waiting_since_s = 0.0
        self._num_timeouts = 0
        """In a row on this route: what to do next."""
        self._num_setbacks = 0
        """Timeouts less verdicts, over all routes: each doubles the patience, or a slow pipeline is never heard."""
        self._slow_pass_s = 0.0
        """The slowest pass of late: a pipeline that is slower than the configured timeout is not a dead one."""
        self._num_nacks = 0
        self._last_nack: Nack | None = None

    @property
    def tokens(self) -> Tokens:
        """Prompt and reply so far."""
        return tuple(self._line.tokens)

    def next_wakeup(self) -> float | None:
        """When `tick` must be called at the latest; ask again after every event."""
        if not self._flights:
            return None
        work_s = self._config.position_timeout_s * (self._flights[-1].end - self._flights[0].start)
        usual_s = min(2 * self._slow_pass_s, 8 * self._config.pass_timeout_s)
        patience_s = max(self._config.pass_timeout_s, usual_s) + work_s
        return self._waiting_since_s + patience_s * 2.0 ** min(self._num_setbacks, MAX_DOUBLINGS)

    # --- events ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[SessionAction]:
        """First event. Asks for route 0."""
        self.log.start(now)
        if len(self._line) >= self._max_length:
            return self._finish(self._full)
        return [NeedRoute(0, "start", (), self._line.open_digests())]

    def on_route(self, now: float, route: int, lengths: Sequence[int]) -> list[SessionAction]:
        """All stages of `route` answered Opened, with these lengths. Not the route asked for last: ignored."""
        if self.finished or not self._routing or route != self.route:
            return []
        self._routing, self._num_timeouts = False, 0
        self._begin_epoch(0, min(lengths))
        return self._go_on(now)

    def on_route_failed(self, now: float, route: int, suspects: Sequence[int] = ()) -> list[SessionAction]:
        """Some stage did not open: asks for another route. (No pipeline at all: call `cancel`.)"""
        if self.finished or not self._routing or route != self.route:
            return []
        return self._ask_route("peer_lost", suspects)

    def on_draft(self, now: float, tokens: Tokens) -> list[SessionAction]:
        """Answer to the outstanding Draft."""
        if self.finished or not self._drafting.outstanding:
            return []
        self._drafting.answered(self._line, tokens)
        return self._go_on(now)

    def on_drafter_lost(self, now: float) -> list[SessionAction]:
        """The draft engine died with its cache; an outstanding Draft will not be answered. Window 0 from here."""
        self._drafting.died()
        return self._go_on(now)

    def on_drafter_back(self, now: float) -> list[SessionAction]:
        """The draft engine is there again, empty."""
        self._drafting.died()
        self._drafting.alive = True
        return self._go_on(now)

    def on_verdict(self, now: float, verdict: Verdict) -> list[SessionAction]:
        """Cumulative: it answers every block up to `decided`, and commits when it decides past the line."""
        if not self._is_current(verdict.route, verdict.epoch) or verdict.token >= self._config.vocab_size:
            return []
        length, decided = len(self._line), verdict.decided
        answered = self._flights if decided >= length else [item for item in self._flights if item.end <= decided]
        if not answered or decided > self._flights[-1].end:
            return []
        self._flights = [item for item in self._flights if item not in answered]
        self._waiting_since_s, self._num_timeouts, self._num_nacks = now, 0, 0
        self._num_setbacks, self._last_nack = max(0, self._num_setbacks - 1), None
        self._slow_pass_s = max(now - answered[0].sent_s, 0.9 * self._slow_pass_s)
        if decided < length:
            return self._go_on(now)
        actions = self._commit(now, verdict, answered[-1], decided - length)
        if decided < answered[-1].end:
            self._begin_epoch(self._epoch, decided)
        self._sent = decided
        return actions + self._go_on(now)

    def on_nack(self, now: float, nack: Nack) -> list[SessionAction]:
        if not self._is_current(nack.route, nack.epoch) or not self._flights:
            return []
        if nack.length >= self._flights[-1].end and self._num_timeouts == 0:
            return []  # a network's duplicate, whose output the stage no longer keeps: nothing is missing
        if nack == self._last_nack:
            return []  # each block that waited in vain says so: once is enough, the timeout is behind it
        self._last_nack = nack
        self._num_nacks += 1
        if self._num_nacks > MAX_NACKS:
            return self._ask_route("nack", (nack.index,))
        if any(flight.start == nack.length for flight in self._flights):
            return [flight.action for flight in self._flights if flight.start >= nack.length]
        return self._recover(now, min(nack.length, self._flights[0].start))

    def on_session_lost(self, now: float, index: int) -> list[SessionAction]:
        """Stage `index` of the current route does not know the session (the driver checks sender and route)."""
        return self._leave_route("session_lost", (index,))

    def on_peer_lost(self, now: float, suspects: Sequence[int]) -> list[SessionAction]:
        """These stages of the current route do not answer pings, or cannot be reached."""
        return self._leave_route("peer_lost", suspects)

    def tick(self, now: float) -> list[SessionAction]:
        """Timers: resend, then a new epoch, then another route."""
        wakeup = self.next_wakeup()
        if self.finished or wakeup is None or now < wakeup:
            return []
        self._window.on_failure()
        self._num_timeouts += 1
        self._num_setbacks += 1
        self._waiting_since_s = now
        if self._num_timeouts == 1:
            return [flight.action for flight in self._flights]
        if self._num_timeouts == 2:
            return self._recover(now, self._flights[0].start)
        return self._ask_route("timeout", ())

    def cancel(self, now: float, reason: str) -> list[SessionAction]:
        """Client gone, stop string seen, no pipeline: Finish(reason)."""
        return [] if self.finished else self._finish(reason)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _is_current(self, route: int, epoch: int) -> bool:
        return not self.finished and not self._routing and route == self.route and epoch == self._epoch

    def _begin_epoch(self, parent: int, base: int) -> None:
        """The next number; the line is sent in it from `base` on, its last token at least."""
        self._base = min(base, len(self._line) - 1)
        self._parent = parent if self._base else 0
        self._epoch += 1
        self._sent = self._base
        self._flights = []

    def _go_on(self, now: float) -> list[SessionAction]:
        """Send what may be sent: the given tokens that the pipeline lacks, the last of them with a draft."""
        actions: list[SessionAction] = []
        while not self._must_wait():
            plan = self._plan()
            num_left = len(self._line) - self._sent
            wants_draft = plan.block > 0 and self._drafting.can_ask(self._line)
            draft = self._drafting.guesses(self._line)[: plan.block] if num_left <= self._config.chunk_positions else ()
            if num_left == 1 and not self._flights and not draft and (wants_draft or self._drafting.outstanding):
                return [*actions, self._drafting.ask(self._line, plan.block)] if wants_draft else actions
            actions.append(self._send(now, min(num_left, self._config.chunk_positions), draft, plan))
            if wants_draft and not draft and self._sent == len(self._line):
                # The engine reads the prompt while the pipeline does; one guess more, for the judge's own token.
                actions.append(self._drafting.ask(self._line, plan.block + 1))
        return actions

    def _must_wait(self) -> bool:
        """One draft in flight, everything sent, or as many chunks in flight as may be."""
        if self.finished or self._routing or self._sent == len(self._line):
            return True
        return len(self._flights) >= self._config.prefill_blocks or any(item.draft for item in self._flights)

    def _plan(self) -> Plan:
        """The controller's plan, without guesses that there is no room for."""
        plan = self._window.plan()
        room = self._max_length - len(self._line) - 1
        return plan if plan.block <= room else Plan(plan.mode, room, room)

    def _send(self, now: float, num_given: int, draft: Tokens, plan: Plan) -> SendBlock:
        start, end = self._sent, self._sent + num_given
        place = (self._config.session, self.route, self._epoch, self._parent, self._base, start)
        deadline_ms = self._config.pass_timeout_s * 1000
        block = Block(*place, num_given, len(draft), floor=self._epoch, deadline_ms=deadline_ms)
        digests = self._line.block_digests(start, end, draft)
        action = SendBlock(block, digests, (*self._line.tokens[start:end], *draft))
        if not self._flights:
            self._waiting_since_s = now
        self._flights.append(Flight(action, draft, plan, now))
        self._sent = end
        return action

    def _commit(self, now: float, verdict: Verdict, flight: Flight, num_accepted: int) -> list[SessionAction]:
        """The accepted draft and the judge's own token behind it, up to the end of the reply if it is among them."""
        position = len(self._line)
        tokens = (*flight.draft[:num_accepted], verdict.token)[: self._max_length - position]
        stop = next((i for i, token in enumerate(tokens) if token in self._config.end_tokens), len(tokens))
        for token in tokens[:stop]:
            self._line.commit(token)
        self._drafting.follow(self._line)
        num_accepted = min(num_accepted, stop)
        event = PassEvent(
            verdict.epoch,
            position,
            num_drafted=len(flight.draft),
            num_accepted=num_accepted,
            num_committed=stop,
            sent_s=flight.sent_s,
            judged_s=now,
            stage_s=tuple(value / 1000 for value in verdict.stage_ms),
            window=flight.plan.window,
            mode=flight.plan.mode,
        )
        self.log.judged(event)
        self._window.on_verdict(event)
        actions: list[SessionAction] = [Emit(tokens[:stop], num_accepted)] if stop else []
        if stop < len(tokens):
            return actions + self._finish("stop")
        return actions + self._finish(self._full) if len(self._line) == self._max_length else actions

    def _recover(self, now: float, base: int) -> list[SessionAction]:
        self.log.recovered()
        self._begin_epoch(self._epoch, base)
        return self._go_on(now)

    def _leave_route(self, reason: str, suspects: Sequence[int]) -> list[SessionAction]:
        return [] if self.finished or self._routing else self._ask_route(reason, suspects)

    def _ask_route(self, reason: str, suspects: Sequence[int]) -> list[SessionAction]:
        self.log.recovered()
        self.route += 1
        self._routing = True
        self._flights = []
        return [NeedRoute(self.route, reason, tuple(suspects), self._line.open_digests())]

    def _finish(self, reason: str) -> list[SessionAction]:
        self.finished = reason
        self._flights = []
        return [Finish(reason)]

"""The owner's machine of a reply, under whatever hostile stages may tell it in whatever order.

A case is a seed, as in machines.py. The draft engine is honest; some window controllers copy draft tokens from the
line (speculation/owner/ngrams.py), and some prompts repeat themselves, so that there is something to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import msgspec

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.policies import POLICIES, Terms, policy_of
from dsdnode.speculation import actions as do
from dsdnode.speculation.controller import FixedPlan, WindowController
from dsdnode.speculation.owner import drafting, epochs, flow, ngrams, prefill, session, timer
from dsdnode.speculation.owner.session import SessionConfig, SessionMachine
from dsdnode.speculation.plan import Plan
from dsdnode.speculation.shaping import PLAIN, Shaping
from dsdnode.wire.logprobs import TokenLogprobs
from dsdnode.wire.messages import Block, Nack, Verdict
from tests.fuzz.machines import MAX_EVENTS, POSITIONS, VOCABULARY, play, seed
from tests.fuzz.parser import Parser
from tests.speculation.stages import SESSION

WINDOWS = (*POLICIES, "stream:2:4", "hedged:1:8:2")
TIMES_MS = (0.0, 1.0, 5e-324, 86_400_000.0, 12.5)
OWN = (Plan("plain", 0, 0), Plan("rounds", 3, 3), Plan("stream", 2, 4), Plan("hedged", 1, 4, 2))
COPYING = (Plan("rounds", 4, 4, copied=True), Plan("stream", 2, 8, copied=True), Plan("stream", 1, 1, copied=True))


class Copying(FixedPlan):
    """Copies whatever is there, mostly, each time by another plan."""

    may_copy = True

    def __init__(self, rng: Random) -> None:
        super().__init__(rng.choice(OWN))
        self._rng = rng

    def copying(self, survival: Sequence[float]) -> Plan | None:
        assert survival[0] == 1 and all(0 <= after <= before for before, after in pairwise(survival))
        return self._rng.choice((*COPYING, None))


class HostileStages:
    """Drive one owner's machine with answers to what it sent, mostly; the draft engine is honest."""

    def __init__(self, seed: bytes) -> None:
        self.rng = rng = Random(seed)
        self.num_stages, self.now = rng.choice((1, 2, 3)), 0.0
        self.max_tokens = 12
        self.logprobs = rng.random() < 0.2
        prompt, window = self._prompt(), self._window()
        config = SessionConfig(
            SESSION, b"a secret of alice's", self.max_tokens, POSITIONS * 4, VOCABULARY * 4, frozenset((15,)),
            relaxed=rng.random() < 0.4, chunk_positions=rng.choice((3, 256)), logprobs=self.logprobs,
            num_resumed=rng.choice((0, 0, 1)), least_match=rng.choice((0, 1, 2, 5)),
            shaping=Shaping(presence=0.5, repetition=1.1, last_tokens=3) if rng.random() < 0.2 else PLAIN,
        )  # fmt: skip
        self.machine = SessionMachine(config, prompt, window, drafter=rng.random() < 0.8)
        self.sent: list[Block] = []
        self.tokens_sent: list[do.SendBlock] = []
        self.emitted: list[int] = []
        self.draft: do.Draft | None = None
        self.need: do.NeedRoute | None = None

    def _prompt(self) -> tuple[int, ...]:
        """One half of them repeat themselves."""
        rng = self.rng
        words = tuple(rng.randrange(VOCABULARY) for _ in range(rng.choice((1, 5, 20))))
        return words if rng.random() < 0.5 else (words * 20)[: rng.choice((8, 20))]

    def _window(self) -> WindowController:
        rng = self.rng
        if rng.random() < 0.4:
            return Copying(rng)
        return policy_of(rng.choice(WINDOWS), Terms(rng.choice((0, 1, 8)), model=rng.random() < 0.8))

    def play(self) -> None:
        events: tuple[Callable[[], Any], ...] = (
            self._go_on, self._go_on, self._go_on, self._verdict, self._verdict, self._verdict, self._verdict,
            self._nack, self._tick, self._lost,
        )  # fmt: skip
        self._carry_out(self.machine.start(self.now))
        for _ in range(self.rng.randrange(MAX_EVENTS)):
            self.now += self.rng.choice((0.001, 0.01, 0.3, 3.0))
            events[int(self.rng.random() * len(events))]()
        told = self.machine.log.statistics()
        msgspec.json.encode(told)
        assert told.copied_accepted <= told.copied_judged <= told.judged and told.copied_accepted <= told.accepted
        assert self.machine.num_in_flight >= 0 and (self.machine.unanswered is None or self.machine.num_timeouts)
        assert len(self.emitted) <= self.max_tokens and all(token < VOCABULARY * 4 for token in self.emitted)
        self._carry_out(self.machine.cancel(self.now, "cancelled"))
        assert self.machine.finished and self.machine.next_wakeup() is None

    def _go_on(self) -> None:
        if self.need is not None:
            route, self.need = self.need.route, None
            lengths = [self.rng.choice((0, 0, 1, 3, 1 << 20)) for _ in range(self.num_stages)]
            most = self.rng.choice((None, None, None, 0, 22, POSITIONS * 4))
            self._carry_out(self.machine.on_route(self.now, route, lengths, self._costs(), max_positions=most))
        elif self.draft is not None:
            count, self.draft = self.draft.count, None
            tokens = tuple(self._drafted() for _ in range(count if self.rng.random() < 0.95 else 0))
            self._carry_out(self.machine.on_draft(self.now, tokens))

    def _drafted(self) -> do.DraftToken:
        rng = self.rng
        chance = rng.choice((rng.random(), 0.9, 1.0))
        return do.DraftToken(
            rng.randrange(14), chance, rng.choice((-1, rng.randrange(14))), (1 - chance) * rng.random()
        )

    def _costs(self) -> PipelineCost | None:
        if self.rng.random() < 0.3:
            return None
        lines = tuple(CostLine(self._time_ms() / 1e3, self._time_ms() / 1e3) for _ in range(self.num_stages))
        return PipelineCost(lines, self._time_ms() / 1e3)

    def _time_ms(self) -> float:
        return self.rng.choice(TIMES_MS)

    def _times(self) -> tuple[float, ...]:
        return tuple(self._time_ms() for _ in range(self.rng.choice((self.num_stages, self.num_stages, 0, 1, 5, 64))))

    def _verdict(self) -> None:
        if not self.sent:
            return
        rng, block = self.rng, self.rng.choice(self.sent[-6:])
        end = block.position + block.num_given + block.num_draft
        first = block.position + block.num_given
        decided = rng.choice((end, end, first, first, block.position, end + 1, 0, rng.randrange(1 << 20)))
        epoch = block.epoch if rng.random() < 0.95 else rng.randrange(1 << 40)
        queue = tuple(rng.choice((0, 1, 65536)) for _ in range(rng.choice((self.num_stages, 0, 64))))
        relaxed = tuple(rng.randrange(1 << 20) for _ in range(rng.choice((0, 0, 1, 200))))
        token = rng.choice((rng.randrange(16), self._expected(decided), self._expected(decided), 16, 1 << 24))
        verdict = Verdict(SESSION, block.route, epoch, decided, token, self._times(), self._times(), queue, relaxed)
        self._carry_out(self.machine.on_verdict(self.now, verdict, self._logprobs(decided, token)))

    def _expected(self, position: int) -> int:
        """What a text that repeats itself has there, or any token but the end's."""
        for action in self.tokens_sent:
            if action.block.position <= position < action.block.position + len(action.tokens):
                return action.tokens[position - action.block.position]
        known = self.machine.tokens
        return known[-VOCABULARY] if len(known) >= VOCABULARY else self.rng.randrange(14)

    def _logprobs(self, decided: int, token: int) -> tuple[TokenLogprobs, ...]:
        """Of what would be committed, mostly."""
        if not self.logprobs:
            return ()
        tokens = [*map(self._expected, range(len(self.machine.tokens), min(decided, POSITIONS * 4))), token]
        told = tuple(TokenLogprobs(one, -0.5, ((one, -0.5),)) for one in tokens)
        return told if self.rng.random() < 0.9 else told[: self.rng.randrange(len(told))]

    def _nack(self) -> None:
        if self.sent:
            block = self.rng.choice(self.sent[-6:])
            length = self.rng.choice((0, 1, block.position, block.base, 1 << 20))
            nack = Nack(SESSION, block.route, block.epoch, self.rng.randrange(64), length)
            self._carry_out(self.machine.on_nack(self.now, nack))

    def _tick(self) -> None:
        wakeup = self.machine.next_wakeup()
        if wakeup is not None:
            self.now = max(self.now, wakeup)
        self._carry_out(self.machine.tick(self.now))

    def _lost(self) -> None:
        way, index = self.rng.randrange(6), self.rng.randrange(self.num_stages)
        if way == 0:
            self._carry_out(self.machine.on_session_lost(self.now, index))
        elif way == 1:
            self._carry_out(self.machine.on_peer_lost(self.now, [index]))
        elif way == 2:
            self.draft = None
            self._carry_out(self.machine.on_drafter_lost(self.now))
        elif way == 3:
            self.draft = None
            self._carry_out(self.machine.on_drafter_back(self.now))
        elif way == 4:
            self._carry_out(self.machine.on_link_broken(self.now))

    def _carry_out(self, told: list[do.SessionAction]) -> None:
        for action in told:
            match action:
                case do.SendBlock():
                    assert len(action.digests) == 8 * (action.block.num_given + action.block.num_draft + 1)
                    assert len(action.tokens) == action.block.num_given + action.block.num_draft
                    self.sent.append(action.block)
                    self.tokens_sent = [*self.tokens_sent[-6:], action]
                case do.NeedRoute():
                    self.need = action
                case do.Draft():
                    assert self.draft is None, "two drafts at once"
                    self.draft = action
                case do.Emit():
                    assert action.num_accepted <= len(action.tokens)
                    assert not self.logprobs or tuple(one.token for one in action.logprobs) == action.tokens
                    self.emitted += action.tokens
                case do.Finish():
                    self.draft = self.need = None


PARSERS = (
    Parser(
        "owner-machine", seed, partial(play, HostileStages), (),
        (session, epochs, flow, drafting, ngrams, prefill, timer),
    ),
)  # fmt: skip

"""The two machines of a reply, under whatever a stranger may tell them in whatever order.

A case is a seed: the events that it stands for are right in their types, as the wire has checked them, and near enough
to what makes sense that the machines go on. The stage hears a hostile owner, the owner hostile stages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from random import Random
from typing import Any

import msgspec
import numpy as np

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.errors import PeerMisbehaved
from dsdnode.pacing.policies import POLICIES, Terms, policy_of
from dsdnode.speculation import actions as do
from dsdnode.speculation.acceptance import JudgeDraw, KeyTokens, RelaxedRule
from dsdnode.speculation.owner import drafting, epochs, flow, prefill, session, timer
from dsdnode.speculation.owner.session import SessionConfig, SessionMachine
from dsdnode.speculation.stage import arrivals, judge, machine
from dsdnode.speculation.stage import cache as cache_
from dsdnode.speculation.stage.arrivals import StageLimits
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.messages import Block, Closed, Nack, Verdict
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.speculation.stages import SESSION, digests_of

VOCABULARY, WIDTH, MAX_EVENTS, LEASE_S, NUM_BRANCHES = 4, 4, 60, 60.0, 3
POSITIONS = 24
WINDOWS = (*POLICIES, "stream:2:4", "hedged:1:8:2")
TIMES_MS = (0.0, 1.0, 5e-324, 86_400_000.0, 12.5)


@cache
def digest_line(line: tuple[int, ...]) -> tuple[bytes, ...]:
    return tuple(digests_of(line))


class Cells:
    """The cache of a stage: lengths alone, and what llama.cpp would not take."""

    def __init__(self, num_sequences: int) -> None:
        self.lengths = [0] * num_sequences

    def copy(self, source: int, target: int, position: int) -> None:
        assert source != target and not self.lengths[target], "copied over a sequence in use"
        assert position <= self.lengths[source], "copied more than there is"
        self.lengths[target] = position

    def truncate(self, sequence: int, position: int) -> None:
        self.lengths[sequence] = min(position, self.lengths[sequence])

    def run(self, run: do.RunChunk, length: int) -> None:
        assert run.position == self.lengths[run.sequence], "a run that leaves a gap, or begins before the end"
        self.lengths[run.sequence] += length


class HostileOwner:
    """Drives one stage's machine, and answers for its engine."""

    def __init__(self, seed: bytes) -> None:
        self.rng = rng = Random(seed)
        self.index, self.num_stages = rng.choice(((0, 1), (0, 2), (1, 3), (1, 2)))
        rule = RelaxedRule(0.3, deferred=rng.random() < 0.5, key_tokens=KeyTokens(b"")) if rng.random() < 0.4 else None
        limits = StageLimits(max_waiting_blocks=4, max_kept_blocks=4, max_closings=4)
        self.cells = Cells(NUM_BRANCHES)
        self.machine = StageMachine(
            SESSION, range(NUM_BRANCHES), max_positions=POSITIONS, limits=limits, acceptance=rule
        )
        self.now, self.route = 0.0, 0
        self.running: do.RunChunk | None = None
        self.gone = False
        self.num_refused = 0
        self.lines = [tuple(rng.randrange(VOCABULARY) for _ in range(POSITIONS)) for _ in range(2)]
        self.lines.append((*self.lines[0][:7], *self.lines[1][7:]))
        self._open(0)

    def play(self) -> None:
        events: tuple[Callable[[], Any], ...] = (
            self._block, self._block, self._block, self._block, self._block, self._output, self._output, self._output,
            self._closed, self._tick, self._reopen, self._lose, self._fail, self._park, self._close, self._trace,
        )  # fmt: skip
        for _ in range(self.rng.randrange(MAX_EVENTS)):
            self.now += self.rng.choice((0.0, 0.001, 0.001, 0.5, 2.0))
            # Rare ones end most of what came before.
            place = int(self.rng.random() * (10 if self.rng.random() < 0.9 else len(events)))
            try:
                events[place]()
            except PeerMisbehaved:
                self.num_refused += 1
        self._end()

    # --- events

    def _block(self) -> None:
        rng = self.rng
        line, epoch = rng.choice(self.lines), rng.randrange(1, 6)
        position = rng.choice((0, 0, 3, 5, 8, rng.randrange(POSITIONS)))
        num = rng.choice((1, 2, 3, 5))
        num_draft = rng.randrange(num + 1)
        numbers: list[Any] = [self.route, epoch, rng.randrange(epoch), min(position, rng.choice((0, 3, 7, position)))]
        numbers += [position, num - num_draft, num_draft, rng.choice((0, 0, 1, epoch))]
        digests, tokens = b"".join(digest_line(line)[position : position + num + 1]), line[position : position + num]
        if rng.random() < 0.1:
            place = rng.randrange(len(numbers))
            numbers[place] = max(0, numbers[place] + rng.choice((1, -1, 7, 1 << 20)))
        if rng.random() < 0.05:
            digests = rng.choice((b"", digests[:-8], digests + digests, bytes(8) + digests[8:]))
        states = None if self.index == 0 else np.zeros((len(tokens), WIDTH), np.float32)
        given = tokens if self.index == 0 else tokens[len(tokens) - num_draft :]
        self._carry_out(self.machine.on_block(self.now, Block(SESSION, *numbers), digests, given, states))

    def _output(self) -> None:
        """The engine has run what it was asked for, and draws what the line has or anything else."""
        if self.running is None:
            return
        run, self.running = self.running, None
        length = len(run.tokens if run.states is None else run.states)  # type: ignore[arg-type]
        self.cells.run(run, length)
        draws = tuple(int(self.rng.random() * VOCABULARY) for _ in range(run.num_draws))
        seen = [JudgeDraw(draw, (draw, (draw + 1) % VOCABULARY), (0.6, 0.3), 0.2) for draw in draws]
        states = None if self.index == self.num_stages - 1 else np.zeros((length, WIDTH), np.float32)
        seen = seen if run.num_top else []
        self._carry_out(self.machine.on_output(self.now, states, draws, 0.01, seen=seen, queue=1))

    def _fail(self) -> None:
        """With a part of it cached."""
        if self.running is not None:
            self.cells.lengths[self.running.sequence] += self.rng.choice((0, 1))
            self.running = None
            self._carry_out(self.machine.on_run_failed(self.now))

    def _lose(self) -> None:
        self.running = None
        self.cells.lengths = [0] * NUM_BRANCHES
        self._carry_out(self.machine.on_engine_lost(self.now))

    def _closed(self) -> None:
        rng = self.rng
        closed = Closed(
            SESSION, self.route, rng.randrange(6), rng.randrange(POSITIONS), rng.randrange(VOCABULARY), (1,)
        )
        self._carry_out(self.machine.on_closed(self.now, closed))

    def _reopen(self) -> None:
        route = max(0, self.route + self.rng.choice((0, 1, 1, -1, 1 << 19)))
        if route > self.route and self.rng.random() < 0.3:
            self.machine.on_turn(POSITIONS, RelaxedRule(0.3, deferred=False, key_tokens=KeyTokens(b"")))
        self._open(route)

    def _open(self, route: int) -> None:
        digests = b"".join(digest_line(self.rng.choice(self.lines))[: self.rng.randrange(POSITIONS)])
        if self.rng.random() < 0.1:
            digests = digests[:-3] + b"x"
        length = self.machine.on_open(self.now, route, self.index, self.num_stages, LEASE_S, digests)
        if length is not None:
            assert 0 <= length <= POSITIONS, "more than there can be"
            self.route = route

    def _park(self) -> None:
        self.machine.on_park(self.now, self.rng.choice((1.0, 600.0)))
        self.route += 1

    def _trace(self) -> None:
        assert self.machine.reached(self.rng.randrange(6), self.rng.randrange(POSITIONS)) in (0, 1, 2)

    def _tick(self) -> None:
        wakeup = self.machine.next_wakeup()
        assert wakeup is not None or self.machine.is_over, "it would never be woken"
        self.now = max(self.now, wakeup or 0.0) if self.rng.random() < 0.1 else self.now
        self._carry_out(self.machine.tick(self.now))

    def _close(self) -> None:
        self._carry_out(self.machine.on_close(self.now))

    # --- what it does

    def _carry_out(self, told: list[do.StageAction]) -> None:
        for action in told:
            assert not self.gone, "it acts after it is gone"
            if isinstance(action, do.RunChunk | do.CopySequence | do.TruncateSequence | do.ReleaseSequence):
                assert self.running is None, "it uses the engine during a run"
            match action:
                case do.RunChunk():
                    self.running = action
                case do.CopySequence():
                    self.cells.copy(action.source, action.target, action.position)
                case do.TruncateSequence():
                    self.cells.truncate(action.sequence, action.position)
                case do.ReleaseSequence():
                    self.cells.lengths[action.sequence] = 0
                case do.SendToOwner() | do.BroadcastClosed():
                    msgspec.msgpack.encode(action.message)
                case do.Gone():
                    self.gone = True

    def _end(self) -> None:
        """Nobody comes any more: it must let go of everything."""
        self.now += 1e5
        self._carry_out(self.machine.tick(self.now))
        self._output()
        assert self.gone, "still there after its lease"
        assert not any(self.cells.lengths), "sequences are left"


class HostileStages:
    """Drive one owner's machine with answers to what it sent, mostly; the draft engine is honest."""

    def __init__(self, seed: bytes) -> None:
        self.rng = rng = Random(seed)
        self.num_stages, self.now = rng.choice((1, 2, 3)), 0.0
        self.max_tokens = 12
        config = SessionConfig(
            SESSION, b"a secret of alice's", self.max_tokens, POSITIONS * 4, VOCABULARY * 4, frozenset((15,)),
            relaxed=rng.random() < 0.4, chunk_positions=rng.choice((3, 256)),
        )  # fmt: skip
        prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.choice((1, 5, 20))))
        window = policy_of(rng.choice(WINDOWS), Terms(rng.choice((0, 1, 8))))
        self.machine = SessionMachine(config, prompt, window, drafter=rng.random() < 0.8)
        self.sent: list[Block] = []
        self.emitted: list[int] = []
        self.draft: do.Draft | None = None
        self.need: do.NeedRoute | None = None

    def play(self) -> None:
        events: tuple[Callable[[], Any], ...] = (
            self._go_on, self._go_on, self._go_on, self._verdict, self._verdict, self._verdict, self._verdict,
            self._nack, self._tick, self._lost,
        )  # fmt: skip
        self._carry_out(self.machine.start(self.now))
        for _ in range(self.rng.randrange(MAX_EVENTS)):
            self.now += self.rng.choice((0.001, 0.01, 0.3, 3.0))
            events[int(self.rng.random() * len(events))]()
        msgspec.json.encode(self.machine.log.statistics())
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
            tokens = tuple(do.DraftToken(self.rng.randrange(16), self.rng.random()) for _ in range(count))
            self._carry_out(self.machine.on_draft(self.now, tokens))

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
        token = rng.choice((rng.randrange(16), rng.randrange(14), 16, 1 << 24))
        verdict = Verdict(SESSION, block.route, epoch, decided, token, self._times(), self._times(), queue, relaxed)
        self._carry_out(self.machine.on_verdict(self.now, verdict))

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
                    self.sent.append(action.block)
                case do.NeedRoute():
                    self.need = action
                case do.Draft():
                    assert self.draft is None, "two drafts at once"
                    self.draft = action
                case do.Emit():
                    self.emitted += action.tokens
                case do.Finish():
                    self.draft = self.need = None


def _seed(mutator: Mutator) -> Case:
    return (mutator.rng.randbytes(8),)


def _play(world: type[HostileOwner] | type[HostileStages], case: Case) -> None:
    world(case[0]).play()


PARSERS = (
    Parser("stage-machine", _seed, partial(_play, HostileOwner), (), (machine, arrivals, cache_, judge)),
    Parser(
        "owner-machine", _seed, partial(_play, HostileStages), (), (session, epochs, flow, drafting, prefill, timer)
    ),
)

"""A stage's machine of a reply, under whatever a hostile owner may tell it in whatever order. (owners.py: the other.)

A case is a seed: the events that it stands for are right in their types, as the wire has checked them, and near enough
to what makes sense that the machine goes on. Of some replies the judge is told the line's tokens, or masks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache, partial
from random import Random
from typing import Any

import msgspec
import numpy as np

from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation import actions as do
from dsdnode.speculation import masks
from dsdnode.speculation.acceptance import JudgeDraw, KeyTokens, RelaxedRule
from dsdnode.speculation.shaping import Shaping
from dsdnode.speculation.stage import arrivals, judge, known, machine
from dsdnode.speculation.stage import cache as cache_
from dsdnode.speculation.stage.arrivals import StageLimits
from dsdnode.speculation.stage.known import KnownLine
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.masks import PackedMask
from dsdnode.wire.messages import Block, Closed
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.speculation.stages import SESSION, digests_of

VOCABULARY, WIDTH, MAX_EVENTS, LEASE_S, NUM_BRANCHES = 4, 4, 60, 60.0, 3
POSITIONS = 24
SHAPINGS = (Shaping(presence=0.5), Shaping(repetition=1.1, last_tokens=3), Shaping(frequency=0.5, repetition=0.9))
MASKS = ((masks.ANY, b"\xff"), *((masks.hash_of(bytes([one])), bytes([one])) for one in (1, 2, 5, 15)))


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
        self.judges = self.index == self.num_stages - 1
        self.places = self._places()
        self.shaping = rng.choice(SHAPINGS) if rng.random() < 0.3 else None
        self.machine = StageMachine(
            SESSION, range(NUM_BRANCHES), max_positions=POSITIONS, limits=limits, acceptance=rule, places=self.places
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
            *([self._masks] * 4 if self.places is not None else ()),
            self._closed, self._tick, self._reopen, self._lose, self._fail, self._park, self._close, self._trace,
        )  # fmt: skip
        num_usual = len(events) - 6
        for _ in range(self.rng.randrange(MAX_EVENTS)):
            self.now += self.rng.choice((0.0, 0.001, 0.001, 0.5, 2.0))
            # Rare ones end most of what came before.
            place = int(self.rng.random() * (num_usual if self.rng.random() < 0.9 else len(events)))
            try:
                events[place]()
            except PeerMisbehaved:
                self.num_refused += 1
        self._end()

    def _places(self) -> masks.Places | None:
        """Of a reply that is drawn under masks."""
        return masks.Places(masks.Masks(VOCABULARY)) if self.judges and self.rng.random() < 0.3 else None

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
        block = Block(SESSION, *numbers)
        self._carry_out(self.machine.on_block(self.now, block, digests, given, states, self._note(block, line)))

    def _note(self, block: Block, line: tuple[int, ...]) -> do.Note | None:
        """The given tokens behind what was told, mostly."""
        if self.shaping is None:
            return None
        end = block.position + block.num_given
        told = line[max(block.position, self.num_told) : end] if self.rng.random() < 0.95 else line[:3]
        return do.Note(b"a note", told if self.judges else ())

    def _masks(self) -> None:
        """Of a whole line, mostly; or of some positions, and of what is named alone the masks come later, or never."""
        rng = self.rng
        whole, line = rng.random() < 0.7, rng.choice(self.lines)
        digests = digest_line(line)[0 if whole else rng.randrange(POSITIONS) :]
        named = [rng.choice(MASKS) for _ in range(POSITIONS + 1 if whole else rng.choice((1, 5)))]
        names = {digest: name for digest, (name, _) in zip(digests, named, strict=False)}
        told = [(name, mask) for name, mask in named if name != masks.ANY and (whole or rng.random() < 0.5)]
        packed = [PackedMask(name, masks.pack(mask)) for name, mask in dict(told).items()]
        if rng.random() < 0.05:
            packed.append(PackedMask(rng.choice(MASKS)[0], rng.choice((b"", masks.pack(b"\0"), masks.pack(b"\7")))))
        self._carry_out(self.machine.on_masks(self.now, names, packed))

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
            self.places = self._places()
            rule = RelaxedRule(0.3, deferred=False, key_tokens=KeyTokens(b""))
            self.machine.on_turn(POSITIONS, rule, self.places)
        self._open(route)

    def _open(self, route: int) -> None:
        digests = b"".join(digest_line(self.rng.choice(self.lines))[: self.rng.randrange(POSITIONS)])
        if self.rng.random() < 0.1:
            digests = digests[:-3] + b"x"
        self._tell_line()
        length = self.machine.on_open(self.now, route, self.index, self.num_stages, LEASE_S, digests)
        if length is not None:
            assert 0 <= length <= POSITIONS, "more than there can be"
            self.route = route
            if self.places is not None and self.rng.random() < 0.7:
                with contextlib.suppress(PeerMisbehaved):
                    self._masks()

    def _tell_line(self) -> None:
        """The judge's host gives what came with Open to the machine (node/shard/host.py)."""
        self.num_told = length = self.rng.randrange(8)
        if self.shaping is not None and self.judges:
            tokens = np.array(self.lines[0][self.rng.randrange(length + 1) : length], np.int32)
            self.machine.known = KnownLine(self.shaping, self.rng.randrange(POSITIONS), length, tokens)

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
                    self._check_draws(action)
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

    def _check_draws(self, run: do.RunChunk) -> None:
        if self.places is not None:
            assert len(run.masks) == run.num_draws and all(map(any, run.masks)), "draws without masks"
        if run.past is not None:
            assert len(run.past.then) >= run.num_draws - 1, "draws that do not know what is before them"

    def _end(self) -> None:
        """Nobody comes any more: it must let go of everything."""
        self.now += 1e5
        self._carry_out(self.machine.tick(self.now))
        self._output()
        assert self.gone, "still there after its lease"
        assert not any(self.cells.lengths), "sequences are left"


def seed(mutator: Mutator) -> Case:
    return (mutator.rng.randbytes(8),)


def play(world: Callable[[bytes], Any], case: Case) -> None:
    world(case[0]).play()


PARSERS = (
    Parser(
        "stage-machine",
        seed,
        partial(play, HostileOwner),
        (),
        (machine, arrivals, cache_, judge, known, masks.Masks, masks.Places),
    ),
)

"""A reply among others of its kind: the toy ring of the tests, with engines that decode together what waits.

One reply is the real owner's machine. The others only take turns: draft as many tokens as the one's plan says now,
send them, wait for the verdict. So everybody follows the same policy, and a large window costs what it costs when all
have it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dsdnode.speculation.controller import WindowController
from dsdnode.wire.messages import Block
from tests.pacing.toy_stream import Ring, Travel, World

SHARED_POSITIONS = 64
"""Of a decode that several share (node/batching/scheduler.py)."""
NOTHING = Block(b"2" * 16, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass
class Guest(Travel):
    """A block of another reply; its tokens are only counted."""


class Crowd(World):
    """`ring.others` others; `sequence_s`: of a decode, beside what its positions cost, for each reply that is in it."""

    def __init__(self, ring: Ring, sequence_s: float, controller: WindowController, num_tokens: int, seed: int) -> None:
        super().__init__(ring, controller, num_tokens, seed, told=True)
        self.sequence_s, self.controller = sequence_s, controller
        self.luck = random.Random(~seed)
        for _ in range(ring.others):
            self.at(self.luck.random() * 2 * sum(stage.fixed_s for stage in ring.stages), self.others_round)

    def others_round(self) -> None:
        num_draft = self.controller.plan().block
        guest = Guest(NOTHING, range(num_draft + 1))
        self.at(self.now + num_draft * self.ring.draft_s + self.ring.latency_s, lambda: self.arrive(0, guest))

    def work(self, index: int) -> None:
        stage = self.stages[index]
        stage.busy = False
        batch: list[Travel] = []
        room = SHARED_POSITIONS
        stage.waiting = [one for one in stage.waiting if isinstance(one, Guest) or not stage.is_dead(one.block)]
        while stage.waiting and (not batch or len(stage.waiting[0].tokens) <= room):
            batch.append(stage.waiting.pop(0))
            room -= len(batch[-1].tokens)
        if batch:
            stage.busy = True
            self.decode(index, batch)

    def decode(self, index: int, batch: Sequence[Travel]) -> None:
        cost_s = self.ring.stages[index].at(sum(len(one.tokens) for one in batch)) + self.sequence_s * len(batch)
        for one in batch:
            one.stage_ms += (cost_s * 1000,)
            one.waited_ms += ((self.now - one.arrived_s) * 1000,)
        self.at(self.now + cost_s, lambda: self.leave_together(index, batch))

    def leave_together(self, index: int, batch: Sequence[Travel]) -> None:
        for one in batch:
            one.queue += (len(batch) + len(self.stages[index].waiting) - 1,)
            if index + 1 < len(self.stages):
                self.at(self.hop(index + 1), partial(self.arrive, index + 1, one))
            elif isinstance(one, Guest):
                self.at(self.hop(index + 1), self.others_round)
            else:
                self.judge(one)
        self.work(index)

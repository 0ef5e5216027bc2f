"""Random schedules where little goes wrong, so that little may be spent on it.

In a calm one messages overtake one another, by less than a stage waits, and nothing is lost, or one message. Then
nobody leaves the route, and only one timeout is waited for, if any; and unless it was a block that was lost, nothing
is refused and no epoch given up. In a storm many are lost until the owner runs out of patience, and none after that:
what he does then heals it, by the route that he has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from dsdnode.speculation.owner.session import MAX_NACKS
from dsdnode.speculation.stage.arrivals import StageLimits

from . import world
from .faults import Faults
from .toy import Network, Queue

LATE_S = 0.1
"""At most, past others; a stage waits for 0.3 s."""
PROTOCOL = ("on_block", "on_verdict", "on_closed", "on_nack")


class GentleNetwork(Network):
    def __init__(self, queue: Queue, rng: Random, latency_s: float, lost: int) -> None:
        """`lost`: the number, from 1, of the message that is lost; 0: none."""
        super().__init__(queue, rng, 0.0, 0.0, latency_s)
        self.lost = ""
        """Which kind."""
        self._number, self._sent = lost, 0

    def send(self, call: Callable[..., None], *arguments: Any) -> None:
        if call.__name__ in PROTOCOL:
            self._sent += 1
            if self._sent == self._number:
                self.lost = call.__name__
            if self._sent == self._number or (self.loss and self._rng.random() < self.loss):
                return
        late_s = LATE_S * self._rng.random() * (self._rng.random() < self.stragglers)
        self._queue.after(self.latency_s * (0.5 + self._rng.random()) + late_s, call, *arguments)


class Calm(world.World):
    PASS_TIMEOUTS_S = (2.0,)

    def _pick_faults(self) -> Faults:
        return Faults(*(0.0,) * 8)

    def _make_network(self, latency_s: float) -> Network:
        lost = self.rng.randint(1, 100) if self.rng.random() < 0.7 else 0
        self.gentle = GentleNetwork(self.queue, self.rng, latency_s, lost)
        return self.gentle

    def run(self) -> None:
        super().run()
        if self.num_routes > 1:
            self.violations.append("leaves a route where all are well")
        if self.num_timeouts > bool(self.gentle.lost):
            self.violations.append("waits in vain")
        if self.gentle.lost == "on_block":
            return
        if self.num_nacks:
            self.violations.append("refused though no block is lost")
        if self.owner.log.statistics().recoveries:
            self.violations.append("an epoch given up for nothing")


class Storm(Calm):
    """Stages keep few outputs, so that sending again is not always enough."""

    _num_allowed = math.inf
    """Routes."""

    def _make_limits(self) -> StageLimits:
        return replace(super()._make_limits(), max_kept_blocks=self.rng.choice([1, 2, 32]))

    def _make_network(self, latency_s: float) -> Network:
        self.gentle = GentleNetwork(self.queue, self.rng, latency_s, 0)
        self.gentle.loss = self.rng.choice([0.1, 0.3, 0.5])
        return self.gentle

    def _tick(self) -> None:
        super()._tick()
        if self.num_timeouts == 1 and self.gentle.loss:
            self.gentle.loss = 0.0
            few = self.owner._num_nacks < MAX_NACKS // 2  # of many, those that are on their way may be the last straw
            self._num_allowed = self.num_routes if few else math.inf

    def run(self) -> None:
        world.World.run(self)
        if self.num_routes > self._num_allowed:
            self.violations.append("leaves a route where all are well")

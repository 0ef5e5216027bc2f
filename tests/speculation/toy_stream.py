"""A reply over a ring in a few lines: an owner that obeys a WindowController, and tells it what the real one would.

Stages are first come, first served; a block that is dead by the time a stage takes it is dropped unrun; acceptance is
drawn when a guess is drafted. No bytes, no engine, no failures: only time (speculation section 4, without its safety).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.window import Plan, RouteCosts, WindowController

Accept = Callable[[int, int], float]
"""(position in the reply, guesses right in a row before) -> probability that the guess is right."""
MAX_EVENTS = 200_000


@dataclass(frozen=True)
class Ring:
    """`stages`: (fixed_s, slope_s) each; `others`: replies of others, each with one block waiting at every stage."""

    stages: tuple[tuple[float, float], ...]
    latency_s: float
    draft_s: float
    accept: Accept = lambda position, depth: 0.8
    jitter_s: float = 0.0
    covered_share: float = 0.0
    others: int = 0
    overhead: Callable[[str], float] = lambda mode: 1.0
    """Factor on every stage's time in a mode: what no formula knows."""
    slow: Callable[[int, float], float] = lambda stage, now: 1.0
    """(stage, time) -> factor on its time."""

    @property
    def costs(self) -> RouteCosts:
        fixed, slope = zip(*self.stages, strict=True)
        return RouteCosts(fixed, slope, (len(self.stages) + 1) * self.latency_s)


@dataclass(eq=False)
class _Block:
    start: int
    end: int
    num_draft: int
    epoch: int
    sent_s: float
    plan: Plan
    alone: bool
    hedge: bool = False
    stage_s: tuple[float, ...] = ()
    waited_s: tuple[float, ...] = ()
    judged_s: float = 0.0


@dataclass
class Result:
    seconds: float
    num_tokens: int
    events: list[PassEvent] = field(default_factory=list)
    plans: list[tuple[int, float, Plan]] = field(default_factory=list)
    """(tokens so far, time, plan) at each change."""
    done_s: list[float] = field(default_factory=list)
    """When each token was committed."""

    @property
    def speed(self) -> float:
        return self.num_tokens / self.seconds

    def speed_after(self, first: int, last: int | None = None) -> float:
        """Of the tokens [first, last)."""
        times = self.done_s[first - 1 : last]
        return (len(times) - 1) / (times[-1] - times[0])


class Owner:
    """One reply, from the moment the prompt is prefilled and its first token known."""

    def __init__(self, ring: Ring, controller: WindowController, num_tokens: int, seed: int = 0) -> None:
        self.ring, self.controller, self.num_tokens = ring, controller, num_tokens
        self.rng = random.Random(seed)
        self.result = Result(0.0, 0)
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.num_scheduled = 0
        self.free_s = [0.0] * len(ring.stages)
        self.arrived_s = [0.0] * (len(ring.stages) + 1)
        self.length, self.sent, self.epoch, self.depth = 1, 0, 0, 0
        self.right: dict[int, bool] = {}
        """Of the guesses at positions >= length, one line of them."""
        self.drafting: int | None = None
        self.stale = False
        self.flights: list[_Block] = []

    def run(self) -> Result:
        self._go_on()
        for _ in range(MAX_EVENTS):
            if self.length > self.num_tokens:
                break
            self.now, _, act = heapq.heappop(self.heap)
            act()
        else:
            raise AssertionError("the reply never ends")
        self.result.seconds, self.result.num_tokens = self.now, self.length - 1
        return self.result

    def _at(self, time_s: float, act: Callable[[], None]) -> None:
        self.num_scheduled += 1
        heapq.heappush(self.heap, (time_s, self.num_scheduled, act))

    def _plan(self) -> Plan:
        plan = self.controller.plan()
        plans = self.result.plans
        if not plans or replace(plans[-1][2], reason="") != replace(plan, reason=""):
            plans.append((self.length, self.now, plan))
        return plan

    def _go_on(self) -> None:
        """Send what may be sent, and keep the draft engine busy."""
        plan = self._plan()
        while self._send_next(plan):
            pass
        ahead = sum(position >= self.sent for position in self.right)
        wants = plan.block > 0 and ahead < plan.block and (plan.mode != "rounds" or self.sent < self.length)
        if wants and self.drafting is None:
            self.drafting = max([self.length, *(position + 1 for position in self.right)])
            count, started_s, self.stale = plan.block, self.now, False
            self._at(self.now + count * self.ring.draft_s, lambda: self._drafted(count, started_s))

    def _send_next(self, plan: Plan) -> bool:
        first = max(self.sent, self.length)
        ready = sum(position >= first for position in self.right)
        unjudged = sum(flight.num_draft for flight in self.flights if not flight.hedge)
        if self.sent < self.length:
            if plan.mode == "rounds" and plan.block and ready < plan.block:
                return False
            self._send(self.sent, first + min(ready, plan.block), min(ready, plan.block), plan)
            return True
        if plan.mode in ("stream", "hedged") and ready >= plan.block and unjudged + plan.block <= plan.window:
            self._send(first, first + plan.block, plan.block, plan)
            for _ in range(plan.hedges):
                self._send(first, first + 1, 1, plan, hedge=True)
            return True
        return False

    def _send(self, start: int, end: int, num_draft: int, plan: Plan, hedge: bool = False) -> None:
        block = _Block(start, end, num_draft, self.epoch, self.now, plan, alone=not self.flights, hedge=hedge)
        if not hedge:
            self.flights.append(block)
            self.sent = end
        self._travel(block)

    def _travel(self, block: _Block) -> None:
        """Through all stages at once: what happens to it depends on blocks sent before it alone."""
        ring, size = self.ring, block.end - block.start
        time_s = self.now
        for index, (fixed_s, slope_s) in enumerate(ring.stages):
            time_s = self._hop(index, time_s)
            start_s = max(time_s, self.free_s[index])
            if self._closed_s() + ring.latency_s <= start_s:
                return
            cost_s = (fixed_s + slope_s * size) * ring.slow(index, start_s) * ring.overhead(block.plan.mode)
            start_s += ring.others * (fixed_s + slope_s)
            self.free_s[index] = start_s + cost_s
            block.stage_s += (cost_s,)
            block.waited_s += (start_s - time_s,)
            time_s = start_s + cost_s
        if block.hedge:
            return
        block.judged_s = time_s
        self._at(self._hop(len(ring.stages), time_s), lambda: self._judged(block))

    def _closed_s(self) -> float:
        """When the present epoch is closed: a block's last position decides the guess after it, the owner tells."""
        wrong = next((position for position, right in self.right.items() if not right), None)
        for flight in self.flights:
            if wrong is not None and flight.start < wrong <= flight.end and flight.judged_s:
                return flight.judged_s + (self.ring.latency_s if wrong == flight.end else 0.0)
        return float("inf")

    def _hop(self, index: int, time_s: float) -> float:
        delay_s = self.ring.latency_s + self.ring.jitter_s * self.rng.random()
        self.arrived_s[index] = max(self.arrived_s[index], time_s + delay_s)
        return self.arrived_s[index]

    def _drafted(self, count: int, started_s: float) -> None:
        assert self.drafting is not None
        start, self.drafting = self.drafting, None
        self.controller.on_draft(count, self.now - started_s)
        if not self.stale:
            self._draw(start, count)
        self._go_on()

    def _draw(self, start: int, count: int) -> None:
        for position in range(start, start + count):
            if not all(self.right.values()):
                self.right[position] = False
                continue
            depth = self.depth + position - self.length
            self.right[position] = self.rng.random() < self.ring.accept(position, depth)
        decided = [position for position in self.right if position < self.length]
        if any(not self.right[position] for position in decided):
            self.right = {}
        self.right = {position: right for position, right in self.right.items() if position >= self.length}

    def _judged(self, block: _Block) -> None:
        if block.epoch != self.epoch:
            return
        self.flights = [flight for flight in self.flights if flight.end > block.end]
        new = range(self.length, block.end + 1)
        judged = [position for position in new if position in self.right]
        wrong = [position for position in judged if not self.right[position]]
        end = wrong[0] + 1 if wrong else block.end + 1
        num_judged = len([position for position in judged if position < end])
        covered = bool(wrong and block.plan.hedges and self.rng.random() < self.ring.covered_share)
        event = PassEvent(
            self.epoch, block.start, block.end - block.start, num_judged, num_judged - len(wrong[:1]),
            max(0, end - self.length), block.sent_s, self.now, block.stage_s, block.waited_s,
            (self.ring.others,) * len(self.ring.stages), self.depth, (), covered, 0, block.alone,
            block.plan.window, block.plan.mode,
        )  # fmt: skip
        self.result.done_s += [self.now] * event.num_committed
        self.depth = 0 if wrong else self.depth + event.num_committed
        self.length = max(self.length, end)
        if wrong:
            self._reject(covered)
        self.right = {position: right for position, right in self.right.items() if position >= self.length}
        self.result.events.append(event)
        self.controller.on_verdict(event)
        self._go_on()

    def _reject(self, covered: bool) -> None:
        self.right, self.flights = {}, []
        self.epoch += 1
        self.stale = True
        self.sent = self.length - 1
        if covered:
            branch = _Block(self.sent, self.length, 1, self.epoch, self.now, self.controller.plan(), alone=False)
            branch.stage_s, branch.waited_s = self._zeros(), self._zeros()
            self.flights, self.sent = [branch], self.length
            self._at(self.now + self.ring.stages[-1][0], lambda: self._judged(branch))

    def _zeros(self) -> tuple[float, ...]:
        return (0.0,) * len(self.ring.stages)


def run(ring: Ring, controller: WindowController, num_tokens: int, seed: int = 0, *, told: bool = True) -> Result:
    """`told`: records and pings have said what the pipeline costs (on_route), as they do in the daemon."""
    if told:
        controller.on_route(ring.costs)
    return Owner(ring, controller, num_tokens, seed).run()

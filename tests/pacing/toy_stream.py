"""A reply over a ring in virtual time: the real owner's machine under a WindowController, stages that only take time.

Each position's draft token is right or wrong from the beginning, as with real models; stages serve first come, first
served and drop what is dead before they take it; nothing is lost. So a test can ask how fast a controller makes a
reply.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.speculation.actions import Draft, DraftToken, Finish, NeedRoute, SendBlock, SessionAction
from dsdnode.speculation.controller import WindowController
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.owner.session import SessionMachine
from dsdnode.speculation.plan import SessionConfig
from dsdnode.wire.messages import Block, Verdict
from dsdnode.wire.replies import PlanChange

RIGHT, WRONG, OTHER = 1, 2, 3
PROMPT = 4
EASY, HARD = 0.98, 0.5
MAX_STEPS = 1_000_000


@dataclass(frozen=True)
class Ring:
    """`covered_share`: of the wrong draft tokens whose second choice is right."""

    stages: tuple[CostLine, ...]
    latency_s: float
    draft_s: float
    accept: Callable[[int], float] = lambda position: 0.8
    """Position in the reply -> probability that the draft token there is right."""
    jitter_s: float = 0.0
    covered_share: float = 0.0
    others: int = 0
    """Replies of others: each has a block of one position waiting at every stage, whenever ours comes."""
    slow: Callable[[int, float], float] = lambda stage, now: 1.0
    """(stage, time) -> factor on its time."""
    crowding: float = 1.0
    """Factor on the stages' time while the draft engine works: one machine for all."""

    @property
    def costs(self) -> PipelineCost:
        return PipelineCost(self.stages, (len(self.stages) + 1) * self.latency_s)


def ring(
    num_stages: int, latency_ms: float, kind: tuple[float, float, float], rate: float, covered_share: float = 0.0
) -> Ring:
    """`kind`: fixed and slope of a stage, draft of a token, in ms."""
    fixed_ms, slope_ms, draft_ms = kind
    stages = (CostLine.of_ms(fixed_ms, slope_ms),) * num_stages
    return Ring(stages, latency_ms / 1000, draft_ms / 1000, lambda position: rate, covered_share=covered_share)


@dataclass(frozen=True)
class Result:
    done_s: tuple[float, ...]
    """When each token of the reply was committed."""
    events: tuple[PassEvent, ...]
    plans: tuple[PlanChange, ...]

    @property
    def speed(self) -> float:
        """Tokens per second after the first one."""
        return self.speed_of(0, len(self.done_s))

    def speed_of(self, first: int, last: int) -> float:
        """Of the tokens [first, last) of the reply."""
        times = self.done_s[first:last]
        return (len(times) - 1) / (times[-1] - times[0])


@dataclass
class Travel:
    block: Block
    tokens: Sequence[int]
    arrived_s: float = 0.0
    stage_ms: tuple[float, ...] = ()
    waited_ms: tuple[float, ...] = ()
    queue: tuple[int, ...] = ()


@dataclass
class _Stage:
    waiting: list[Travel] = field(default_factory=list)
    busy: bool = False
    floor: int = 0
    closed: dict[int, int] = field(default_factory=dict)

    def is_dead(self, block: Block) -> bool:
        own = self.closed.get(block.epoch)
        parents = self.closed.get(block.parent)
        dead = own is not None and block.position >= own
        return dead or block.epoch < self.floor or (parents is not None and block.base > parents)


class World:
    def __init__(self, ring: Ring, controller: WindowController, num_tokens: int, seed: int, *, told: bool) -> None:
        self.ring, self.told, self.now = ring, told, 0.0
        self.rng, draws = random.Random(seed), random.Random(seed)
        self.sure = [_confidence(ring.accept(position), draws) for position in range(num_tokens + 200)]
        self.right = [draws.random() < probability for probability in self.sure]
        self.second = [draws.random() < ring.covered_share for _ in self.right]
        config = SessionConfig(
            b"0" * 16, b"1" * 16, num_tokens, num_tokens + PROMPT, 10, pass_timeout_s=1e5, position_timeout_s=0.0
        )
        self.machine = SessionMachine(config, (RIGHT,) * PROMPT, controller, drafter=True)
        self.done_s: list[float] = []
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.num_scheduled = 0
        self.stages = [_Stage() for _ in ring.stages]
        self.arrived_s = [0.0] * (len(ring.stages) + 1)
        self.contents: dict[int, list[int]] = {0: []}
        self.wrong_at: dict[int, int] = {}
        self.drafted: dict[int, list[int]] = {}
        self.drafts = False

    def run(self) -> Result:
        self.act(self.machine.start(self.now))
        for _ in range(MAX_STEPS):
            if self.machine.finished:
                log = self.machine.log
                return Result(tuple(self.done_s), tuple(log.passes), log.statistics().plans)
            self.now, _, step = heapq.heappop(self.heap)
            step()
        raise AssertionError("the reply never ends")

    def at(self, time_s: float, step: Callable[[], None]) -> None:
        self.num_scheduled += 1
        heapq.heappush(self.heap, (time_s, self.num_scheduled, step))

    def act(self, actions: Sequence[SessionAction]) -> None:
        for action in actions:
            if isinstance(action, NeedRoute):
                lengths = (0,) * len(self.stages)
                self.act(self.machine.on_route(self.now, 0, lengths, self.ring.costs if self.told else None))
            elif isinstance(action, SendBlock):
                self.send(action)
            elif isinstance(action, Draft):
                self.draft(action)
            elif not isinstance(action, Finish):
                self.done_s += [self.now] * len(action.tokens)

    # --- the draft engine -----------------------------------------------------------------------------------------

    def draft(self, draft: Draft) -> None:
        own = self.drafted.setdefault(draft.sequence, [])
        if draft.source is not None:
            own[:] = self.drafted[draft.source]
        own[draft.position :] = draft.tokens
        draft_tokens = []
        for _ in range(draft.count):
            draft_token = self.draft_token(len(own) - PROMPT, own.count(RIGHT) == len(own))
            draft_tokens.append(draft_token)
            own.append(draft_token.token)
        own.pop()
        self.drafts = True
        self.at(self.now + draft.count * self.ring.draft_s, lambda: self.answer(tuple(draft_tokens)))

    def draft_token(self, position: int, is_right: bool) -> DraftToken:
        rate = self.sure[position]
        if is_right and self.right[position]:
            return DraftToken(RIGHT, rate, OTHER, (1 - rate) / 2)
        return DraftToken(WRONG, rate, RIGHT if is_right and self.second[position] else OTHER, (1 - rate) / 2)

    def answer(self, draft_tokens: tuple[DraftToken, ...]) -> None:
        self.drafts = False
        self.act(self.machine.on_draft(self.now, draft_tokens))

    # --- the ring -------------------------------------------------------------------------------------------------

    def send(self, action: SendBlock) -> None:
        block = action.block
        if block.epoch not in self.contents:
            self.contents[block.epoch] = self.contents.get(block.parent, [])[: block.base]
        content = self.contents[block.epoch]
        content[block.position :] = action.tokens
        if content.count(RIGHT) < len(content):
            self.wrong_at[block.epoch] = next(at for at, token in enumerate(content) if token != RIGHT)
        travel = Travel(block, action.tokens)
        self.at(self.hop(0), lambda: self.arrive(0, travel))

    def hop(self, link: int) -> float:
        delay_s = self.ring.latency_s + self.ring.jitter_s * self.rng.random()
        self.arrived_s[link] = max(self.arrived_s[link], self.now + delay_s)
        return self.arrived_s[link]

    def arrive(self, index: int, travel: Travel) -> None:
        stage = self.stages[index]
        stage.floor = max(stage.floor, travel.block.floor)
        travel.arrived_s = self.now
        stage.waiting.append(travel)
        if not stage.busy:
            self.work(index)

    def work(self, index: int) -> None:
        stage = self.stages[index]
        stage.busy = False
        while stage.waiting:
            travel = stage.waiting.pop(0)
            if not stage.is_dead(travel.block):
                stage.busy = True
                return self.compute(index, travel)

    def compute(self, index: int, travel: Travel) -> None:
        stage = self.ring.stages[index]
        cost_s = stage.at(len(travel.tokens)) * self.ring.slow(index, self.now)
        cost_s *= self.ring.crowding if self.drafts else 1.0
        others_s = self.ring.others * stage.at(1)
        travel.stage_ms += (cost_s * 1000,)
        travel.waited_ms += ((self.now - travel.arrived_s + others_s) * 1000,)
        travel.queue += (self.ring.others,)
        self.at(self.now + others_s + cost_s, lambda: self.leave(index, travel))

    def leave(self, index: int, travel: Travel) -> None:
        if index + 1 < len(self.stages):
            self.at(self.hop(index + 1), lambda: self.arrive(index + 1, travel))
        else:
            self.judge(travel)
        self.work(index)

    def judge(self, travel: Travel) -> None:
        block = travel.block
        end = block.position + block.num_given + block.num_draft
        wrong = self.wrong_at.get(block.epoch, end)
        if wrong < block.position or self.stages[-1].is_dead(block):
            return
        if wrong < end:
            self.close(block.epoch, wrong)
        times = travel.stage_ms, travel.waited_ms, travel.queue
        verdict = Verdict(block.session, 0, block.epoch, min(wrong, end), RIGHT, *times)
        self.at(self.hop(len(self.stages)), lambda: self.act(self.machine.on_verdict(self.now, verdict)))

    def close(self, epoch: int, position: int) -> None:
        self.stages[-1].closed[epoch] = position
        for stage in self.stages[:-1]:
            self.at(self.now + self.ring.latency_s, partial(stage.closed.__setitem__, epoch, position))


def _confidence(rate: float, draws: random.Random) -> float:
    """The draft's probability of a draft token: most are easy, some hard, on average right with `rate`; it knows
    which."""
    hard = min(1.0, (EASY - rate) / (EASY - HARD))
    return min(rate, HARD) if draws.random() < hard else EASY


def run(ring: Ring, controller: WindowController, num_tokens: int, seed: int = 0, *, told: bool = True) -> Result:
    """`told`: records and pings have said what the pipeline costs (on_route), as they do in the daemon."""
    return World(ring, controller, num_tokens, seed, told=told).run()

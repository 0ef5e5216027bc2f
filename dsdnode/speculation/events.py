"""One log a reply: feeds statistics, and later recordings, the simulator and bug reports. Speculation section 4."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dsdnode.speculation.plan import Plan
from dsdnode.wire.replies import MAX_DEPTHS, MAX_PLANS, PlanChange, Statistics

MAX_EVENTS = 4096


@dataclass(frozen=True, slots=True)
class PassEvent:
    """One judged pass. The block at `position` of `epoch` had `num_positions` (given and draft) positions.

    `num_committed` tokens were added to the line by its verdict. For `num_judged` of them there was a draft token on
    the main line, and `num_accepted` of those, the first ones, were right (so a rejection is num_judged - num_accepted,
    0 or 1; `covered`: a live branch had the right token already). `depth`: how many draft tokens in a row were right
    before these. `confidences`: the draft's probability of each judged draft token. `sent_s` and `judged_s` on the
    owner's clock; `stage_s`, `waited_s`, `queue`: as the stages measured (Verdict; of a block that was closed unrun
    only those that ran it); `alone`: nothing else of this reply was in flight when it was sent; `window`, `mode`: the
    plan it was sent under.
    """

    epoch: int
    position: int
    num_positions: int
    num_judged: int
    num_accepted: int
    num_committed: int
    sent_s: float
    judged_s: float
    stage_s: tuple[float, ...] = ()
    waited_s: tuple[float, ...] = ()
    queue: tuple[int, ...] = ()
    num_draft: int = 0
    """Of the block's positions."""
    depth: int = 0
    confidences: tuple[float, ...] = ()
    covered: bool = False
    num_relaxed: int = 0
    alone: bool = True
    window: int = 0
    mode: str = "plain"
    copied: bool = False
    """It was sent under a plan of copied draft tokens."""
    num_copied: int = 0
    """Of the judged ones; `num_copied_right` of the accepted ones."""
    num_copied_right: int = 0
    num_guessed: int = 0
    """Of the copied ones, those that came with a verdict; `num_guessed_right` likewise."""
    num_guessed_right: int = 0

    @property
    def num_model_judged(self) -> int:
        """Of the draft model's own."""
        return self.num_judged - self.num_copied

    @property
    def num_model_accepted(self) -> int:
        return self.num_accepted - self.num_copied_right


class EventLog:
    """Keeps the last MAX_EVENTS passes and exact totals of all of them, the last MAX_PLANS changes of plan."""

    def __init__(self, prompt_tokens: int) -> None:
        self.passes: deque[PassEvent] = deque(maxlen=MAX_EVENTS)
        self.plans: deque[PlanChange] = deque(maxlen=MAX_PLANS)
        self._plan: Plan | None = None
        self._prompt_tokens = prompt_tokens
        self._num_reused: int | None = None
        self._started_s: float | None = None
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._total = Totals()
        self._num_first = 0
        self._by_depth = [[0, 0] for _ in range(MAX_DEPTHS)]

    def start(self, now: float) -> None:
        self._started_s = now

    def opened(self, num_cached: int) -> None:
        """All stages of a route have so many positions; of the first one that counts as reused."""
        if self._num_reused is None:
            self._num_reused = num_cached

    def planned(self, now: float, plan: Plan) -> None:
        """Called often; only a change is kept."""
        if plan == self._plan:
            return
        self._plan = plan
        at_s = 0.0 if self._started_s is None else now - self._started_s
        numbers = (plan.mode, plan.block, plan.window, plan.hedges)
        self.plans.append(PlanChange(self._total.completed, round(at_s, 4), *numbers, plan.reason))

    def recovered(self) -> None:
        """A new epoch for another reason than a rejection."""
        self._total.recoveries += 1

    def sent(self, num_draft: int) -> None:
        """A block left with so many draft tokens."""
        self._total.drafted += num_draft

    def judged(self, event: PassEvent, num_sent: int) -> None:
        """`num_sent`: of its draft tokens, those that had been sent. One that had not may equal the judge's own token,
        from which policies learn; the reply owes nothing to it."""
        self.passes.append(event)
        total, num_judged = self._total, min(event.num_judged, num_sent)
        total.passes += 1
        total.judged += num_judged
        total.accepted += min(event.num_accepted, num_sent)
        total.covered += event.covered
        total.relaxed += event.num_relaxed
        total.copied += min(event.num_copied, num_judged)
        total.copied_right += min(event.num_copied_right, event.num_accepted, num_sent)
        total.completed += event.num_committed
        if event.num_draft:
            total.drafted_passes += 1
            total.drafted_completed += event.num_committed
        for offset in range(num_judged):
            counts = self._by_depth[min(event.depth + offset, MAX_DEPTHS - 1)]
            counts[0] += 1
            counts[1] += offset < event.num_accepted
        self._last_s = event.judged_s
        if self._first_s is None:
            self._first_s, self._num_first = event.judged_s, event.num_committed

    def statistics(self) -> Statistics:
        """Totals so far; of the pipeline and what plain decoding would have cost it knows nothing."""
        total = self._total
        return Statistics(
            prompt_tokens=self._prompt_tokens,
            prompt_tokens_reused=self._num_reused or 0,
            completion_tokens=total.completed,
            time_to_first_token_s=_minus(self._first_s, self._started_s),
            tokens_per_second=_ratio(total.completed - self._num_first, _minus(self._last_s, self._first_s)),
            drafted=total.drafted,
            judged=total.judged,
            accepted=total.accepted,
            covered=total.covered,
            relaxed=total.relaxed,
            copied_judged=total.copied,
            copied_accepted=total.copied_right,
            acceptance_rate=_ratio(total.accepted, total.judged),
            acceptance_length_mean=_ratio(total.drafted_completed, total.drafted_passes),
            wasted_share=_ratio(max(0, total.drafted - total.accepted), total.drafted),
            passes=total.passes,
            recoveries=total.recoveries,
            by_position=tuple((judged, accepted) for judged, accepted in self._by_depth if judged),
            plans=tuple(self.plans),
        )


@dataclass(slots=True)
class Totals:
    """Of a reply so far."""

    completed: int = 0
    drafted: int = 0
    judged: int = 0
    accepted: int = 0
    covered: int = 0
    relaxed: int = 0
    copied: int = 0
    copied_right: int = 0
    passes: int = 0
    drafted_passes: int = 0
    drafted_completed: int = 0
    recoveries: int = 0


def _minus(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


def _ratio(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None

"""At how many tokens a judge is to guess behind its verdicts: what they cost it, and how often they are right.

It guesses one after the other before its verdict leaves, so it is as if they were drafted for a round in that time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.fits import Mean
from dsdnode.pacing.formulas import MAX_RUN, Cycle, options
from dsdnode.speculation.plan import Plan

MOST = 8
"""More than any judge is known to give."""
FIRST = 2
"""While it is not known what they cost."""
PROBE_TOKENS = 64
"""Where they are not worth it, one is asked for after so many tokens."""
EVERY_TOKENS = 4
KEEP = 0.98
"""Of what was seen before, with each guess that is judged: the last 50 tell the rate."""
FIRST_RATE, FIRST_WEIGHT = 0.7, 4.0


@dataclass(slots=True)
class Guessing:
    """Of one reply."""

    _rate: Mean = field(default_factory=lambda: Mean(KEEP, FIRST_RATE, weight=FIRST_WEIGHT))
    _guess_s: Mean = field(default_factory=lambda: Mean(0.9))
    """For one."""
    _probed_at: int = 0
    _best: tuple[int, int] = (0, FIRST)
    """Until so many tokens; thought over now and then, as it takes a tenth of a fast token."""

    def told(self, num_guesses: int, seconds: float) -> None:
        if num_guesses:
            self._guess_s.add(seconds / num_guesses)

    def judged(self, num_judged: int, num_right: int) -> None:
        """Of one round, the first ones right."""
        for index in range(num_judged):
            self._rate.add(float(index < num_right))

    def wanted(self, num_tokens: int, costs: PipelineCost | None, token_s: Callable[[Plan, Cycle], float]) -> int:
        """`num_tokens`: of the reply so far; `costs` None: not known yet."""
        if costs is None or not self._guess_s.weight:
            return FIRST
        if num_tokens < self._best[0]:
            return self._best[1]
        survival = [self._rate.value**depth for depth in range(MAX_RUN + 1)]
        like = replace(costs, draft=CostLine(0.0, self._guess_s.value))
        plans = options(like, survival, ("plain", "rounds"), range(1, MOST + 1))
        best, _ = min(((plan, token_s(plan, cycle)) for plan, cycle in plans), key=lambda one: one[1])
        num = best.block
        if num == 0 and num_tokens >= self._probed_at + PROBE_TOKENS:
            self._probed_at, num = num_tokens, 1
        self._best = num_tokens + EVERY_TOKENS, num
        return num

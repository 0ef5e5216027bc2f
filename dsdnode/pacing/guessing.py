"""At how many tokens a judge is to guess behind its verdicts: what they cost it, and how often they are right.

It guesses one after the other before its verdict leaves: as if they were drafted for a round in that time. What that
would gain is predicted; whether it does is seen in passes with guesses and, now and then, without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.fits import Mean, Ratio
from dsdnode.pacing.formulas import MAX_RUN, Cycle, options
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan

MOST = 8
"""More than any judge is known to give."""
FIRST = 2
"""While it is not known what they cost."""
PROBE_TOKENS = 128
"""Where they are not worth it they are tried again after so many tokens; where they are, and not by far, so are
passes without them."""
PROBE_PASSES = 4
BY_FAR = 1.5
"""Times as fast as plain decoding."""
EVERY_TOKENS = 4
"""A thought takes a tenth of a fast token."""
KEEP = 0.98
"""Of what was seen before, with each guess that is judged: the last 50 tell the rate."""
FIRST_RATE, FIRST_WEIGHT = 0.7, 4.0


@dataclass(slots=True)
class GuessesSeen:
    """Of a target's guesses, from reply to reply."""

    rate: Mean = field(default_factory=lambda: Mean(KEEP, FIRST_RATE, weight=FIRST_WEIGHT))
    guess_s: Mean = field(default_factory=lambda: Mean(0.9))
    """For one."""
    token_s: tuple[Ratio, Ratio] = field(default_factory=lambda: (Ratio(0.0, 0.0, 0.9), Ratio(0.0, 0.0, 0.9)))
    """As replies were seen to come, without and with guesses."""

    @property
    def gain(self) -> bool:
        """Do they, as far as is seen?"""
        without, with_guesses = self.token_s
        return not (without.whole and with_guesses.whole) or with_guesses.value < without.value


@dataclass(slots=True)
class Guessing:
    """Of one reply."""

    seen: GuessesSeen = field(default_factory=GuessesSeen)
    _last_s: float | None = None
    _num: int = FIRST
    """That are asked for."""
    _thinks_at: int = 0
    _probes_at: int = PROBE_TOKENS // 4
    _num_probes: int = 0
    """Passes left of a probe."""

    def told(self, num_guesses: int, seconds: float) -> None:
        if num_guesses:
            self.seen.guess_s.add(seconds / num_guesses)

    def passed(self, event: PassEvent) -> None:
        for index in range(event.num_guessed):
            self.seen.rate.add(float(index < event.num_guessed_right))
        if self._last_s is not None and event.num_committed:
            self.seen.token_s[self._num > 0].add(event.judged_s - self._last_s, event.num_committed)
        self._last_s = event.judged_s
        self._num_probes -= self._num_probes > 0

    def wanted(self, num_tokens: int, costs: PipelineCost | None, token_s: Callable[[Plan, Cycle], float]) -> int:
        """`num_tokens`: of the reply so far; `costs` None: not known yet."""
        if costs is None or not self.seen.guess_s.weight:
            return self._num
        if num_tokens >= self._thinks_at and not self._num_probes:
            self._thinks_at = num_tokens + EVERY_TOKENS
            best, gain = self._best(costs, token_s)
            self._num = best if self.seen.gain else 0
            if num_tokens >= self._probes_at and not (self._num and gain > BY_FAR):
                self._probes_at, self._num_probes = num_tokens + PROBE_TOKENS, PROBE_PASSES
                self._num = 0 if self._num else max(1, best)
        return self._num

    def _best(self, costs: PipelineCost, token_s: Callable[[Plan, Cycle], float]) -> tuple[int, float]:
        """By what is to be expected, and how many times as fast as plain decoding."""
        survival = [self.seen.rate.value**depth for depth in range(MAX_RUN + 1)]
        like = replace(costs, draft=CostLine(0.0, self.seen.guess_s.value))
        plans = options(like, survival, ("plain", "rounds"), range(1, MOST + 1))
        plain, *others = [(token_s(plan, cycle), plan.block) for plan, cycle in plans]
        best = min(plain, *others)
        return best[1], plain[0] / best[0]

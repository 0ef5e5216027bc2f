"""How long things really took, against what the formulas say for the draft tokens that came out right.

So luck with draft tokens cancels out, and what is left is what no formula knows: a machine that drafts and serves at
once, links that share a wire. Speculation section 6: "never slower than plain" is judged on what happened.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.cost import PipelineCost
from dsdnode.pacing.estimates import Experience
from dsdnode.pacing.formulas import reach_of, round_s, run_s
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan


@dataclass(slots=True)
class _Run:
    """Tokens since a rejection; how many of them, and when, at the last check."""

    mode: str
    checked_s: float
    checked: int = 0
    num_tokens: int = 0


class Stopwatch:
    """Tells an experience of every run and round (Experience.errors), and of tokens that hedges brought."""

    def __init__(self, experience: Experience) -> None:
        self._known = experience
        self._run: _Run | None = None
        self._last: PassEvent | None = None
        self._covered_s: float | None = None
        self._num_free = 0

    def forget(self) -> None:
        """Something happened that no formula is about."""
        self._run = self._last = self._covered_s = None

    def on_verdict(self, event: PassEvent, plan: Plan, costs: PipelineCost) -> None:
        if event.mode in ("plain", "rounds"):
            self._run = None
            self._pass(event, costs)
        else:
            self._streamed(event, plan, costs)
        self._last = event

    def _pass(self, event: PassEvent, costs: PipelineCost) -> None:
        """Of plain decoding or rounds: one comes after the other."""
        last = self._last
        if last is None or last.mode != event.mode or not event.alone or event.num_positions != event.num_draft + 1:
            return
        expected_s = round_s(costs, event.num_draft)
        self._told(event.mode, event.judged_s - last.judged_s, expected_s, costs)

    def _streamed(self, event: PassEvent, plan: Plan, costs: PipelineCost) -> None:
        run, is_rejected = self._run, event.num_judged > event.num_accepted
        self._followed(event, costs)
        self._count_free(event, costs)
        if run is not None and run.mode != event.mode:
            run = None
        if run is not None:
            run.num_tokens += event.num_committed
            if is_rejected or run.num_tokens - run.checked >= self._known.tuning.check_tokens:
                self._check(run, event, plan, costs)
        if is_rejected:
            run = None if event.covered else _Run(event.mode, event.judged_s)
        self._run = run

    def _followed(self, event: PassEvent, costs: PipelineCost) -> None:
        """Verdicts further apart than their blocks were sent: the pipeline takes so long for a block."""
        last = self._last
        if last is None or last.epoch != event.epoch or last.num_judged > last.num_accepted or not event.stage_s:
            return
        gap_s = event.judged_s - last.judged_s
        later_s = event.sent_s - last.sent_s + costs.pass_s(event.num_positions) - costs.pass_s(last.num_positions)
        if later_s < self._known.tuning.crowded * gap_s:
            reckoned_s = costs.slowest_s(event.num_positions) + costs.handling_s
            self._known.costs.handled(gap_s - reckoned_s)

    def _check(self, run: _Run, event: PassEvent, plan: Plan, costs: PipelineCost) -> None:
        reach = reach_of(self._known.acceptance.survival())
        sizes = max(1, min(plan.block, reach)), min(plan.window, reach)
        expected_s = run_s(costs, run.num_tokens - 1, *sizes)
        if run.checked:
            expected_s -= run_s(costs, run.checked - 1, *sizes)
        self._told(run.mode, event.judged_s - run.checked_s, expected_s, costs)
        run.checked, run.checked_s = run.num_tokens, event.judged_s

    def _count_free(self, event: PassEvent, costs: PipelineCost) -> None:
        """Tokens that were committed soon after a covered rejection."""
        if self._covered_s is not None:
            is_soon = event.judged_s - self._covered_s < self._known.tuning.soon * costs.pass_s(1)
            self._num_free += event.num_committed if is_soon else 0
            if not is_soon or event.num_judged > event.num_accepted:
                self._known.coverage.free.add(self._num_free)
                self._covered_s = None
        if event.covered:
            self._covered_s, self._num_free = event.judged_s, 0

    def _told(self, mode: str, real_s: float, expected_s: float, costs: PipelineCost) -> None:
        unit_s = costs.pass_s(1)
        if expected_s > 0 and unit_s > 0:
            real_s = min(real_s, self._known.tuning.max_error * expected_s)
            self._known.errors[mode].add(real_s / unit_s, expected_s / unit_s)

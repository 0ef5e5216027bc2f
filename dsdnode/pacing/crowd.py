"""What a pass of ours takes from others that wait at the stages: the price of a place in a decode that is shared.

While the waits are shorter than a decode, everybody has a place in the next one, and takes from the others what that
place adds to it. Where they are longer, decodes leave full: each position of ours keeps another one out, and costs its
part of the whole decode. Throughput asks here while others are at the stages. docs/theory.md, section 7.
"""

from __future__ import annotations

from dataclasses import replace

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.estimates import PipelineEstimate
from dsdnode.pacing.fits import Mean
from dsdnode.pacing.formulas import Cycle
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan


class Crowd:
    """Of one reply, at the stage where the most others are."""

    def __init__(self, tuning: Tuning = TUNING) -> None:
        self._tuning = tuning
        self._full = Mean()
        """Share of the decodes that leave somebody behind."""
        self._place_s = Mean()
        """The stage's time for one position, whoever's."""
        self._size = Mean()
        """Positions of our passes."""

    def passed(self, event: PassEvent) -> None:
        """By Little's law the stage ends somebody's pass every (wait + decode) / (those there) seconds."""
        others = max(event.queue, default=0)
        if not others or not len(event.queue) == len(event.waited_s) == len(event.stage_s):
            return
        stage = event.queue.index(others)
        waited_s, decode_s = event.waited_s[stage], event.stage_s[stage]
        self._full.add(min(1.0, max(0.0, waited_s / max(decode_s, 1e-9) - self._tuning.next_decode)))
        self._place_s.add((waited_s + decode_s) / (others + 1) / (event.num_positions + self._tuning.run_positions))
        self._size.add(event.num_positions)

    def costs(self, pipeline: PipelineEstimate) -> PipelineCost:
        """Waits are the others' blocks as ours are theirs: `priced` has them. And how long a decode takes that is
        mostly others' says nothing of a position's cost: there the records are asked, which know whole decodes."""
        known, expected = pipeline.costs(), pipeline.expected
        if not self._size.weight:
            return known
        stages = known.stages
        if expected is not None and len(expected.stages) == len(stages):
            stages = tuple(map(self._with_slope, stages, expected.stages))
        return replace(known, stages=stages, network_s=known.network_s - pipeline.waits.value)

    def _with_slope(self, seen: CostLine, said: CostLine) -> CostLine:
        """As high at our usual size as it was seen, as steep as the record says."""
        size = self._size.value
        return CostLine(max(0.0, seen.fixed_s + (seen.slope_s - said.slope_s) * size), said.slope_s)

    def priced(self, plan: Plan, cycle: Cycle) -> Cycle:
        """What the cycle takes from each of the others. (A stream takes whole decodes anyway: formulas.Cycle.)"""
        if plan.mode not in ("plain", "rounds"):
            return cycle
        full, place_s = self._full.value, self._place_s.value * (plan.block + 1 + self._tuning.run_positions)
        return replace(cycle, used_s=(1 - full) * cycle.used_s + full * place_s, shared_s=(1 - full) * cycle.shared_s)

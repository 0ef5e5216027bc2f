"""What a controller learns while it watches: everything decays, so that the last few dozen tokens decide.

Acceptance by depth with a Beta prior, cost lines by decayed least squares, the network as what is left of a pass, the
draft engine's time, the load of others, and how far predictions were off. Speculation section 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.fits import MAX_FITTED_POSITIONS, CostFit, Mean, Ratio
from dsdnode.pacing.formulas import MAX_RUN, HedgeValue, plain_speed
from dsdnode.pacing.guessing import GuessesSeen
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.speculation.events import PassEvent
from dsdnode.wire.replies import Statistics

RECENT_TOKENS = 10.0
"""Draft tokens: the last few, that tell whether the text has changed."""
DEPTHS = (0, 1, 2, 4, 8)
"""Where the classes of depth begin."""
SAME_SHARE, SAME_S = 0.3, 0.002
"""By this share and so much more may what records and pings say of a pipeline change from reply to reply: more than
pings of one link differ, less than another machine would."""
MAX_BARE = 4
"""Passes in a row for which no draft token was there in time, before the draft engine counts as that slow: a prompt is
read for a pass or two."""
LEAST_PASSES = 4
"""So few say of no line how certain it is."""


class AcceptanceEstimate:
    """How likely the next draft token is right, by the number of right ones before it."""

    def __init__(self, tuning: Tuning = TUNING) -> None:
        self._tuning = tuning
        keep, rate = 1 - 1 / tuning.memory, tuning.prior_rate
        self._all = Ratio(rate * tuning.prior_weight, tuning.prior_weight, keep)
        self._recent = Ratio(rate * RECENT_TOKENS, RECENT_TOKENS, 1 - 1 / RECENT_TOKENS)
        self._by_depth = [Ratio(0.0, 0.0, keep) for _ in DEPTHS]

    @property
    def rate(self) -> float:
        return self._all.value

    def judged(self, depth: int, num_judged: int, num_accepted: int) -> None:
        for index in range(num_judged):
            right = float(index < num_accepted)
            self._all.add(right)
            self._recent.add(right)
            self._by_depth[_class_of(depth + index)].add(right)
            if abs(self._recent.value - self.rate) > self._tuning.turn:
                self._weigh(0.5)

    def _weigh(self, share: float) -> None:
        for ratio in (self._all, *self._by_depth):
            ratio.part *= share
            ratio.whole *= share

    def begin_reply(self) -> None:
        """Another text: what was learned counts half, the prior half."""
        self._weigh(0.5)
        self._all.part += self._tuning.prior_rate * self._tuning.prior_weight / 2
        self._all.whole += self._tuning.prior_weight / 2

    def survival(self) -> list[float]:
        """[m]: probability of a run of at least m right draft tokens; MAX_RUN + 1 values."""
        weight = self._tuning.depth_weight
        rates = [(ratio.part + weight * self.rate) / (ratio.whole + weight) for ratio in self._by_depth]
        chances = [1.0]
        for depth in range(MAX_RUN):
            chances.append(chances[-1] * rates[_CLASSES[depth]])
        return chances


_CLASSES = [sum(depth >= start for start in DEPTHS) - 1 for depth in range(MAX_RUN)]


def _class_of(depth: int) -> int:
    return _CLASSES[min(depth, MAX_RUN - 1)]


class PipelineEstimate:
    """Stages, network and draft engine of one pipeline. The prior is what records say, else the first pass."""

    def __init__(self, expected: PipelineCost | None = None, tuning: Tuning = TUNING) -> None:
        self._tuning = tuning
        self.stages: list[CostFit] = []
        self.network = self._fit(slope_weight=tuning.network_slope_weight)
        """What is left of a pass; its slope is bandwidth. Jitter is told apart from that by a slope hard to move."""
        self.waits = Mean()
        """Of a pass that nothing of the reply was in the way of: others'."""
        self.others = Mean(keep=tuning.others_keep)
        self.draft = self._fit(keep=tuning.draft_keep, least_slope=tuning.draft_least_slope)
        """A call of the draft engine, by its tokens: each costs something before the first."""
        self.draft.expect(CostLine(0.0, tuning.draft_s), 0.5)
        self.jitter = Mean()
        self.handling = Mean(keep=0.9)
        self.handling.add(tuning.handling_s)
        self._num_bare = 0
        self.expected = expected
        if expected is not None:
            self._expect(expected)

    @property
    def is_known(self) -> bool:
        return bool(self.stages) and self.network.is_known

    def is_of(self, costs: PipelineCost) -> bool:
        """Do records say of this pipeline what they said of ours? Then it is ours, or as good."""
        known = self.expected
        if known is None or len(known.stages) != len(costs.stages):
            return False
        fixed_s = ([*(stage.fixed_s for stage in one.stages), one.network_s] for one in (known, costs))
        pairs = zip(*fixed_s, strict=True)
        return all(abs(new - old) <= SAME_SHARE * old + SAME_S for old, new in pairs)

    def _fit(self, keep: float = 0.0, slope_weight: float = 0.0, least_slope: float = 0.0) -> CostFit:
        """Zeros: as the tuning has it."""
        tuning = self._tuning
        return CostFit(
            keep or tuning.fit_keep,
            slope_weight or tuning.fit_slope_weight,
            least_slope,
            far=tuning.fit_far,
            many_far=tuning.fit_many_far,
        )

    def _expect(self, costs: PipelineCost) -> None:
        self.stages = [self._fit() for _ in costs.stages]
        for fit, line in zip(self.stages, costs.stages, strict=True):
            fit.expect(line)
        self.network.expect(CostLine(costs.network_s, costs.num_hops * costs.payload_s))

    def handled(self, excess_s: float) -> None:
        """A block that had to wait for the one before it came so much later than was reckoned with."""
        self.handling.add(min(self._tuning.max_handling_s, max(0.0, self.handling.value + excess_s)))

    def drafted(self, num_tokens: int, seconds: float) -> None:
        self._num_bare = 0
        self.draft.add(num_tokens, seconds)

    def _came_bare(self, event: PassEvent) -> None:
        """A verdict that came before a single draft token was there: a draft engine that slow never tells its time."""
        is_bare = event.mode in ("stream", "hedged") and event.num_positions == 1 and event.num_judged == 0
        self._num_bare = self._num_bare + 1 if is_bare else 0
        if self._num_bare > MAX_BARE:
            self.draft.add(1, event.judged_s - event.sent_s)

    def passed(self, event: PassEvent) -> None:
        """A pass came back. Prefill, and passes whose stages did not say how long they took, tell nothing."""
        if event.queue:
            self.others.add(max(event.queue))
        self._came_bare(event)
        if not event.stage_s or event.num_positions > MAX_FITTED_POSITIONS:
            return
        if len(event.stage_s) < len(self.stages):
            return  # closed unrun: the judge knew without
        if len(event.stage_s) > len(self.stages):
            self.stages = [self._fit() for _ in event.stage_s]
        for fit, seconds in zip(self.stages, event.stage_s, strict=True):
            fit.add(event.num_positions, seconds)
        waited_s = sum(event.waited_s)
        rest_s = max(0.0, event.judged_s - event.sent_s - sum(event.stage_s) - waited_s)
        self.jitter.add(rest_s)
        self.network.add(event.num_positions, rest_s)
        if event.alone and (event.mode in ("plain", "rounds") or any(event.queue)):
            self.waits.add(waited_s)  # a stream's own dead blocks are no news: formulas.stream_cycle counts them

    def costs(self) -> PipelineCost:
        network = self.network.line
        return PipelineCost(
            stages=tuple(fit.line for fit in self.stages),
            network_s=network.fixed_s + self.waits.value,
            draft=self.draft.line,
            payload_s=network.slope_s / (len(self.stages) + 1),
            handling_s=self.handling.value,
        )


class Coverage:
    """What hedging brings: the share of rejections covered, and the tokens that come soon after, without a pass."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        weight = tuning.prior_weight
        self.share = Ratio(tuning.covered_share * weight, weight, tuning.coverage_keep)
        self.free = Ratio(tuning.free_tokens * weight, weight, tuning.free_keep)

    @property
    def hedging(self) -> HedgeValue:
        tuning = self._tuning
        return HedgeValue(min(1.0, self.share.value), self.free.value, tuning.hedged_share, tuning.second_hedge)

    def begin_reply(self) -> None:
        """Of what hedges did not bring a quarter is forgotten: else what failed for a moment would never be tried
        again."""
        for ratio, prior in ((self.share, self._tuning.covered_share), (self.free, self._tuning.free_tokens)):
            if ratio.value < prior:
                ratio.fade(prior)


class Experience:
    """All that is known of a draft model and a pipeline. A drafter keeps one for each target and pipeline, and hands it
    from reply to reply; it does not grow. What it says changes speed alone, never text.
    """

    def __init__(self, tuning: Tuning = TUNING) -> None:
        self.tuning = tuning
        self.acceptance = AcceptanceEstimate(tuning)
        self.costs = PipelineEstimate(tuning=tuning)
        """Of the pipeline used last."""
        self.coverage = Coverage(tuning)
        self.guesses = GuessesSeen()
        self.errors = {mode: Ratio(2.0, 2.0, tuning.error_keep) for mode in ("plain", "rounds", "stream", "hedged")}
        """Realised over predicted time in each mode, for what was accepted: how far the formulas are off here."""
        self.num_tokens = 0
        self.plain_ago = 1 << 30
        """Tokens since plain decoding was measured with nothing drafted beside it."""

    def begin_reply(self) -> None:
        """Another text, and a while later: of what was learned of a mode's errors a quarter goes."""
        self.acceptance.begin_reply()
        self.coverage.begin_reply()
        for error in self.errors.values():
            error.fade(1.0)

    def judged(self, event: PassEvent) -> None:
        """All but the pipeline's part: a reply tells that of its own."""
        self.acceptance.judged(event.depth, event.num_model_judged, event.num_model_accepted)
        self.num_tokens += event.num_committed
        self.plain_ago += event.num_committed
        if event.mode == "hedged" and event.num_judged > event.num_accepted:
            self.coverage.share.add(event.covered)


def with_estimates(told: Statistics, passes: Sequence[PassEvent]) -> Statistics:
    """Of a reply, what its passes say beside their number."""
    return replace(told, plain_tokens_per_second=plain_estimate(passes), links_share=links_share(passes))


def links_share(passes: Iterable[PassEvent]) -> float | None:
    """Of the passes' time, what their hidden states took on the links for their size: that much is at least certain.

    By the line through all that passes took beside stages and queues: what larger ones took longer. A pass that was
    sent behind others of its reply may have waited for them there, and tells nothing, but for the end of the prompt: it
    waited for all of that. None: all were of one size.
    """
    seen = [one for index, one in enumerate(passes) if one.stage_s and (one.alone or not index)]
    sizes = [one.num_positions if one.alone else one.position + one.num_positions for one in seen]
    took = [one.judged_s - one.sent_s for one in seen]
    rest = [max(0.0, all_s - sum(one.stage_s) - sum(one.waited_s)) for all_s, one in zip(took, seen, strict=True)]
    num = len(seen)
    if num < LEAST_PASSES or len(set(sizes)) < 2:
        return None
    mean_size, mean_s = sum(sizes) / num, sum(rest) / num
    spread = sum((size - mean_size) ** 2 for size in sizes)
    slope = sum((size - mean_size) * (one - mean_s) for size, one in zip(sizes, rest, strict=True)) / spread
    errors = sum((one - mean_s - slope * (size - mean_size)) ** 2 for size, one in zip(sizes, rest, strict=True))
    certain = max(0.0, slope - 2 * math.sqrt(errors / (num - 2) / spread))
    return min(1.0, certain * sum(sizes) / max(sum(took), 1e-9))


def plain_estimate(passes: Iterable[PassEvent]) -> float | None:
    """Tokens a second that plain decoding would have had of this pipeline, by what these passes cost (section 3)."""
    costs = PipelineEstimate()
    for event in passes:
        costs.passed(event)
    known = costs.costs()
    return plain_speed(known) if costs.is_known and known.pass_s(1) > 0 else None

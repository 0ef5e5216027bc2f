"""The default policy: the plan with the most tokens per second, by what was just measured. Speculation section 6.

Every few verdicts the fastest of formulas.options is looked for, each mode's time corrected by how far predictions in
it were off of late. Block and window move by a little a step, the mode changes for a gain worth the change.
Never slower than plain decoding, so:

    plain     wherever nothing gains 2 %; now and then a few cheap draft tokens tell whether that is still so (a probe)
    trial     where the gain is small, a few plain passes with nothing drafted beside them tell what plain really costs
    others    that wait at the stages: what a plan takes from each of them counts too (crowd.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.crowd import Crowd
from dsdnode.pacing.estimates import Experience, PipelineEstimate
from dsdnode.pacing.formulas import MAX_RUN, Cycle, options
from dsdnode.pacing.guessing import Guessing
from dsdnode.pacing.realised import Stopwatch
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Mode, Plan

MODES: tuple[Mode, ...] = ("plain", "rounds", "stream", "hedged")
COPYING: tuple[Mode, ...] = ("rounds", "stream")
FIRST_WINDOW = 8
"""Draft tokens in flight until the first decision, a few tokens later."""
WORTH_A_DRAFT = 0.98
"""Of plain decoding's time: what gains less is not worth drafting."""
DRAFTS_FROM_TOKENS = 8
"""A draft model that nothing is known of gets so many tokens to show what it can do."""
PROBE_TOKENS = 32
"""Until the first probe of plain decoding; doubled each time that it brings nothing: all of them together cost a long
reply next to nothing."""
PROBE_DRAFTS, PROBE_PASSES = 3, 8
"""A probe ends after so many wrong draft tokens, or passes."""
TRIAL_PASSES, TRIAL_GAP_TOKENS = 5, 256
"""Passes of plain decoding, to measure it, and tokens from one trial to the next: where drafting gains less than half
(`trial_gain`), five plain passes in so many tokens cost a hundredth."""


@dataclass(frozen=True, slots=True)
class _Option:
    """`token_s`: seconds a token, corrected, others' among them."""

    plan: Plan
    token_s: float


@dataclass(slots=True)
class _Excursion:
    """Passes left, and wrong draft tokens; `back`: the plan before."""

    back: Plan
    num_passes: int
    num_tokens: int


class Throughput:
    """`modes` that are allowed. `experience`: of earlier replies with this draft model and pipeline; `copies`: draft
    tokens that are copied, too."""

    def __init__(
        self,
        draft_max: int,
        modes: Sequence[Mode] = MODES,
        experience: Experience | None = None,
        *,
        copies: bool = True,
    ) -> None:
        self._known = Experience() if experience is None else experience
        self.may_copy = copies
        self._tuning = self._known.tuning
        self._draft_max = min(draft_max, self._tuning.max_block)
        self._modes: tuple[Mode, ...] = tuple(modes) if draft_max > 0 else ("plain",)
        self._known.begin_reply()
        self._costs = self._known.costs
        """Of this reply's pipeline: another reply may have another."""
        self._watch = Stopwatch(self._known)
        self._guessing = Guessing(self._known.guesses)
        self._crowd: Crowd | None = None
        """Of the others that were met at the stages."""
        self._num_tokens = 0
        self._step_at = 0
        self._num_looks = 0
        self._plain_at = 0
        """Since when (tokens) the plan is plain, or the last probe of it."""
        self._probe_gap = PROBE_TOKENS // 4
        """The first one early: an experience that says plain is of other texts."""
        self._excursion: _Excursion | None = None
        """A probe or a trial."""
        self._plan = self._first_plan()
        if experience is not None:
            self._start()

    def plan(self) -> Plan:
        return self._plan

    def copying(self, survival: Sequence[float]) -> Plan | None:
        """The fastest round or stream of them, if it is faster than the plan is without."""
        if not self.may_copy or not self._costs.is_known:
            return None
        costs, reach = self._costs.costs(), min(self._draft_max, len(survival) - 1)
        padded = [*survival[: MAX_RUN + 1], *[0.0] * (MAX_RUN + 1 - len(survival))]
        blocks = sorted({max(1, reach >> halved) for halved in range(4)})
        free = replace(costs, draft=CostLine(0.0, 0.0))
        plans = options(free, padded, COPYING, blocks, None, self._costs.jitter.spread, self._tuning)
        plan, token_s = min(((plan, self._token_s(plan, cycle)) for plan, cycle in plans), key=lambda one: one[1])
        now = options(costs, self._known.acceptance.survival(), [self._plan.mode], [self._plan.block or 1])
        others = min(self._token_s(one, cycle) for one, cycle in now)
        return replace(plan, copied=True) if token_s < WORTH_A_DRAFT * others else None

    def guesses(self) -> int:
        costs = self._costs.costs() if self._costs.is_known else None
        return self._guessing.wanted(self._num_tokens, costs, self._token_s) if self.may_copy else 0

    def on_guesses(self, num_guesses: int, seconds: float) -> None:
        self._guessing.told(num_guesses, seconds)

    def on_route(self, costs: PipelineCost) -> None:
        if not self._costs.is_of(costs):
            self._costs = self._known.costs = PipelineEstimate(costs, self._tuning)
        self._watch.forget()
        if self._num_tokens == 0:
            self._start()

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        self._costs.drafted(num_tokens, seconds)

    def on_failure(self) -> None:
        self._watch.forget()

    def on_verdict(self, event: PassEvent) -> None:
        self._known.judged(event)
        self._costs.passed(event)
        self._guessing.passed(event)
        if any(event.queue):
            self._crowd = self._crowd or Crowd(self._tuning)
            self._crowd.passed(event)
        self._num_tokens += event.num_committed
        if not self._costs.is_known:
            return
        if event.copied:
            return self._watch.forget()  # of a plan for its own draft tokens it tells nothing
        self._watch.on_verdict(event, self._plan, self._costs.costs())
        if self._excursion is not None:
            self._go_on_excursion(self._excursion, event)
        elif self._is_time(event):
            self._decide()

    # --- deciding -------------------------------------------------------------------------------------------------

    def _is_time(self, event: PassEvent) -> bool:
        """A decision costs a tenth of a fast token: not one at every verdict, and in plain decoding only for probes."""
        since = self._num_tokens - self._step_at
        if self._plan.mode == "plain":
            return (
                self._num_tokens >= self._plain_at + min(PROBE_TOKENS, self._probe_gap) and since >= PROBE_TOKENS // 4
            )
        return since >= (
            self._tuning.tokens_a_step // 2 if event.num_judged > event.num_accepted else self._tuning.tokens_a_step
        )

    def _first_plan(self) -> Plan:
        """Before anything is known of the pipeline."""
        if self._modes == ("plain",):
            return Plan("plain", 0, 0)
        block = min(self._tuning.first_block, self._draft_max)
        if "stream" in self._modes:
            return Plan("stream", block, FIRST_WINDOW)
        return Plan("rounds", block, block) if "rounds" in self._modes else Plan("hedged", block, FIRST_WINDOW, 1)

    def _start(self) -> None:
        """From what earlier replies, or else records, say; those know nothing of the draft model, so it gets a try."""
        if not self._costs.is_known or self._modes == ("plain",):
            return
        best = self._best_by_mode()
        mode = self._best_mode(best, self._plan.mode) if self._known.num_tokens else self._plan.mode
        if mode == "plain":
            return self._change(best, mode)
        block = min(best[mode].plan.block, self._tuning.max_first_block)
        self._plan = replace(best[mode].plan, block=block, window=block if mode == "rounds" else best[mode].plan.window)

    def _decide(self, *, is_back: bool = False) -> None:
        """`is_back`: from an excursion, of which people are told how it ended."""
        if self._modes == ("plain",):
            return
        self._step_at = self._num_tokens
        best = self._best_by_mode()
        mode = self._best_mode(best, self._plan.mode)
        if self._plan.mode == "plain" and not is_back:
            soon = PROBE_TOKENS if mode != "plain" else self._probe_gap
            if self._num_tokens >= self._plain_at + min(soon, self._probe_gap):
                self._probe()
        elif mode != self._plan.mode or is_back:
            self._change(best, mode)
        elif self._wants_trial(best):
            self._try_plain()
        else:
            plan = self._step(best[mode].plan)
            if plan != replace(self._plan, reason=""):
                self._plan = plan

    def _best_by_mode(self) -> dict[Mode, _Option]:
        """Of each mode the fastest plan; of the present mode the present block, unless another gains 1 %."""
        known, best, same = self._known, dict[Mode, _Option](), None
        crowd = self._crowd if self._is_crowded else None
        costs = self._costs.costs() if crowd is None else crowd.costs(self._costs)
        survival = known.acceptance.survival()
        hedging, jitter_s = known.coverage.hedging, self._costs.jitter.spread
        modes = self._modes
        if "stream" in modes and (
            known.num_tokens < self._tuning.hedged_from_tokens or self._plan.mode not in ("stream", "hedged")
        ):
            modes = tuple(mode for mode in modes if mode != "hedged")
        for plan, cycle in options(costs, survival, modes, self._blocks(), hedging, jitter_s, self._tuning):
            option = _Option(plan, self._token_s(plan, cycle))
            if plan.mode not in best or option.token_s < best[plan.mode].token_s:
                best[plan.mode] = option
            if (plan.mode, plan.block) == (self._plan.mode, self._plan.block):
                same = option
        if same is not None and self._tuning.worth_a_block * same.token_s <= best[same.plan.mode].token_s:
            best[same.plan.mode] = same
        return best

    def _blocks(self) -> range:
        """Those within a step's reach; now and then all, for another mode's best may be far away."""
        self._num_looks += 1
        now = self._plan.block
        if now == 0 or self._num_looks % self._tuning.full_look == 1:
            return range(1, self._draft_max + 1)
        return range(max(1, now - self._tuning.max_step), min(self._draft_max, now + self._tuning.max_step) + 1)

    def _token_s(self, plan: Plan, cycle: Cycle) -> float:
        error = self._known.errors[plan.mode].value
        if plan.mode == "hedged":
            error = max(error, self._known.errors["stream"].value)
        cycle = replace(cycle, seconds=cycle.seconds * error)
        if self._crowd is not None and self._is_crowded:
            cycle = self._crowd.priced(plan, cycle)
        return cycle.token_s(self._costs.others.value)

    @property
    def _is_crowded(self) -> bool:
        return self._costs.others.value >= self._tuning.somebody

    def _best_mode(self, best: dict[Mode, _Option], now: Mode) -> Mode:
        mode = min(best, key=lambda mode: best[mode].token_s)
        if now in best and best[mode].token_s > self._tuning.worth_a_change * best[now].token_s:
            mode = now
        if (
            mode == "hedged"
            and "stream" in best
            and best["stream"].token_s < best[mode].token_s / self._tuning.worth_a_block
        ):
            mode = "stream"
        is_new = self._known.num_tokens < DRAFTS_FROM_TOKENS and now != "plain"
        if "plain" in best and not is_new and best[mode].token_s > WORTH_A_DRAFT * best["plain"].token_s:
            return "plain"
        return now if mode == "plain" and is_new else mode

    def _change(self, best: dict[Mode, _Option], mode: Mode) -> None:
        """To `mode`, saying why."""
        accepted = f"drafts are accepted {_percent(self._known.acceptance.rate)} of the time"
        if mode == "plain":
            drafting_s = min(option.token_s for other, option in best.items() if other != "plain")
            cost = 1 - best["plain"].token_s / drafting_s
            effect = f"cost {_percent(cost)}" if cost >= 0.01 else "gain nothing"
            self._plan = Plan("plain", 0, 0, reason=f"{accepted}: drafting would {effect}")
            self._plain_at = self._num_tokens
            self._probe_gap = max(PROBE_TOKENS, 2 * self._probe_gap)
            return
        self._probe_gap = PROBE_TOKENS // 2
        gain = best["plain"].token_s / best[mode].token_s if "plain" in best else 0.0
        reason = f"{accepted}: {gain:.1f} times plain decoding expected" if gain else accepted
        self._plan = replace(self._step(best[mode].plan), reason=reason)

    def _step(self, aim: Plan) -> Plan:
        """Towards `aim`, by at most self._tuning.max_step, windows by as many blocks."""
        now = self._plan.block or self._tuning.first_block
        block = min(max(aim.block, now - self._tuning.max_step), now + self._tuning.max_step)
        if aim.mode == "rounds":
            return Plan("rounds", block, block)
        window = self._plan.window or FIRST_WINDOW
        if aim.mode != self._plan.mode or block != now or abs(aim.window - window) > window / self._tuning.window_share:
            window = min(
                max(aim.window, window - self._tuning.max_step * block), window + self._tuning.max_step * block
            )
        return Plan(aim.mode, block, max(block, window), aim.hedges)

    # --- excursions -----------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        """A few draft tokens that cost next to nothing: in a stream the given token does not wait for them."""
        mode = next(mode for mode in ("stream", "hedged", "rounds") if mode in self._modes)
        plan = Plan(mode, 1, 1 if mode == "rounds" else 2, int(mode == "hedged"), "trying drafts again")
        self._excursion = _Excursion(self._plan, PROBE_PASSES, PROBE_DRAFTS)
        self._plan = plan

    def _wants_trial(self, best: dict[Mode, _Option]) -> bool:
        if (
            "plain" not in best
            or self._num_tokens < self._tuning.trial_tokens
            or self._known.plain_ago < TRIAL_GAP_TOKENS
        ):
            return False
        if self._is_crowded:
            return False  # what it would measure is the others' work
        return best["plain"].token_s < self._tuning.trial_gain * best[self._plan.mode].token_s

    def _try_plain(self) -> None:
        self._excursion = _Excursion(self._plan, TRIAL_PASSES, TRIAL_PASSES)
        self._plan = Plan("plain", 0, 0, reason="measuring what plain decoding costs")

    def _go_on_excursion(self, excursion: _Excursion, event: PassEvent) -> None:
        if event.mode != self._plan.mode:
            return
        excursion.num_passes -= 1
        excursion.num_tokens -= event.num_judged - event.num_accepted
        if excursion.num_passes > 0 and excursion.num_tokens > 0:
            return
        if self._plan.mode == "plain":
            self._known.plain_ago = 0
        self._plan, self._excursion = excursion.back, None
        self._decide(is_back=True)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"

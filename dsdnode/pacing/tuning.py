"""Every number that decides how fast, none of which decides what: in one place, each with its reason.

They were found by reasoning, which stands beside each, and kept because nothing nearby is better: docs/tuning.md shows
what half and double of each do to tokens a second, to the slowest replies and to the pause after a death; none of them
gains a hundredth on the whole (`python -m tests.sim.tuning` measures it). Numbers that move none of these are plain
constants where they are used. Changing one never changes a reply's text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Shares and counts have no unit; `_s` are seconds, `_tokens` tokens of the reply."""

    # --- acceptance: a Beta prior that fades
    prior_rate: float = 0.75
    """Of a draft token, before anything is known: between GSM8K (.85) and HumanEval (.6) on the demo pair."""
    prior_weight: float = 4.0
    """Draft tokens that the prior counts as: ten wrong ones in a row and the estimate is under a quarter."""
    memory: float = 48.0
    """Draft tokens; older ones fade. About the last reply's length."""
    turn: float = 0.35
    """Where the last few are so far from the estimate, the past counts half."""
    depth_weight: float = 8.0
    """Draft tokens that the overall rate counts as in each class of depth."""

    # --- what a pipeline costs
    fit_keep: float = 0.94
    """What the past of a cost line retains at each pass: the last 17 decide."""
    fit_slope_weight: float = 2.0
    """What a slope so far counts for, in squared positions."""
    fit_far: float = 0.6
    """A pass that takes so much more or less than the line says counts as one at that edge."""
    fit_many_far: int = 3
    """So many in a row, on one side: another machine."""
    network_slope_weight: float = 30.0
    """Of the links: jitter must not look like bandwidth."""
    others_keep: float = 0.8
    """Of how many others are at the stages: they come and go within a few passes."""
    draft_keep: float = 0.9
    """Of a draft call's time: the last ten calls decide, since a laptop's owner starts and ends other things."""
    draft_least_slope: float = 0.3
    """Of a draft call's time, a token's share at least: calls of one size alone cannot tell."""
    draft_s: float = 0.003
    """A draft token, before one was timed."""
    handling_s: float = 0.0007
    """Of a block at a peer, beside its decode, before anything is known: it keeps fast machines from very small
    blocks, and pipelines from needless stages. A quiet daemon's own time for a block."""
    max_handling_s: float = 0.02
    """One pass that was held up for seconds must not count as what every block costs."""

    # --- hedges
    covered_share: float = 0.3
    free_tokens: float = 1.3
    """What hedges bring before anything is known: so many rejections covered, so many tokens each without a pass."""
    coverage_keep: float = 0.95
    free_keep: float = 0.9
    hedged_share: float = 0.3
    """Blocks that carry a hedge, for each that is allowed: only where the draft model is unsure."""
    second_hedge: float = 0.3
    """What another hedge brings, as a share of the first."""
    hedged_window: float = 1.5
    """Hedges fill the window too."""
    hedged_from_tokens: int = 32
    """Until then it is not known whether draft tokens fail where a second choice would have been right."""
    soon: float = 0.6
    """Of a pass: tokens that come sooner after a covered rejection came without one."""

    # --- the plan with the most tokens a second
    first_block: int = 2
    max_first_block: int = 4
    """Whatever the records promise: the draft model has not yet shown what it can do."""
    max_block: int = 16
    max_step: int = 2
    """Draft tokens (windows: blocks) by which a decision moves at most."""
    tokens_a_step: int = 4
    """A decision costs a tenth of a fast token."""
    full_look: int = 4
    """One decision in so many weighs every block, not only those within a step."""
    window_share: float = 4.0
    """A part of so many, more or less, is the same window."""
    runs_in_flight: float = 3.0
    """More draft tokens in flight than so many runs' length are hardly ever right."""
    worth_a_change: float = 0.97
    """Another mode must take less than so much of the time a token takes now, or modes would go to and fro."""
    worth_a_block: float = 0.99
    """The same of another block or window, which costs less to change."""
    error_keep: float = 0.9
    """Of how far predictions were off, by run."""
    max_error: float = 2.5
    """One run counts as at most so many times what was reckoned."""
    check_tokens: int = 16
    """A run is looked at when it ends, and so often while it goes on."""
    crowded: float = 0.7
    """Blocks whose verdicts should have been less than so much of their time apart stood in line."""

    # --- plain decoding, and the way back
    trial_tokens: int = 24
    """A reply must be so long before plain decoding is tried for measurement,"""
    trial_gain: float = 1.5
    """and only where drafting gains less than this."""

    # --- others at the stages
    somebody: float = 1.0
    """Others on average, from which on a pipeline is crowded."""
    next_decode: float = 0.25
    """Of a decode: a wait so long is for the end of the one in work, not for a place."""
    run_positions: float = 1.0
    """What a run costs a decode beside its positions, as so many of them."""

    # --- stages slower than they say
    slow_verdicts: int = 4
    """In a row, before a stage counts as slow."""
    slow_pass_share: float = 0.3
    """It must also be what passes wait for."""

    # --- placement
    spread: float = 0.1
    """Peers that are better by less than this share are as good as others: each session has a taste of its own."""


TUNING = Tuning()

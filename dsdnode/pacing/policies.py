"""Window controllers by name, as `--window` spells them."""

from __future__ import annotations

import re

from dsdnode.config import MAX_DRAFT
from dsdnode.errors import BadInput
from dsdnode.pacing.awc import AdaptiveWindow, ThresholdWindow
from dsdnode.pacing.estimates import Experience
from dsdnode.pacing.throughput import MODES, Throughput
from dsdnode.speculation.controller import Fixed, FixedPlan, WindowController
from dsdnode.speculation.plan import Mode, Plan

ALLOWED: dict[str, tuple[Mode, ...]] = {
    "throughput": MODES,
    "throughput:rounds": ("plain", "rounds"),
    "throughput:stream": ("plain", "stream"),
    "throughput:hedged": ("plain", "stream", "hedged"),
}
ROUNDS = ("fixed", "threshold", "awc")
SPELLINGS = (*ROUNDS, *ALLOWED, "stream:BLOCK:WINDOW", "hedged:BLOCK:WINDOW:HEDGES")
_FIXED_PLAN = re.compile(r"(?:stream:(\d{1,2}):(\d{1,2})|hedged:(\d{1,2}):(\d{1,2}):(\d))")


def policy_of(
    name: str, draft_max: int, experience: Experience | None = None, *, hedges: bool = True
) -> WindowController:
    """`draft_max`: the largest round, or block of a stream; 0 is plain decoding, whatever the name. `hedges` False:
    no branches beside the main line, which `throughput` does without.

    Raises BadInput, naming what is allowed.
    """
    fixed = _fixed_plan(name)
    if fixed is None and name not in (*ROUNDS, *ALLOWED):
        raise BadInput(f"no window policy is called {name!r}: choose from {', '.join(SPELLINGS)}")
    if not 0 <= draft_max <= MAX_DRAFT:
        raise BadInput(f"a window of {draft_max} draft tokens: choose 0 (plain decoding) to {MAX_DRAFT}")
    if name == "fixed" or draft_max == 0:
        return Fixed(draft_max)
    if fixed is not None:
        return FixedPlan(fixed)
    if name in ROUNDS:
        return AdaptiveWindow(draft_max) if name == "awc" else ThresholdWindow(draft_max)
    modes = tuple(mode for mode in ALLOWED[name] if hedges or mode != "hedged")
    return Throughput(draft_max, modes, experience)


def _fixed_plan(name: str) -> Plan | None:
    """Of "stream:2:16" or "hedged:2:16:1". Raises BadInput for one that could not send a block."""
    match = _FIXED_PLAN.fullmatch(name)
    if match is None:
        return None
    block, window, hedges = int(match[1] or match[3]), int(match[2] or match[4]), int(match[5] or 0)
    if not 1 <= block <= window <= MAX_DRAFT or (match[3] and not 1 <= hedges <= 2):
        raise BadInput(f"{name!r}: blocks of 1 or more, windows of a block to {MAX_DRAFT}, 1 or 2 hedges")
    return Plan("hedged" if match[3] else "stream", block, window, hedges)

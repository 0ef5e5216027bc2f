"""Window policies by name: the one registry that configuration, command line, bench and help read.

A new policy is a class behind `WindowController` and an entry in POLICIES.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from dsdnode.config import MAX_DRAFT
from dsdnode.errors import BadInput
from dsdnode.pacing.estimates import Experience
from dsdnode.pacing.throughput import MODES, Throughput
from dsdnode.speculation.controller import FixedPlan, FixedRounds, WindowController
from dsdnode.speculation.plan import Mode, Plan


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy is made for. `draft_max`: the largest round, or block of a stream, at least 1; not `hedges`: no
    branches beside the main line; `experience`: of earlier replies with this draft model; not `model`: there is none,
    and draft tokens can only be copied."""

    draft_max: int
    experience: Experience | None = None
    hedges: bool = True
    model: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """`about`: for help, in a few words."""

    make: Callable[[Terms], WindowController]
    about: str


def _throughput(*allowed: Mode, copies: bool = True) -> Callable[[Terms], WindowController]:
    def make(terms: Terms) -> WindowController:
        modes: tuple[Mode, ...] = tuple(mode for mode in allowed if terms.hedges or mode != "hedged")
        modes = modes if terms.model else ("plain",)
        return Throughput(terms.draft_max, modes, terms.experience, copies=copies)

    return make


def _awc(terms: Terms) -> WindowController:
    from dsdnode.pacing.awc import AdaptiveWindow  # numpy, which the command line need not wait for

    return AdaptiveWindow(terms.draft_max)


def _threshold(terms: Terms) -> WindowController:
    from dsdnode.pacing.awc import ThresholdWindow

    return ThresholdWindow(terms.draft_max)


POLICIES: dict[str, Policy] = {
    "throughput": Policy(_throughput(*MODES), "the plan with the most tokens a second, by what was just measured"),
    "throughput:rounds": Policy(_throughput("plain", "rounds"), "the same, without streams"),
    "throughput:stream": Policy(_throughput("plain", "stream"), "the same, without rounds and hedges"),
    "throughput:hedged": Policy(_throughput("plain", "stream", "hedged"), "the same, without rounds"),
    "throughput:model": Policy(_throughput(*MODES, copies=False), "the same, without draft tokens that are copied"),
    "throughput:ngrams": Policy(_throughput("plain"), "the same, of copied draft tokens alone"),
    "awc": Policy(_awc, "rounds of an adaptive window (arXiv 2511.21669)"),
    "threshold": Policy(_threshold, "rounds that grow by one after each that was all right, and else shrink"),
    "fixed": Policy(lambda terms: FixedRounds(terms.draft_max), "rounds of --draft-max"),
}
PLANS = "stream:BLOCK:WINDOW, hedged:BLOCK:WINDOW:HEDGES"
"""Plans that never change are spelled so."""
_PLAN = re.compile(r"(?:stream:(\d{1,2}):(\d{1,2})|hedged:(\d{1,2}):(\d{1,2}):([12]))")


def parse_window(text: str) -> str:
    """The name of a policy, or of a plan that never changes. Raises BadInput naming what there is."""
    if text not in POLICIES:
        _plan(text)
    return text


def policy_of(name: str, terms: Terms) -> WindowController:
    """`draft_max` 0 is plain decoding, whatever the name. Raises BadInput, naming what is allowed."""
    plan = None if name in POLICIES else _plan(name)
    if not 0 <= terms.draft_max <= MAX_DRAFT:
        raise BadInput(f"a window of {terms.draft_max} draft tokens: choose 0 (plain decoding) to {MAX_DRAFT}")
    if terms.draft_max == 0:
        return FixedRounds(0)
    return POLICIES[name].make(terms) if plan is None else FixedPlan(plan)


def _plan(text: str) -> Plan:
    match = _PLAN.fullmatch(text)
    if match is not None:
        block, window, hedges = int(match[1] or match[3]), int(match[2] or match[4]), int(match[5] or 0)
        if 1 <= block <= window <= MAX_DRAFT:
            return Plan("hedged" if hedges else "stream", block, window, hedges)
    raise BadInput(
        f"{text[:64]!r} is no window policy: choose from {', '.join(POLICIES)}, {PLANS} "
        f"(block <= window <= {MAX_DRAFT}, 1 or 2 hedges)"
    )

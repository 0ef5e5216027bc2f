"""What to draft next, and what is known of a pipeline before the first verdict: what window policies are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["plain", "rounds", "stream", "hedged"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next.

    plain    nothing is drafted (block 0, window 0)
    rounds   `block` = `window` tokens, then wait for the verdict
    stream   blocks of `block` tokens, drafted ahead, while at most `window` guesses are not yet judged
    hedged   the same, with up to `hedges` branches of second choices beside the main line
    """

    mode: Mode
    block: int
    window: int
    hedges: int = 0
    reason: str = ""
    """For people: why, when the mode has just been changed."""


@dataclass(frozen=True, slots=True)
class RouteCosts:
    """What records and pings say of a pipeline before the first verdict; a tuple has one entry a stage."""

    fixed_s: tuple[float, ...]
    slope_s: tuple[float, ...]
    network_s: float
    """All link crossings of one pass together, one way each."""

"""What a rogue does (rogue.py: who it is; gang.py: where): one misdeed a function, that changes its node.

None of them alters what a pass computes: a stage of the route that does can change the text until there are audits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .bad_drafters import deny, dribble, misname, mute, swap
from .bad_members import crowd, fill, hog, mislead, misshape, squatter
from .bad_stages import blackhole, boast, drip, forge, forget, garble, hoard
from .rogue import Rogue


@dataclass(frozen=True, slots=True)
class Misdeed:
    """`who` does it."""

    begin: Callable[[Rogue], None]
    who: tuple[Literal["stage", "drafter"], ...]
    inside: bool = False
    """It has something to do only where a stage comes after it."""


MISDEEDS: dict[str, Misdeed] = {
    "blackhole": Misdeed(blackhole, ("stage",)),
    "hoard": Misdeed(hoard, ("stage",)),
    "forgetful stage": Misdeed(forget, ("stage",)),
    "dripping stage": Misdeed(drip, ("stage",)),
    "speed": Misdeed(boast, ("stage", "drafter")),
    "mute drafter": Misdeed(mute, ("drafter",)),
    "swapped prompt": Misdeed(swap, ("drafter",)),
    "false prompt ids": Misdeed(misname, ("drafter",)),
    "denying drafter": Misdeed(deny, ("drafter",)),
    "dripping drafter": Misdeed(dribble, ("drafter",)),
    "forging stage": Misdeed(forge, ("stage",), inside=True),
    "garbling stage": Misdeed(garble, ("stage",), inside=True),
    "shape": Misdeed(misshape, ("stage",)),
    "address": Misdeed(mislead, ("stage", "drafter")),
    "crowd": Misdeed(crowd, ("stage", "drafter")),
    "hog": Misdeed(hog, ("drafter",)),
    "filler": Misdeed(fill, ("drafter",)),
    "squatter": Misdeed(squatter, ("stage", "drafter")),
}

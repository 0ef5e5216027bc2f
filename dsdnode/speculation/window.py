"""How many tokens to draft: one tiny class a policy, behind `WindowController`. Speculation section 6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from dsdnode.speculation.events import PassEvent

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


class WindowController(Protocol):
    def plan(self) -> Plan:
        """What to do from now on; asked often, changes only with events."""

    def on_route(self, costs: RouteCosts) -> None:
        """The reply goes by another pipeline from here."""

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        """The draft engine took so long for so many tokens (of one call, nothing but they fed)."""

    def on_verdict(self, event: PassEvent) -> None:
        """A pass was judged."""

    def on_failure(self) -> None:
        """A pass was lost: its time says nothing about the next."""


class FixedPlan:
    """The same plan for ever."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def plan(self) -> Plan:
        return self._plan

    def on_route(self, costs: RouteCosts) -> None:
        pass

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        pass

    def on_verdict(self, event: PassEvent) -> None:
        pass

    def on_failure(self) -> None:
        pass


class Fixed(FixedPlan):
    """Rounds of the same window for ever; 0 is plain decoding."""

    def __init__(self, window: int) -> None:
        super().__init__(Plan("rounds", window, window) if window > 0 else Plan("plain", 0, 0))

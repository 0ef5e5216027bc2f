"""How many tokens to draft: one tiny class a policy, behind `WindowController`. Speculation section 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dsdnode.cost import PipelineCost
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan


class WindowController(Protocol):
    def plan(self) -> Plan:
        """What to do from now on; asked often, changes only with events."""

    @property
    def may_copy(self) -> bool:
        """May `copying` ever be a plan? Else the line is not indexed for it."""

    def copying(self, survival: Sequence[float]) -> Plan | None:
        """How to send draft tokens that are copied and cost no time; None: not at all. `survival` [m]: the chance that
        the first m of them are right."""

    def guesses(self) -> int:
        """At how many tokens the judge is to guess behind its next verdicts, where it can."""

    def on_guesses(self, num_guesses: int, seconds: float) -> None:
        """So many came, and took the judge so long."""

    def on_route(self, costs: PipelineCost) -> None:
        """The reply goes by another pipeline from here."""

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        """The draft engine took so long for so many tokens (of one call, nothing but they fed)."""

    def on_verdict(self, event: PassEvent) -> None:
        """A pass was judged."""

    def on_failure(self) -> None:
        """A pass was lost: its time says nothing about the next."""


class FixedPlan:
    """The same plan for ever."""

    may_copy = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def plan(self) -> Plan:
        return self._plan

    def copying(self, survival: Sequence[float]) -> Plan | None:
        return None

    def guesses(self) -> int:
        return 0

    def on_guesses(self, num_guesses: int, seconds: float) -> None:
        pass

    def on_route(self, costs: PipelineCost) -> None:
        pass

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        pass

    def on_verdict(self, event: PassEvent) -> None:
        pass

    def on_failure(self) -> None:
        pass


class FixedRounds(FixedPlan):
    """Rounds of the same window for ever; 0 is plain decoding."""

    def __init__(self, window: int) -> None:
        super().__init__(Plan("rounds", window, window) if window > 0 else Plan("plain", 0, 0))

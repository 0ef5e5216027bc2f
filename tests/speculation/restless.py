"""A window controller for random schedules: its plans make no sense, and must not show in the text."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dsdnode.cost import PipelineCost
from dsdnode.speculation.events import PassEvent
from dsdnode.speculation.plan import Plan


class Restless:
    """A window controller that changes its mind at random: whatever it plans, the text must be right."""

    may_copy = True

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._restlessness = rng.choice([0.0, 0.1, 0.5])
        self._plan = self._any()

    def _any(self) -> Plan:
        rng = self._rng
        mode = rng.choice(["plain", "rounds", "stream", "stream", "hedged", "hedged", "hedged"])
        if mode == "plain":
            return Plan("plain", 0, 0)
        block = rng.randint(1, 4)
        if mode == "rounds":
            return Plan("rounds", block, block)
        hedges = rng.randint(1, 3) if mode == "hedged" else 0
        return Plan(mode, block, rng.choice([block, 8, 16]), hedges)  # type: ignore[arg-type]

    def plan(self) -> Plan:
        return self._plan

    def copying(self, survival: Sequence[float]) -> Plan | None:
        rng = self._rng
        if rng.random() < 0.3:
            return None
        block = rng.randint(1, 4)
        mode = rng.choice(["rounds", "stream"])
        return Plan(mode, block, block if mode == "rounds" else rng.choice([block, 8, 16]), copied=True)  # type: ignore[arg-type]

    def guesses(self) -> int:
        return 4

    def on_guesses(self, num_guesses: int, seconds: float) -> None:
        pass

    def _change(self) -> None:
        if self._rng.random() < self._restlessness:
            self._plan = self._any()

    def on_route(self, costs: PipelineCost) -> None:
        self._change()

    def on_draft(self, num_tokens: int, seconds: float) -> None:
        pass

    def on_verdict(self, event: PassEvent) -> None:
        self._change()

    def on_failure(self) -> None:
        self._change()

"""How many tokens to draft: one tiny class a policy, behind `WindowController`. Speculation section 6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from dsdnode.speculation.events import PassEvent

Mode = Literal["plain", "rounds"]


@dataclass(frozen=True, slots=True)
class Plan:
    """`mode`; draft tokens in one `block`; at most `window` not yet judged (= block in rounds, 0 in plain)."""

    mode: Mode
    block: int
    window: int


class WindowController(Protocol):
    def plan(self) -> Plan:
        """What to do in the next round."""

    def on_verdict(self, event: PassEvent) -> None:
        """A pass was judged."""

    def on_failure(self) -> None:
        """A pass was lost: its time says nothing about the next."""


class Fixed:
    """The same window for ever; 0 is plain decoding."""

    def __init__(self, window: int) -> None:
        self._plan = Plan("rounds", window, window) if window > 0 else Plan("plain", 0, 0)

    def plan(self) -> Plan:
        return self._plan

    def on_verdict(self, event: PassEvent) -> None:
        pass

    def on_failure(self) -> None:
        pass

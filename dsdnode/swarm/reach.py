"""Where others reach this node, as they have seen it themselves. Pure.

What a machine takes for its addresses may mean something in its own house alone, or lead to somebody else's. So others
call them, and say at which they were answered; what most of them say counts, one voice for each network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

MAX_VOICES = 8
"""That are remembered of an address; the oldest goes."""
ENOUGH = 3
"""Voices: who is asked next would hardly change what most of them say."""
FIRST_S = 0.5
"""After a network has changed, or more peers have come, until they are asked."""
ASK_AGAIN_S = 10.0
"""While there are not enough voices."""
UNREACHED_S = 600.0
REACHED_S = 1800.0


class Verdict(Enum):
    UNKNOWN = "nobody has said yet whether others reach this node"
    REACHED = "others reach this node"
    UNREACHED = "others do not reach this node"


@dataclass(slots=True)
class _Voices:
    said: OrderedDict[str, bool] = field(default_factory=OrderedDict)

    def add(self, voice: str, reached: bool) -> None:
        self.said.pop(voice, None)
        self.said[voice] = reached
        while len(self.said) > MAX_VOICES:
            self.said.popitem(last=False)

    @property
    def is_reached(self) -> bool:
        return 2 * sum(self.said.values()) > len(self.said)


class Reach:
    """`due` says when others are to be asked; `heard` takes what one has said."""

    def __init__(self, now: float) -> None:
        self._voices: dict[str, _Voices] = {}
        self._due_s = now + FIRST_S

    def moved(self, now: float) -> None:
        """What was said is of another place."""
        self._voices.clear()
        self._due_s = now + FIRST_S

    def due(self, now: float) -> bool:
        return now >= self._due_s

    def asking(self, now: float) -> None:
        """They are being asked."""
        self._due_s = now + ASK_AGAIN_S

    def heard(
        self, now: float, voice: str, addresses: Sequence[str], reached: Collection[str], tried: Collection[str]
    ) -> None:
        """`voice`: whose word it is (a network's, or a peer's nearby); of `addresses`, ours, it called `tried`."""
        for address in addresses:
            if address in tried or address in reached:
                self._voices.setdefault(address, _Voices()).add(voice, address in reached)
        for address in [one for one in self._voices if one not in addresses]:
            del self._voices[address]
        if len({one for voices in self._voices.values() for one in voices.said}) >= ENOUGH:
            self._due_s = now + (REACHED_S if self.verdict is Verdict.REACHED else UNREACHED_S)

    def told(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Those of our addresses that are worth telling: who looks for us calls them all. Without a word of others the
        first, which is the likeliest."""
        reached = tuple(one for one in addresses if one in self._voices and self._voices[one].is_reached)
        return reached or tuple(addresses[:1])

    @property
    def verdict(self) -> Verdict:
        if not self._voices:
            return Verdict.UNKNOWN
        return Verdict.REACHED if any(one.is_reached for one in self._voices.values()) else Verdict.UNREACHED

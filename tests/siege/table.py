"""What came of an attack, as a line of a table.

Compared are the same users, in the attack and in the peace after it. Who waits asks less often, so a share of all
replies hides one that held its user up for the whole round: beside it stand the p99 of the user who fared worst, and
the longest wait of all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tests.siege.attacks import Done
from tests.siege.user import Asked

NEIGHBOUR = "dave"
"""The user in the attacker's own network."""
_TIMES = "p50, s | p99, s | worst user's p99, s | longest, s"
COLUMNS = (
    f"attack | a second | of a core | served | asked | {_TIMES} | neighbour served | asked | neighbour's p99, s"
    f" | wrong texts | peace: served | asked | {_TIMES} | p99 to peace's | worst user's"
)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True)
class Times:
    """Of all that some users asked, served or not, in seconds."""

    p50: float
    p99: float
    worst_p99: float
    """Of the user who fared worst."""
    longest: float

    @classmethod
    def of(cls, told: Mapping[str, Sequence[Asked]]) -> Times:
        by_user = [[asked.took_s for asked in one] for one in told.values()]
        everybody = [took_s for one in by_user for took_s in one]
        worst = max(percentile(one, 0.99) for one in by_user)
        return cls(percentile(everybody, 0.5), percentile(everybody, 0.99), worst, max(everybody))

    @property
    def cells(self) -> list[str]:
        return [f"{one:.2f}" for one in (self.p50, self.p99, self.worst_p99, self.longest)]


@dataclass(frozen=True)
class Round:
    """An attack and the peace after it, by user. `texts`: what each question's answer is."""

    name: str
    done: Done
    attacked: Mapping[str, Sequence[Asked]]
    peace: Mapping[str, Sequence[Asked]]
    texts: Mapping[int, str]

    @property
    def row(self) -> str:
        """As COLUMNS says. The neighbour is apart, in peace, too."""
        attacked, peace = _others(self.attacked), _others(self.peace)
        times, calm, beside = Times.of(attacked), Times.of(peace), self.attacked[NEIGHBOUR]
        cells = [
            self.name, f"{self.done.rate:.1f}", f"{self.done.core:.2f}",
            *_served(attacked), *times.cells,
            *_served({NEIGHBOUR: beside}), f"{percentile([asked.took_s for asked in beside], 0.99):.2f}",
            self.num_wrong,
            *_served(peace), *calm.cells, f"{times.p99 / calm.p99:.2f}", f"{times.worst_p99 / calm.worst_p99:.2f}",
        ]  # fmt: skip
        return " | ".join(map(str, cells))

    @property
    def num_wrong(self) -> int:
        """Replies that were served, in attack or peace, with another text."""
        return sum(not asked.error and asked.text != self.texts[asked.question] for *_, asked in self._asked())

    @property
    def failures(self) -> Counter[str]:
        """How replies ended that were not served."""
        failed = ((when, user, asked.error) for when, user, asked in self._asked() if asked.error)
        return Counter(f"{self.name}, {when}, {user}: {error}" for when, user, error in failed)

    def lines(self) -> Iterator[str]:
        """All that was asked, as JSON, one by one."""
        for when, user, asked in self._asked():
            told = {"attack": self.name, "when": when, "user": user, **msgspec.structs.asdict(asked)}
            yield msgspec.json.encode(told).decode()

    def _asked(self) -> Iterator[tuple[str, str, Asked]]:
        for when, by_user in (("attack", self.attacked), ("peace", self.peace)):
            for user, told in by_user.items():
                yield from ((when, user, asked) for asked in told)


def _others(told: Mapping[str, Sequence[Asked]]) -> dict[str, Sequence[Asked]]:
    return {user: asked for user, asked in told.items() if user != NEIGHBOUR}


def _served(told: Mapping[str, Sequence[Asked]]) -> tuple[int, int]:
    """And asked."""
    everything = [asked for one in told.values() for asked in one]
    return sum(not asked.error for asked in everything), len(everything)

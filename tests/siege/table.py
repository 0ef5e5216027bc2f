"""What came of an attack, as a line of a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.siege.attacks import Done
from tests.siege.user import Asked

NEIGHBOUR = "dave"
"""The user in the attacker's own network."""
COLUMNS = (
    "attack | a second | of a core | served | asked | neighbour served | asked | wrong texts"
    " | p50, s | p99, s | neighbour p99, s | peace: served | asked | p50, s | p99, s | p99 to peace's"
)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


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
        """As COLUMNS says. Times are of all replies, served or not."""
        others = [asked for name, told in self.attacked.items() if name != NEIGHBOUR for asked in told]
        beside = self.attacked[NEIGHBOUR]
        peace = [asked for told in self.peace.values() for asked in told]
        took, took_beside, calm = ([asked.took_s for asked in told] for told in (others, beside, peace))
        worst, calm_worst = percentile(took, 0.99), percentile(calm, 0.99)
        cells = [
            self.name, f"{self.done.rate:.1f}", f"{self.done.core:.2f}", num_served(others), len(others),
            num_served(beside), len(beside), self.num_wrong, f"{percentile(took, 0.5):.2f}", f"{worst:.2f}",
            f"{percentile(took_beside, 0.99):.2f}", num_served(peace), len(peace), f"{percentile(calm, 0.5):.2f}",
            f"{calm_worst:.2f}", f"{worst / calm_worst:.2f}",
        ]  # fmt: skip
        return " | ".join(map(str, cells))

    @property
    def num_wrong(self) -> int:
        """Replies that were served, in attack or peace, with another text."""
        return sum(not asked.error and asked.text != self.texts[asked.question] for _, asked in self._asked())

    @property
    def failures(self) -> Counter[str]:
        """How replies ended that were not served."""
        return Counter(f"{where}: {asked.error}" for where, asked in self._asked() if asked.error)

    def _asked(self) -> Iterator[tuple[str, Asked]]:
        for when, by_user in (("attack", self.attacked), ("peace", self.peace)):
            for user, told in by_user.items():
                yield from ((f"{self.name}, {when}, {user}", asked) for asked in told)


def num_served(told: Sequence[Asked]) -> int:
    return sum(not asked.error for asked in told)

"""How bad a schedule is."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Faults:
    """How bad: probabilities a message or run, and events a (virtual) second."""

    loss: float
    duplicates: float
    overload: float
    reroutes: float
    worker_deaths: float
    crashes: float
    cuts: float
    drafter_deaths: float


def pick_faults(rng: Random) -> Faults:
    """Some runs are calm, some see one kind of trouble, some everything at once."""

    def rate(*choices: float) -> float:
        return rng.choice((0.0, *choices))

    return Faults(
        loss=rate(0.01, 0.05, 0.15),
        duplicates=rate(0.02, 0.1, 0.3),
        overload=rate(0.0, 0.02),
        reroutes=rate(0.1, 0.5, 2.0),
        worker_deaths=rate(0.05, 0.3),
        crashes=rate(0.05, 0.3),
        cuts=rate(0.1, 0.5),
        drafter_deaths=rate(0.2, 3.0, 10.0),
    )

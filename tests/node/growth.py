"""What processes take, again and again, and by how much that grows: a line is fitted to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import psutil

from tests.node.processes import Daemon

MIB = 1 << 20
PER = 1000
"""Replies that a slope is told of."""


@dataclass(frozen=True, slots=True)
class Slope:
    """`first`, `last`: of the line, at both ends; `slope` a thousand replies; `error`: its standard error."""

    first: float
    last: float
    slope: float
    error: float


def fitted(places: list[float], values: list[float]) -> Slope:
    """The line of least squares through three points or more."""
    x, y = np.array(places, float), np.array(values, float)
    slope, start = np.polyfit(x, y, 1)
    spread = float(((x - x.mean()) ** 2).sum())
    left = y - (start + slope * x)
    error = float(np.sqrt((left**2).sum() / max(1, len(x) - 2) / spread))
    return Slope(float(start + slope * x[0]), float(start + slope * x[-1]), float(slope) * PER, error * PER)


@dataclass(slots=True)
class Vitals:
    """By daemon and what: values, at so many replies each."""

    at: list[float] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def take(self, num_replies: int, daemons: dict[str, Daemon]) -> None:
        self.at.append(num_replies)
        for name, daemon in daemons.items():
            process = psutil.Process(daemon.process.pid)
            seen = {
                "daemon, MiB": process.memory_info().rss / MIB,
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
            }
            for worker in process.children():
                seen["worker, MiB"] = seen.get("worker, MiB", 0.0) + worker.memory_info().rss / MIB
            for what, value in seen.items():
                self.values.setdefault((name, what), []).append(value)

    def slopes(self) -> dict[tuple[str, str], Slope]:
        """Without what began or ended meanwhile."""
        whole = {key: values for key, values in self.values.items() if len(values) == len(self.at)}
        return {key: fitted(self.at, values) for key, values in whole.items()}

"""What processes take, again and again while replies are told, and whether that grows with their number.

Links are no growth: a lane to a peer is opened when it is first needed, and after a cut when it is needed again. So
they are counted apart, against what there can be of them, and what else has a descriptor must stay as it is. Caches
fill to their bounds, and malloc grows in steps: of memory, the second half of the replies tells.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import psutil

from tests.node.processes import Daemon

MIB = 1 << 20
PER = 1000
"""Replies that a slope is told of."""
LEAST_MIB = 0.5
"""By which the second half has grown, beyond doubt: of a thousand replies a kilobyte a reply, and whatever is kept of a
reply is more. Of fewer replies no less can be told, for malloc's steps, and what a new process has not used yet."""
LANES = 2
"""Of links from one peer to another: control, and bulk."""
THREADS = 5 + min(32, (os.cpu_count() or 1) + 4)
"""Our own, libzmq's two and the writers of the standard streams; and asyncio's, which come one by one as files are
read, and stay."""
DIALLED = 4
"""Descriptors of a link that we have made: the connection, libzmq's mailbox, and both ends of its monitor."""


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
    """By daemon and what: values, at so many replies each. `ports`: of members, whose own or a proxy's before them."""

    ports: dict[int, str] = field(default_factory=dict)
    num_clients: int = 1
    at: list[float] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def take(self, num_replies: int, daemons: dict[str, Daemon]) -> None:
        self.at.append(num_replies)
        for name, daemon in daemons.items():
            for what, value in self._look(psutil.Process(daemon.process.pid)).items():
                self.values.setdefault((name, what), []).append(value)

    def _look(self, process: psutil.Process) -> dict[str, float]:
        connections = [one for one in process.net_connections("tcp") if one.raddr]
        dialled = Counter(self.ports[one.raddr.port] for one in connections if one.raddr.port in self.ports)
        num_dialled = dialled.total()
        seen = {
            "daemon, MiB": _private_mib(process),
            "descriptors": process.num_fds(),
            "links to one peer": max(dialled.values(), default=0),
            "links from others": len(connections) - num_dialled,
            "threads": process.num_threads(),
        }
        seen["descriptors, no links"] = seen["descriptors"] - seen["links from others"] - DIALLED * num_dialled
        for worker in process.children():
            seen["worker, MiB"] = seen.get("worker, MiB", 0.0) + _private_mib(worker)
        return seen

    def _whole(self) -> dict[tuple[str, str], list[float]]:
        """Without what began or ended meanwhile."""
        return {key: values for key, values in self.values.items() if len(values) == len(self.at)}

    def slopes(self) -> dict[tuple[str, str], Slope]:
        """Of the second half."""
        half = len(self.at) // 2
        return {key: fitted(self.at[half:], values[half:]) for key, values in self._whole().items()}

    def table(self) -> list[tuple[str, ...]]:
        """A line for each daemon: medians of both halves where they differ; of memory, its line in the second half."""
        half, slopes, whole = len(self.at) // 2, self.slopes(), self._whole()
        whats = list(dict.fromkeys(what for _, what in whole))

        def cell(name: str, what: str) -> str:
            values = whole.get((name, what))
            if values is None:
                return ""
            if what.endswith("MiB"):
                line = slopes[name, what]
                return f"{line.last:.1f} ({line.slope:+.2f} ± {line.error:.2f})"
            return " to ".join(dict.fromkeys(f"{median(one):g}" for one in (values[:half], values[half:])))

        names = sorted({name for name, _ in whole})
        return [("daemon", *whats), *((name, *(cell(name, what) for what in whats)) for name in names)]

    def grown(self) -> list[str]:
        """What takes more and more, in words. Medians, for a call that just comes or goes is none of it."""
        half, slopes, told = len(self.at) // 2, self.slopes(), []
        num_others = len({name for name, _ in self.values}) - 1 + self.num_clients
        limits = {"links to one peer": LANES, "links from others": LANES * num_others, "threads": THREADS}
        for (name, what), values in sorted(self._whole().items()):
            before, after, line = median(values[:half]), median(values[half:]), slopes[name, what]
            if what.endswith("MiB"):
                if (line.slope - 2 * line.error) * (self.at[-1] - self.at[half]) / PER > LEAST_MIB:
                    told.append(f"{name}, {what}: from {line.first:.2f} to {line.last:.2f}")
            elif what in limits:
                if after > limits[what]:
                    told.append(f"{name}, {what}: {after:g}, of {limits[what]} that there can be")
            elif what != "descriptors" and after > before:
                told.append(f"{name}, {what}: from {before:g} to {after:g}")
        return told


def _private_mib(process: psutil.Process) -> float:
    """What it shares is files that it has mapped: pages that were looked at."""
    memory = process.memory_info()
    return float(memory.rss - memory.shared) / MIB

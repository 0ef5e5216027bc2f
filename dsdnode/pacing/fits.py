"""Means, ratios and cost lines that forget: the last few dozen samples decide. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dsdnode.cost import UNKNOWN, CostLine

MAX_FITTED_POSITIONS = 32
"""Larger decodes are prompts, which follow another line: their products are matrix by matrix."""
BLOCK_POSITIONS = 3
"""Of a usual block, where the real one is not known yet."""
SHARED_POSITIONS = 64
"""What a decode that several sessions share has at most (node/batching/scheduler.py)."""
MEAN_S = 10.0


@dataclass(slots=True)
class Mean:
    """Exponentially decayed; `keep` is the weight that the past retains at each sample, `spread` the mean deviation."""

    keep: float = 0.9
    value: float = 0.0
    spread: float = 0.0
    weight: float = 0.0

    def add(self, value: float) -> None:
        if self.weight:
            self.spread += (abs(value - self.value) - self.spread) / (self.weight * self.keep + 1)
        self.weight = self.weight * self.keep + 1
        self.value += (value - self.value) / self.weight


class TimeMean:
    """The average of a number over about the last MEAN_S seconds."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._now = 0.0
        self._since_s = 0.0

    def set(self, now: float, value: float) -> None:
        """From `now` on it is `value`."""
        self._mean, self._since_s, self._now = self.value(now), now, value

    def value(self, now: float) -> float:
        kept = math.exp(-max(0.0, now - self._since_s) / MEAN_S)
        return self._mean * kept + self._now * (1 - kept)


@dataclass(slots=True)
class Ratio:
    """Decayed sums of a part and a whole, begun with a prior."""

    part: float
    whole: float
    keep: float

    @property
    def value(self) -> float:
        return self.part / self.whole

    def add(self, part: float, whole: float = 1.0) -> None:
        self.part = self.part * self.keep + part
        self.whole = self.whole * self.keep + whole

    def fade(self, prior: float) -> None:
        self.part += (prior * self.whole - self.part) / 4


@dataclass(slots=True)
class CostFit:
    """A cost line by decayed least squares; where sizes hardly vary the slope stays as it was.

    `slope_weight`: what the slope so far counts for, in squared positions. `scales`: as long as all samples are of one
    size the whole line is scaled to them, as that of a machine that others slow down; else (a link) the level moves
    alone. A sample far off the line counts as one at the edge of what is usual: machines hiccup. `many_far` in a row on
    the same side: another machine, and the past all but goes.
    """

    keep: float = 0.94
    slope_weight: float = 2.0
    least_slope: float = 0.0
    """As a share of seconds / positions: what one size alone cannot tell."""
    scales: bool = False
    far: float = 0.6
    many_far: int = 3
    line: CostLine = UNKNOWN
    is_known: bool = False
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    _num_far: int = 0

    def expect(self, line: CostLine, weight: float = 1.0) -> None:
        """A prior: as if blocks of 1 and of 5 had been seen on that line, `weight` times each; 0: until the first
        sample, whose level it takes."""
        self.line, self.is_known = line, True
        if weight:
            for num_positions in (1.0, 5.0):
                self._put(num_positions, line.at(num_positions), weight)
            self._fit()

    def add(self, num_positions: float, seconds: float) -> None:
        """A block of so many positions took so long. Those of more than MAX_FITTED_POSITIONS tell nothing."""
        x, y, keep = num_positions, seconds, self.keep
        if not 0 < x <= MAX_FITTED_POSITIONS:
            return
        if not self.is_known:
            self.line = CostLine(0.0, 0.2 * y / x)
        expected = self.line.at(x)
        side = (y > (1 + self.far) * expected) - (y < (1 - self.far) * expected) if self.is_known else 0
        self.is_known = True
        self._num_far = self._num_far + side if side * self._num_far >= 0 and side else side
        if abs(self._num_far) >= self.many_far:
            self._num_far, keep = 0, 0.02
        elif side:
            y = (1 + side * self.far) * expected
        self._sums = [keep * value for value in self._sums]
        self._put(x, y, 1.0)
        self._fit()

    def _put(self, x: float, y: float, weight: float) -> None:
        self._sums = [a + weight * b for a, b in zip(self._sums, (1.0, x, y, x * x, x * y), strict=True)]

    def _fit(self) -> None:
        count, x, y, xx, xy = self._sums
        mean_x, mean_y = x / count, y / count
        before_s = self.line.at(mean_x)
        so_far = self.line.slope_s * mean_y / before_s if self.scales and before_s > 0 else self.line.slope_s
        slope = (xy - x * mean_y + self.slope_weight * so_far) / (xx - x * mean_x + self.slope_weight)
        most = max(0.0, mean_y) / mean_x
        slope = min(max(self.least_slope * most, slope), most)
        self.line = CostLine(max(0.0, mean_y - slope * mean_x), slope)

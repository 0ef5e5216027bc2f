"""Means, ratios and cost lines that forget: the last few dozen samples decide."""

from __future__ import annotations

from dataclasses import dataclass, field

FAR, MANY_FAR = 0.6, 3


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
class Line:
    """y = fixed + slope x, by decayed least squares; where x hardly varies the slope stays as it was.

    `slope_weight`: what the slope so far counts for, in squared x. A sample far off the line counts as one at the edge
    of what is usual: machines hiccup. Three in a row on the same side: another machine, and the past all but goes.
    """

    keep: float = 0.94
    slope_weight: float = 2.0
    least_slope: float = 0.0
    """As a share of y / x: what one size alone cannot tell."""
    fixed: float = 0.0
    slope: float = 0.0
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    _num_far: int = 0

    @property
    def is_known(self) -> bool:
        return self._sums[0] > 0

    def at(self, x: float) -> float:
        return self.fixed + self.slope * x

    def expect(self, fixed: float, slope: float, weight: float = 1.0) -> None:
        """A prior: as if x = 1 and x = 5 had been seen on that line."""
        self.slope = slope
        for x in (1.0, 5.0):
            self._put(x, fixed + slope * x, weight)
        self._fit()

    def add(self, x: float, y: float) -> None:
        if not self.is_known:
            self.slope = 0.2 * y / x
        expected, keep = self.at(x), self.keep
        side = (y > (1 + FAR) * expected) - (y < (1 - FAR) * expected) if self.is_known else 0
        self._num_far = self._num_far + side if side * self._num_far >= 0 and side else side
        if abs(self._num_far) >= MANY_FAR:
            self._num_far, keep = 0, 0.02
        elif side:
            y = (1 + side * FAR) * expected
        self._sums = [keep * value for value in self._sums]
        self._put(x, y, 1.0)
        self._fit()

    def _put(self, x: float, y: float, weight: float) -> None:
        self._sums = [a + weight * b for a, b in zip(self._sums, (1.0, x, y, x * x, x * y), strict=True)]

    def _fit(self) -> None:
        count, x, y, xx, xy = self._sums
        mean_x, mean_y = x / count, y / count
        slope = (xy - x * mean_y + self.slope_weight * self.slope) / (xx - x * mean_x + self.slope_weight)
        most = max(0.0, mean_y) / mean_x
        self.slope = min(max(self.least_slope * most, slope), most)
        self.fixed = max(0.0, mean_y - self.slope * mean_x)

"""What a peer's own work says of its engine: the cost line, as it is today, and how busy it is. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAY = 0.98
"""Per decode: about the last 50 count."""
MAX_FIT_POSITIONS = 32
"""Larger decodes, prompts, follow another line: their products are matrix by matrix."""
MAX_JUMP = 4.0
"""One decode counts as at most so many times what was expected: a pause of the machine is no speed."""
TRUST_POSITIONS = 1.0
"""Sizes must spread by about so much before the decodes alone say how time grows with them."""
MEAN_S = 10.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Expected time of a block of n positions: fixed_ms + slope_ms * n.

    How many sequences they are of does not matter: on the demo pair, 16 positions of one sequence took 8.2 ms and 16 of
    16 sequences 8.7 ms, where 8 more positions take 3 ms.
    """

    fixed_ms: float
    slope_ms: float

    def of(self, num_positions: float) -> float:
        """Milliseconds."""
        return self.fixed_ms + self.slope_ms * num_positions

    def differs(self, other: Speed, share: float) -> bool:
        """Is a usual block slower or faster by more than `share` than by the other line?"""
        for num_positions in (1, 8):
            low, high = sorted((self.of(num_positions), other.of(num_positions)))
            if high > low * (1 + share):
                return True
        return False


UNKNOWN_SPEED = Speed(0.0, 0.0)


class CostFit:
    """Decayed least squares over the own decodes. Begins with the line that was measured at the start.

    As long as all decodes are of one size, the first line is scaled to them.
    """

    def __init__(self, first: Speed) -> None:
        self._first = first
        self.speed = first
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, num_positions: int, seconds: float) -> None:
        """One decode of so many positions, of whatever sequences, took so long."""
        if not 0 < num_positions <= MAX_FIT_POSITIONS or seconds <= 0:
            return
        expected_ms = self.speed.of(num_positions)
        x, y = float(num_positions), seconds * 1e3
        if expected_ms > 0:
            y = min(y, MAX_JUMP * expected_ms)
        self._weight = self._weight * DECAY + 1
        self._x, self._xx = self._x * DECAY + x, self._xx * DECAY + x * x
        self._y, self._xy = self._y * DECAY + y, self._xy * DECAY + x * y
        self.speed = self._solve()

    def _solve(self) -> Speed:
        x, y = self._x / self._weight, self._y / self._weight
        spread, joint = self._xx / self._weight - x * x, self._xy / self._weight - x * y
        first_ms = self._first.of(x)
        scaled = self._first.slope_ms * y / first_ms if first_ms > 0 else 0.0
        slope = max(0.0, (joint + TRUST_POSITIONS * scaled) / (spread + TRUST_POSITIONS))
        slope = min(slope, y / x)
        return Speed(y - slope * x, slope)


class Mean:
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

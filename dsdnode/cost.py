"""What a block of positions costs, in seconds: the one noun that records, policies, placement and simulator share.

Symbols are those of docs/theory.md, section 2. Milliseconds stand in records and flags alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CostLine:
    """Expected time of a block of n positions: c(n) = fixed_s + slope_s n. Both 0: not known.

    How many sequences the positions are of does not matter: on the demo pair, 16 positions of one sequence took 8.2 ms
    and 16 of 16 sequences 8.7 ms, where 8 more positions take 3 ms.
    """

    fixed_s: float = 0.0
    slope_s: float = 0.0

    @classmethod
    def of_ms(cls, fixed_ms: float, slope_ms: float) -> CostLine:
        return cls(fixed_ms / 1e3, slope_ms / 1e3)

    def at(self, num_positions: float) -> float:
        """Seconds."""
        return self.fixed_s + self.slope_s * num_positions

    def times(self, factor: float) -> CostLine:
        """Of a machine that takes so many times as long."""
        return CostLine(self.fixed_s * factor, self.slope_s * factor)

    def differs(self, other: CostLine, share: float) -> bool:
        """Is a usual block slower or faster by more than `share` than by the other line?"""
        for num_positions in (1, 8):
            low, high = sorted((self.at(num_positions), other.at(num_positions)))
            if high > low * (1 + share):
                return True
        return False


UNKNOWN = CostLine()


@dataclass(frozen=True)
class PipelineCost:
    """`network_s`: one-way latencies of all hops of one pass together, from the owner round the ring to the owner.

    `draft`: a call of the owner's draft engine, by the tokens it draws; `payload_s`: a position on one link;
    `handling_s`: of a block at each peer, beside its decode.
    """

    stages: tuple[CostLine, ...]
    network_s: float
    draft: CostLine = UNKNOWN
    payload_s: float = 0.0
    handling_s: float = 0.0
    _pass: CostLine = field(init=False, repr=False, compare=False)
    _slowest_s: dict[float, float] = field(init=False, repr=False, compare=False, default_factory=dict)
    """Kept, since a window policy asks a hundred times for a few sizes."""

    def __post_init__(self) -> None:
        slope_s = sum(stage.slope_s for stage in self.stages) + self.num_hops * self.payload_s
        fixed_s = sum(stage.fixed_s for stage in self.stages) + self.network_s
        object.__setattr__(self, "_pass", CostLine(fixed_s, slope_s))

    @property
    def num_hops(self) -> int:
        """Owner -> stages -> owner."""
        return len(self.stages) + 1

    def pass_s(self, num_positions: float) -> float:
        """P(b) = sum c_s(b) + H (t1 + b payload): from the owner round the ring to the owner, nothing in the way."""
        return self._pass.at(num_positions)

    def slowest_s(self, num_positions: float) -> float:
        """max c_s(b)."""
        known = self._slowest_s.get(num_positions)
        if known is None:
            known = self._slowest_s[num_positions] = max(stage.at(num_positions) for stage in self.stages)
        return known

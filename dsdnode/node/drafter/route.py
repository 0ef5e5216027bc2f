"""One opened pipeline of a reply, and where on it something was lost."""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.cost import PipelineCost
from dsdnode.identity import short_id
from dsdnode.node.drafter.telling import ToldLine
from dsdnode.placement.pipelines import PipelineStage
from dsdnode.wire.replies import StageInfo


@dataclass(frozen=True, slots=True)
class Route:
    """An opened pipeline; `lengths` as the stages answered (speculation/actions.py, NeedRoute); `max_positions`: what
    they all have room for."""

    places: tuple[PipelineStage, ...]
    peers: tuple[bytes, ...]
    lengths: tuple[int, ...]
    max_positions: int
    costs: PipelineCost
    """As predicted from the peers' records and the links; what was seen of them, too."""
    first_costs: PipelineCost
    """As they were when this drafter first took this pipeline."""
    line: ToldLine
    trial_s: float | None = None
    """Some of its stages are new here, and others would do: then by so long something should have come."""

    def told(self, index: int | None = None) -> str:
        """Its stages, or one of them, for people."""
        stages = [
            f"{short_id(peer)} (layers {place.start}:{place.end})"
            for place, peer in zip(self.places, self.peers, strict=True)
        ]
        return ", ".join(stages) if index is None else stages[index]

    def stages(self) -> tuple[StageInfo, ...]:
        """The same for programs."""
        both = zip(self.places, self.peers, strict=True)
        return tuple(StageInfo(peer.hex(), (place.start, place.end)) for place, peer in both)


@dataclass(frozen=True, slots=True)
class Loss:
    """Where on a route a block is that nobody answers: between two stages, or (twice the same index) at one."""

    first: int
    second: int
    trouble: str = ""
    """What the first one says of its link to the second."""
    silent: bool = False
    """It does not even say where the block is."""
    computing: bool = False
    """The block is there, and perhaps is only slow."""

    def told(self, route: Route) -> str:
        """In words."""
        one, other = route.told(self.first), route.told(self.second)
        if self.first != self.second:
            return f"nothing comes from {one} to {other}" + (f": {self.trouble}" if self.trouble else "")
        return f"{one} does not say what became of it" if self.silent else f"{one} has not passed on what it was sent"

"""What a drafter makes of what a request asks for, or leaves to it: acceptance, wire type, window policy, sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachetools import LRUCache

from dsdnode.config import NodeConfig, parse_wire
from dsdnode.errors import BadInput
from dsdnode.pacing.estimates import Experience
from dsdnode.pacing.policies import policy_of
from dsdnode.speculation.controller import WindowController
from dsdnode.speculation.owner.prefill import MAX_SINGLES_POSITIONS
from dsdnode.swarm.catalogue import Model
from dsdnode.wire.codec import MAX_FRAME_BYTES
from dsdnode.wire.messages import MAX_BLOCK_POSITIONS, WireAcceptance
from dsdnode.wire.replies import GenerateBody

PREFILL_POSITIONS = 256
MAX_EXPERIENCES = 64
"""Models."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a reply's blocks are made; `chunk_positions`: given tokens of one at most. Not `drafted`: plain decoding."""

    window: WindowController
    chunk_positions: int
    drafted: bool


@dataclass(slots=True)
class Choices:
    """Of one drafter: `draft_max`, `window`, `wire` and `acceptance` for replies that do not ask for their own."""

    draft_max: int
    window: str
    wire: str
    acceptance: WireAcceptance
    strict: bool = False
    """Rounding is the same whatever was asked before and however blocks are cut: no branches, and small batches."""
    _experiences: LRUCache[str, Experience] = field(default_factory=lambda: LRUCache(MAX_EXPERIENCES))
    """By model: what replies have learned of its pipelines serves the next ones."""

    @classmethod
    def of(cls, config: NodeConfig) -> Choices:
        exact = config.acceptance == "exact"
        rule = WireAcceptance(config.threshold, config.acceptance == "deferred") if not exact else WireAcceptance()
        return cls(config.draft_max, config.window, config.wire, rule, config.strict)

    def rule(self, body: GenerateBody) -> WireAcceptance:
        return self.acceptance if body.acceptance is None else body.acceptance

    def wire_type(self, body: GenerateBody) -> str:
        """Raises BadInput."""
        return parse_wire(body.wire or self.wire)

    def blocks(self, body: GenerateBody, model: Model) -> Blocks:
        """Raises BadInput."""
        room = room_of(model.width)
        room_of_draft = min(room // 2, MAX_SINGLES_POSITIONS - 1) if self.strict else room // 2
        draft_max = min(self.draft_max if body.draft_max < 0 else body.draft_max, room_of_draft)
        experience = self._experience(model.model_id)
        window = policy_of(body.window or self.window, draft_max, experience, hedges=not self.strict)
        largest = max(draft_max, window.plan().block)  # a plan for ever knows no draft_max
        if largest > room // 2:
            raise BadInput(f"blocks of {largest} hidden states of {model.name} are too large: {room // 2} at most")
        return Blocks(window, max(1, min(PREFILL_POSITIONS, room - largest)), drafted=draft_max > 0)

    def _experience(self, model_id: str) -> Experience:
        return self._experiences.setdefault(model_id, Experience())


def room_of(width: int) -> int:
    """Positions whose hidden states fit one frame, in any wire type."""
    return min(MAX_BLOCK_POSITIONS, MAX_FRAME_BYTES // (4 * width + 4))

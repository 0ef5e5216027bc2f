"""What a stage says to the owner of its session, and a judge to the other stages."""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.speculation.actions import BroadcastClosed, SendToOwner
from dsdnode.speculation.stage.judge import Decision
from dsdnode.wire.messages import Block, Closed, Nack, SessionLost, Verdict


@dataclass(slots=True)
class Answers:
    """`route` and `index`: as in the Open that came last."""

    session: bytes
    route: int = -1
    index: int = 0

    def verdict(self, block: Block, decision: Decision) -> SendToOwner:
        """Of a block that has been judged, or that needs not be: its times are of the stages that ran it."""
        return SendToOwner(
            Verdict(
                self.session, self.route, block.epoch, decision.decided, decision.token,
                block.stage_ms, block.waited_ms, block.queue, decision.relaxed,
            )
        )  # fmt: skip

    def closed(self, block: Block, decision: Decision) -> BroadcastClosed:
        return BroadcastClosed(
            Closed(self.session, self.route, block.epoch, decision.decided, decision.token, decision.relaxed)
        )

    def nack(self, block: Block, length: int) -> SendToOwner:
        return SendToOwner(Nack(self.session, self.route, block.epoch, self.index, length))

    def lost(self, reason: str) -> SendToOwner:
        return SendToOwner(SessionLost(self.session, self.index, reason, self.route))

"""What a peer of a village still holds when it serves nobody, and which of its queues are too long."""

from __future__ import annotations

from typing import Any

from .village import Villager


def held_by(villager: Villager, *, parked: bool) -> list[str]:
    """What a node that serves nobody still holds: nothing, or a leak. `parked`: nor what is kept for a next turn."""
    stage, drafter = villager.node._stage, villager.node._drafter
    held: list[str] = []
    if stage is not None and (stage.num_sessions or stage._batcher.num_waiting or stage._owners._checks):
        held.append("sessions")
    if drafter is not None and (drafter.num_sessions or drafter._by_session or drafter._conversations._talking):
        held.append("replies")
    if parked and (villager.engine.num_cells or (stage is not None and list(stage._sessions))):
        held.append("sequences")
    free: Any = (
        stage._sessions._free if stage is not None else drafter._conversations._free if drafter is not None else []
    )
    if len(free) != len(set(free)) or (parked and len(free) < villager.place.max_sessions):
        held.append("places")
    return [f"leak: {what} at {villager.place.name}" for what in held]


def overfull(villager: Villager) -> list[str]:
    """Queues that are longer than their bounds."""
    found: list[str] = []
    stage = villager.node._stage
    for session in stage._sessions if stage is not None else ():
        machine = session.machine
        cache, inbox = machine._cache, machine._inbox
        sequences = [branch.sequence for branch in cache._branches.values()] + cache._free
        if sorted(sequences) != sorted(session.sequences):
            found.append("sequences")
        if len(inbox.items) > inbox._max_blocks or len(cache._closings) > cache._max_closings:
            found.append("inbox")
        if len(machine._kept._outputs) > machine._kept._max_blocks:
            found.append("kept outputs")
    host = stage or villager.node._drafter
    if host is not None and host._batcher.num_waiting > 100 * villager.place.max_sessions:
        found.append("batcher")
    return [f"overfull: {what} at {villager.place.name}" for what in found]

"""What a node says of itself: when it is ready (`start --json`), and later (`status --json`)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dsdnode.engine.cage import Protection
from dsdnode.node.ledger import GivenInAll
from dsdnode.swarm.info import ReachInfo
from dsdnode.wire import messages as wire
from dsdnode.wire import pieces, replies

OF_REPLIES = {
    kind.__name__
    for kind in (
        *(replies.Generate, replies.Accepted, replies.Piece, replies.Waiting, replies.Finished, replies.Cancel),
        *(wire.Open, wire.Opened, wire.Block, wire.Verdict, wire.Closed, wire.Nack, wire.SessionLost),
        *(wire.Park, wire.Close),
    )
}
"""Messages that would not be sent if nobody asked for anything."""
OF_WEIGHTS = {kind.__name__ for kind in (pieces.FindWeights, pieces.HasWeights, pieces.GetWeights, pieces.Weights)}


def sent_by_class(sent: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Of NodeStatus.sent: messages and bytes of replies, of models that others fetch, and of the swarm's upkeep."""
    sums = {"replies": (0, 0), "weights": (0, 0), "upkeep": (0, 0)}
    for kind, (num, num_bytes) in sent.items():
        name = "replies" if kind in OF_REPLIES else "weights" if kind in OF_WEIGHTS else "upkeep"
        sums[name] = sums[name][0] + num, sums[name][1] + num_bytes
    return sums


class Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    """It serves. `join`: how others find it; `layers` [start, end) of its shard; `api`: where other programs ask, of a
    gateway; `resting`: why it takes nothing new yet."""

    peer_id: str
    address: str
    join: str
    roles: tuple[str, ...]
    layers: tuple[int, int] | None
    api: str = ""
    resting: str = ""


class Inviting(msgspec.Struct, frozen=True):
    """Whom an invitation names, as join strings, and the keys of a private swarm, which nobody but `invite` is told.
    `is_reached`: others have reached this node; `reach` says more."""

    joins: tuple[str, ...]
    swarm_keys: tuple[str, ...]
    is_reached: bool
    reach: str


class Sessions(msgspec.Struct, frozen=True):
    """Replies in progress, by role."""

    shard: int = 0
    drafter: int = 0


class EngineStatus(msgspec.Struct, frozen=True):
    """One engine. A block of n positions takes fixed_ms + slope_ms n; `queue`: sessions that have work there, on the
    average of the last seconds; `num_waiting`: chunks and cache operations that wait now; `num_decodes`, of
    `num_positions` together; `worker_pid` None: no process of its own. `num_deaths` since the start, the last one's
    reason, and why it rests now and is not offered (empty: it does not)."""

    role: str
    model: str
    model_id: str
    tokenizer_hash: str
    worker_pid: int | None
    context_tokens: int
    fixed_ms: float
    slope_ms: float
    queue: float
    num_deaths: int = 0
    last_death: str = ""
    quarantined: str = ""
    num_waiting: int = 0
    num_decodes: int = 0
    num_positions: int = 0


class NodeStatus(msgspec.Struct, frozen=True):
    """`sent`: messages and their bytes, by kind, since the start. `twin`: where another process has this node's key."""

    uptime_s: float
    peer_id: str
    name: str
    address: str
    join: str
    roles: tuple[str, ...]
    layers: tuple[int, int] | None
    known_peers: int
    sent: dict[str, tuple[int, int]]
    sessions: Sessions
    engines: tuple[EngineStatus, ...]
    protection: Protection | None = None
    """What holds for the engines' workers; None: there is none."""
    twin: str = ""
    num_records: int = 0
    """That it keeps for the swarm."""
    num_relay_circuits: int = 0
    """That go by way of it, as a relay."""
    reach: str = ""
    """Whether others reach this node, in words."""
    resting: str = ""
    """Why it takes no new replies, in words; "": it does."""
    given: GivenInAll | None = None
    """What this machine gave; None: no record is kept."""
    api: str = ""
    """Where other programs ask, and the page is, of a gateway."""


class Situation(msgspec.Struct, frozen=True):
    """What a running node tells `dsdnode doctor`: how it was started, as far as others are concerned, and how it is
    reached. `troubles`: of its engines, in words."""

    listen: str
    advertise: tuple[str, ...]
    joins: tuple[str, ...]
    reach: ReachInfo
    troubles: tuple[str, ...] = ()

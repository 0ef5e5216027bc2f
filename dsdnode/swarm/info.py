"""What a user is told of the swarm: its peers and its models, as `peers --json` and `models --json` print them."""

from __future__ import annotations

import msgspec


class PeerInfo(msgspec.Struct, frozen=True):
    """Somebody we know of. `layers` [start, end) of the shard; `model`: names of what it serves, with commas.

    `rtt_ms`: of a ping just now, there and back; None: no answer.
    """

    peer_id: str
    addresses: tuple[str, ...]
    roles: tuple[str, ...]
    layers: tuple[int, int] | None
    model: str
    free_sessions: int
    rtt_ms: float | None


class Coverage(msgspec.Struct, frozen=True):
    """So many peers host just the layers [start, end)."""

    layers: tuple[int, int]
    replicas: int


class ModelInfo(msgspec.Struct, frozen=True):
    """A model that somebody hosts layers of. `complete`: some of them make a pipeline; if not, `missing` says why.

    `coverage` by first layer; `drafters`: so many peers can draft for it.
    """

    name: str
    model_id: str
    num_layers: int
    coverage: tuple[Coverage, ...]
    drafters: int
    complete: bool
    missing: str

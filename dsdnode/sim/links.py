"""What a simulated connection is like, and what is counted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from dsdnode.net.port import MIN_RESEND_S, SEGMENT_BYTES

HANDSHAKE_ROUND_TRIPS = 4.6
"""TCP, CURVE and HELLO, before the first message leaves (a first reply takes 5.6, its own included)."""
OVERHEAD_BYTES = 90
"""Of a message: ZMTP's and CURVE's frames, TCP and IP headers."""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One direction. Jitter: the latency is uniform within +- of it; loss: of a segment."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class SimRelay:
    """One that stands in a region, and lets so many bytes a second through for one caller, both ways (0: all)."""

    region: str = ""
    bytes_per_s: float = 0.0


@dataclass(slots=True, eq=False)
class SimLink:
    """`arrived_s`: when the last message arrives, by receiver. `relay`: the one that its callee is called by way of."""

    caller: bytes
    callee: bytes
    bulk: bool
    ready_s: float
    relay: SimRelay | None = None
    relay_free_s: float = 0.0
    """When it has passed on what it was given last."""
    arrived_s: dict[bytes, float] = field(default_factory=dict)
    broken: bool = False
    in_vain: bool = False
    """Nobody will answer the call."""
    made_s: float = 0.0
    ended: dict[bytes, None] = field(default_factory=dict)
    """Peers that have seen its end."""
    unheard: dict[bytes, None] = field(default_factory=dict)
    """By whom something was sent to a machine that was gone: TCP sends it again."""

    def other(self, peer: bytes) -> bytes:
        return self.callee if peer == self.caller else self.caller


@dataclass(slots=True)
class Traffic:
    num_messages: int = 0
    size_bytes: int = 0
    flight_s: float = 0.0
    """Sum over messages, from send to receipt."""


def size_of(frames: list[bytes], state_bytes: int) -> int:
    """Bytes of a message on a link; `state_bytes`: of a position's hidden states, 0: what is carried counts."""
    size_bytes = sum(map(len, frames)) + OVERHEAD_BYTES
    if state_bytes and len(frames) == 4:  # a block that carries hidden states: header, digests, tokens, states
        size_bytes += (len(frames[1]) // 8 - 1) * state_bytes - len(frames[3])
    return size_bytes


def arrival_s(link: SimLink, leaves_s: float, size_bytes: int, way: Sequence[LinkSpec], rng: Random) -> float:
    """When a message is there that leaves then; `way`: of two links, if it goes by way of a relay."""
    arrives_s = leaves_s + travel_s(size_bytes, way[0], rng)
    if link.relay is not None:
        arrives_s = max(arrives_s, link.relay_free_s)
        if link.relay.bytes_per_s:
            arrives_s += size_bytes / link.relay.bytes_per_s
        link.relay_free_s = arrives_s
        arrives_s += travel_s(size_bytes, way[1], rng)
    return arrives_s


def travel_s(size_bytes: int, spec: LinkSpec, rng: Random) -> float:
    late_s = spec.latency_s
    if spec.jitter_s:
        late_s = max(0.0, late_s + rng.uniform(-spec.jitter_s, spec.jitter_s))
    return late_s + retransmits_s(size_bytes, spec, rng) if spec.loss else late_s


def retransmits_s(size_bytes: int, spec: LinkSpec, rng: Random) -> float:
    """How much later a message is whole because segments of it were lost."""
    num_segments = 1 + size_bytes // SEGMENT_BYTES
    late_s, timeout_s = 0.0, max(MIN_RESEND_S, 2 * spec.latency_s)
    while rng.random() > (1 - spec.loss) ** num_segments:
        late_s += timeout_s
        timeout_s, num_segments = 2 * timeout_s, 1
    return late_s

"""What a user is told of the swarm: its peers and its models, as `peers --json` and `models --json` print them."""

from __future__ import annotations

import msgspec


class PeerInfo(msgspec.Struct, frozen=True):
    """Somebody we know of. `layers` [start, end) of the shard; `model`: names of what it serves, with commas.

    `rtt_ms`: of a ping just now, there and back; None: no answer. `seen_s`: how long ago it answered last; None: never.
    """

    peer_id: str
    addresses: tuple[str, ...]
    roles: tuple[str, ...]
    layers: tuple[int, int] | None
    model: str
    free_sessions: int
    rtt_ms: float | None
    seen_s: float | None = None
    name: str = ""
    """What its user calls it, and anybody may call himself."""
    link: str = ""
    """How it is linked: direct, reversed (called back), punched, relayed; "": not now, or nobody can tell."""
    fixed_ms: float = 0.0
    slope_ms: float = 0.0
    """A block of n positions takes it fixed_ms + slope_ms n, it says, as a shard if it is one; 0, 0: not known."""
    model_ids: tuple[str, ...] = ()
    """Of what it serves; names are anybody's to give."""
    queue: float = 0.0
    """How many replies had work there, on the average of the last seconds, as it says."""


class Coverage(msgspec.Struct, frozen=True):
    """So many peers are said to host just the layers [start, end), and so many of them answer now."""

    layers: tuple[int, int]
    replicas: int
    answering: int


class Newcomer(msgspec.Struct, frozen=True):
    """What one more machine, as large as those that are there, would bring: its roles and layers [start, end), `why` in
    words, and the tokens a second that the best pipeline is expected to give without it and with it (None: there is
    none)."""

    roles: tuple[str, ...]
    layers: tuple[int, int] | None
    why: str
    without: float | None
    with_it: float | None


class ModelInfo(msgspec.Struct, frozen=True):
    """A model that somebody hosts layers of. `complete`: some of those who answer make a pipeline; if not, `missing`
    says why. `once_complete`: some do by what they announced, in the last ten minutes.

    `coverage` by first layer; `drafters`: so many peers who answer can draft for it. `ways`: how those of both are
    linked that answer (as PeerInfo.link has it), and how many of them. `holes`: what to a whole pipeline is hosted by
    nobody who answers.
    """

    name: str
    model_id: str
    num_layers: int
    coverage: tuple[Coverage, ...]
    drafters: int
    complete: bool
    missing: str
    once_complete: bool
    ways: dict[str, int] = msgspec.field(default_factory=dict)
    holes: tuple[tuple[int, int], ...] = ()
    newcomer: Newcomer | None = None


class AddressInfo(msgspec.Struct, frozen=True):
    """One of our own. `reached`: by most of those who have called it; None: nobody has. `by`: who has given it to us, a
    relay's id; "": it is this machine's own, its router's, or what its user has said."""

    address: str
    reached: bool | None
    by: str = ""


class ReachInfo(msgspec.Struct, frozen=True):
    """Where others reach a node, as they say. `is_far`: has anybody far away said so? `is_cut_off`: they do not, but by
    way of relays. `seen_at`: IP addresses that others see it at; `seen`: as the transport says it; `nat`: how its
    router takes ports for calls, a Kind's value ("": it translates nothing). `why_no_port`: of its router;
    `why_no_relay`: of the peers that were asked last; both in words. `num_peers`: that are known; `num_able`: of them
    those that might relay. `relays`: for others."""

    addresses: tuple[AddressInfo, ...] = ()
    is_known: bool = False
    is_far: bool = False
    is_cut_off: bool = False
    seen_at: tuple[str, ...] = ()
    seen: str = ""
    nat: str = ""
    why_no_port: str = ""
    why_no_relay: str = ""
    num_peers: int = 0
    num_able: int = 0
    relays: bool = False
    twin: str = ""

"""What is simulated, as a TOML file says it (configs/sim/): peers, links, load, the pair of models, policies.

Times are in milliseconds where machines and links are meant, in seconds where people are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dsdnode.config import read_toml
from dsdnode.cost import CostLine
from dsdnode.errors import BadInput
from dsdnode.pacing.policies import parse_window
from dsdnode.sim.links import LinkSpec
from dsdnode.sim.parse import build
from dsdnode.sim.policies import Batching, Routing
from dsdnode.wire.numbers import parse_wire

MAX_PEERS = 100_000
Count = int | tuple[int, int]
"""A number, or [low, high]: uniform between both."""


@dataclass(frozen=True, slots=True)
class LinkTerms:
    """Between two peers, one way; `jitter_ms`: uniform within +-; `loss`: share of TCP segments."""

    latency_ms: float = 0.5
    jitter_ms: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if min(self.latency_ms, self.jitter_ms) < 0 or not 0 <= self.loss < 0.9:
            raise ValueError("latency and jitter are not negative, loss is a share below 0.9")

    @property
    def spec(self) -> LinkSpec:
        return LinkSpec(self.latency_ms / 1e3, self.jitter_ms / 1e3, self.loss)


@dataclass(frozen=True, slots=True)
class NetworkTerms(LinkTerms):
    """`between`: other terms for a pair of regions, written "eu-us", "eu-eu" for inside one; it holds both ways."""

    bandwidth_mbit: float = 0.0
    """Of a peer, each way, when its group does not say; 0: without limit."""
    handling_ms: float = 0.0
    """Of every message beside its way: packing, encryption, processes that wake up (1 ms on a machine at ease)."""
    between: dict[str, LinkTerms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        LinkTerms.__post_init__(self)
        if self.handling_ms < 0 or self.bandwidth_mbit < 0:
            raise ValueError("handling and bandwidth are not negative")

    def of(self, sender: str, receiver: str) -> LinkSpec:
        terms = self.between.get(f"{sender}-{receiver}") or self.between.get(f"{receiver}-{sender}") or self
        return replace(terms.spec, latency_s=(terms.latency_ms + self.handling_ms) / 1e3)


@dataclass(frozen=True, slots=True)
class Churn:
    """How long members stay. At its end a life is over by a crash (share `crashes`; of these a share `gone` takes the
    machine along, so that nobody is told) or a clean goodbye; `away_s` later another peer takes the place (0: none)."""

    mean_s: float
    lives: Literal["exponential", "weibull", "fixed"] = "exponential"
    """weibull: shape 0.6, as measured in file sharing: many short stays, a few long ones."""
    crashes: float = 0.5
    gone: float = 0.0
    away_s: float = 30.0

    def __post_init__(self) -> None:
        if self.mean_s <= 0 or self.away_s < 0 or not (0 <= self.crashes <= 1 and 0 <= self.gone <= 1):
            raise ValueError("mean_s is positive, away_s not negative, crashes and gone are shares")


@dataclass(frozen=True, slots=True)
class Partition:
    """`at_s` after the first request could be asked, nothing passes between these regions and all others, `for_s`."""

    regions: tuple[str, ...]
    at_s: float = 0.0
    for_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.regions or self.at_s < 0 or self.for_s <= 0:
            raise ValueError("regions must not be empty, at_s is not negative, for_s positive")


@dataclass(frozen=True, slots=True)
class Group:
    """Peers alike. Shards host `layers` "0:4", or else one of the equal pieces of `stages`, in turn.

    A decode takes fixed_ms + position_ms a position + sequence_ms a sequence; for a drafter, so does every token.
    """

    role: Literal["shard", "drafter", "bootstrap"]
    count: int = 1
    name: str = ""
    stages: int = 1
    layers: str = ""
    fixed_ms: float = 0.0
    position_ms: float = 0.0
    sequence_ms: float = 0.0
    max_sessions: int = 8
    context_tokens: int = 0
    """0: enough for its sessions."""
    regions: tuple[str, ...] = ("",)
    """Members are spread over them in turn."""
    bandwidth_mbit: float = 0.0
    relay_mbit: float = 0.0
    """Others call them by way of relays, in their own regions, that let so much through for one caller; 0: without."""
    churn: Churn | None = None
    private: bool = False
    """Drafters that serve their own user alone, and offer nothing to others."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PEERS or not 1 <= self.stages <= 64 or not 1 <= self.max_sessions <= 64:
            raise ValueError(f"count is 1 to {MAX_PEERS}, stages and max_sessions are 1 to 64")
        costs = self.fixed_ms, self.position_ms, self.sequence_ms, self.context_tokens
        if min(*costs, self.bandwidth_mbit, self.relay_mbit) < 0:
            raise ValueError("costs, bandwidth and context are not negative")
        if not self.regions:
            raise ValueError("regions must not be empty")

    @property
    def cost(self) -> CostLine:
        return CostLine.of_ms(self.fixed_ms, self.position_ms)


@dataclass(frozen=True, slots=True)
class Pair:
    """Target and draft model. `trace`: a file of recorded replies; without it acceptance is made up (traces.py)."""

    layers: int = 64
    state_bytes: int = 0
    """Of one position's hidden states on a link; 0: they weigh nothing."""
    acceptance: float = 0.8
    spread: float = 0.5
    second: float = 0.4
    trace: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= 4096 or self.state_bytes < 0:
            raise ValueError("layers are 1 to 4096, state_bytes not negative")
        if not all(0 <= share <= 1 for share in (self.acceptance, self.spread, self.second)):
            raise ValueError("acceptance, spread and second lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class LoadTerms:
    """Who asks for what. poisson: `rate_per_s`; burst: `burst` at once, at that rate of replies; closed: `users`, each
    asking again `think_s` (mean, exponential) after its reply."""

    arrivals: Literal["poisson", "burst", "closed"] = "closed"
    requests: int = 20
    rate_per_s: float = 1.0
    burst: int = 8
    users: int = 1
    think_s: float = 0.0
    prompt_tokens: Count = 64
    reply_tokens: Count = 128
    temperature: float = 0.0
    replay: bool = False
    """Of a recorded trace: its replies one after the other, as long as they were; lengths are not drawn."""
    clients: int = 1
    """Peers that ask; 0: the users of private drafters, each through its own."""
    regions: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if min(self.requests, self.users, self.burst) < 1 or self.clients < 0 or not self.regions:
            raise ValueError("requests, users, burst and regions are at least one, clients not negative")
        if max(self.users, self.burst, self.clients) > MAX_PEERS:
            raise ValueError(f"users, burst and clients are at most {MAX_PEERS}")
        if self.rate_per_s <= 0 or self.think_s < 0:
            raise ValueError("rate_per_s is positive, think_s not negative")
        for low, high in (_span(self.prompt_tokens), _span(self.reply_tokens)):
            if not 1 <= low <= high <= 1 << 17:
                raise ValueError("prompts and replies have 1 to 131072 tokens, [low, high]")

    @property
    def prompt_span(self) -> tuple[int, int]:
        return _span(self.prompt_tokens)

    @property
    def reply_span(self) -> tuple[int, int]:
        return _span(self.reply_tokens)


@dataclass(frozen=True, slots=True)
class Policies:
    """By name, as the node's own settings have them."""

    window: str = "fixed"
    draft_max: int = 8
    wire: str = "f32"
    routing: Routing = "fastest"
    batching: Batching = "fair"

    def __post_init__(self) -> None:
        parse_window(self.window)
        parse_wire(self.wire)
        if not 0 <= self.draft_max <= 256:
            raise ValueError("draft_max is 0 to 256")


@dataclass(frozen=True, slots=True)
class Scenario:
    peers: tuple[Group, ...]
    name: str = ""
    links: NetworkTerms = field(default_factory=NetworkTerms)
    pair: Pair = field(default_factory=Pair)
    load: LoadTerms = field(default_factory=LoadTerms)
    policies: Policies = field(default_factory=Policies)
    partitions: tuple[Partition, ...] = ()
    settle_s: float = 5.0
    """Between the last join and the first request."""
    limit_s: float = 86_400.0
    """Simulated time after which what is still in progress counts as stuck."""

    def __post_init__(self) -> None:
        roles = {group.role for group in self.peers}
        if not {"shard", "drafter"} <= roles:
            raise ValueError("peers: a group of shards and one of drafters are needed")
        if all(group.relay_mbit for group in self.peers):
            raise ValueError("peers: somebody must be called without a relay")
        known = {*self.load.regions, *(region for group in self.peers for region in group.regions)}
        for region in (region for partition in self.partitions for region in partition.regions):
            if region not in known:
                raise ValueError(f"partitions: nobody is in the region {region!r}")
        if self.load.replay and not self.pair.trace:
            raise ValueError("load: replay needs a trace of the pair")
        if not self.load.clients and not any(group.private for group in self.peers):
            raise ValueError("load: clients 0 means the users of private drafters, and no group is private")


def read_scenario(path: Path) -> Scenario:
    """Raises BadInput; a trace is looked for beside the file."""
    return scenario_of(read_toml(path, "scenario"), str(path), path.stem)


def scenario_of(table: dict[str, object], where: str, name: str = "") -> Scenario:
    """Raises BadInput."""
    return build(Scenario, {"name": name, **table}, where)


def layers_of(group: Group, index: int, num_layers: int) -> tuple[int, int]:
    """Layers [start, end) of the group's member `index`. Raises BadInput."""
    if group.layers:
        start, _, end = group.layers.partition(":")
        if start.isdigit() and end.isdigit() and int(start) < int(end) <= num_layers:
            return int(start), int(end)
        raise BadInput(f"layers {group.layers!r} are no range of {num_layers}: write 0:16")
    piece = index % group.stages
    return num_layers * piece // group.stages, num_layers * (piece + 1) // group.stages


def _span(count: Count) -> tuple[int, int]:
    return (count, count) if isinstance(count, int) else count

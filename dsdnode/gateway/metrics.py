"""What Prometheus asks: `GET /metrics`. A registry a gateway. No label has a value that a stranger could choose."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from dsdnode.client.client import ReplyStats
from dsdnode.net.port import LinkKind
from dsdnode.node.status import NodeStatus, sent_by_class
from dsdnode.swarm.info import ModelInfo, PeerInfo

REASONS = ("stop", "length", "context", "cancelled")
"""That a reply ends for. A drafter may say any other word."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets: from a house's own network to a swarm that waits for its peers."""
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class Metrics:
    """Of the replies of one gateway, and of what it knows of its swarm and node when it is asked."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    seen: Seen = field(default_factory=lambda: Seen())
    replies: Counter = field(init=False)
    running: Gauge = field(init=False)
    first_token: Histogram = field(init=False)
    each_token: Histogram = field(init=False)
    figures: dict[str, Counter] = field(init=False)

    def __post_init__(self) -> None:
        registry = self.registry
        registry.register(self.seen)
        self.replies = Counter(
            "dsdnode_replies", "Replies that are over, by how they ended.", ("outcome",), registry=registry
        )
        self.running = Gauge("dsdnode_replies_running", "Replies in progress.", registry=registry)
        self.first_token = Histogram(
            "dsdnode_time_to_first_token_seconds",
            "From a request to the first token of its reply.",
            registry=registry,
            buckets=SECONDS,
        )
        self.each_token = Histogram(
            "dsdnode_time_per_output_token_seconds",
            "Of a reply, for each token behind the first, in the mean.",
            registry=registry,
            buckets=TOKEN_SECONDS,
        )
        self.figures = {name: Counter(f"dsdnode_{name}", words, registry=registry) for name, words in FIGURES.items()}
        for reason in REASONS:
            self.replies.labels(reason)

    def over(
        self, outcome: str, first_s: float | None, rest_s: float, num_tokens: int, stats: ReplyStats | None
    ) -> None:
        """A reply is. `outcome`: a reason, or the code of a failure (failures.py); `rest_s`: from the first token to
        the last; `stats` None: it has not come to its end."""
        self.replies.labels(outcome if outcome in REASONS or outcome in CODES else "other").inc()
        if first_s is not None:
            self.first_token.observe(first_s)
        if num_tokens > 1:
            self.each_token.observe(rest_s / (num_tokens - 1))
        counts = {"generation_tokens": num_tokens}
        if stats is not None:
            counts |= {
                "prompt_tokens": stats.prompt_tokens,
                "prompt_tokens_cached": stats.prompt_tokens_reused,
                "spec_decode_num_drafts": stats.passes,
                "spec_decode_num_draft_tokens": stats.drafted,
                "spec_decode_num_judged_tokens": stats.judged,
                "spec_decode_num_accepted_tokens": stats.accepted,
                "recoveries": stats.recoveries,
            }
        for name, num in counts.items():
            self.figures[name].inc(num)


FIGURES = {
    "generation_tokens": "Tokens of replies.",
    "prompt_tokens": "Tokens of prompts.",
    "prompt_tokens_cached": "Of these, those that all stages had from the turn before.",
    "spec_decode_num_drafts": "Passes round the ring of stages.",
    "spec_decode_num_draft_tokens": "Draft tokens that were sent to be judged.",
    "spec_decode_num_judged_tokens": "Draft tokens that were judged; those behind a rejection are not.",
    "spec_decode_num_accepted_tokens": "Of these, those that were accepted.",
    "recoveries": "How often a reply went on though a stage or its drafter was lost.",
}
CODES = (
    "bad_request",
    "model_not_found",
    "overloaded",
    "no_pipeline",
    "no_swarm",
    "no_peer",
    "bad_peer",
    "internal_error",
)
"""Of failures of replies."""
ROLES = ("drafter", "shard")
WAYS = (*(kind.value for kind in LinkKind), "none")


class Seen(Collector):
    """What is known of the swarm, and of the node beside the gateway, when somebody asks."""

    def __init__(self) -> None:
        self.peers: Sequence[PeerInfo] = ()
        self.models: Sequence[ModelInfo] = ()
        self.node: NodeStatus | None = None

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_swarm()
        if self.node is not None:
            yield from _of_node(self.node)
            yield from _of_engines(self.node)

    def _of_swarm(self) -> Iterator[Metric]:
        answering = [one for one in self.peers if one.rtt_ms is not None]
        peers = GaugeMetricFamily("dsdnode_swarm_peers", "Peers that are known.", labels=["answering"])
        peers.add_metric(["true"], len(answering))
        peers.add_metric(["false"], len(self.peers) - len(answering))
        yield peers
        roles = GaugeMetricFamily("dsdnode_swarm_role_peers", "Peers that answer, by role.", labels=["role"])
        for role in ROLES:
            roles.add_metric([role], sum(role in one.roles for one in answering))
        yield roles
        ways = GaugeMetricFamily("dsdnode_swarm_link_peers", "Peers that answer, by their link.", labels=["way"])
        kinds = Counts(one.link if one.link in WAYS else "none" for one in answering)
        for way in WAYS:
            ways.add_metric([way], kinds[way])
        yield ways
        models = GaugeMetricFamily("dsdnode_swarm_models", "Models that layers are hosted of.", labels=["complete"])
        whole = sum(one.complete for one in self.models)
        models.add_metric(["true"], whole)
        models.add_metric(["false"], len(self.models) - whole)
        yield models
        lacking = sum(end - start for one in self.models for start, end in one.holes)
        yield GaugeMetricFamily("dsdnode_swarm_missing_layers", "Layers that nobody who answers hosts.", lacking)


def _of_node(node: NodeStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily("dsdnode_node_uptime_seconds", "Since its start.", node.uptime_s)
    sessions = GaugeMetricFamily("dsdnode_node_sessions", "Replies that it has a part in, by role.", labels=["role"])
    sessions.add_metric(["shard"], node.sessions.shard)
    sessions.add_metric(["drafter"], node.sessions.drafter)
    yield sessions
    messages = CounterMetricFamily("dsdnode_node_sent_messages", "Messages that it sent, by class.", labels=["class"])
    sizes = CounterMetricFamily("dsdnode_node_sent_bytes", "Bytes that it sent, by class.", labels=["class"])
    for name, (num, num_bytes) in sent_by_class(node.sent).items():
        messages.add_metric([name], num)
        sizes.add_metric([name], num_bytes)
    yield messages
    yield sizes
    yield GaugeMetricFamily("dsdnode_node_table_peers", "Peers in its routing table.", node.known_peers)
    yield GaugeMetricFamily("dsdnode_node_table_records", "Records that it keeps for the swarm.", node.num_records)
    circuits = node.num_relay_circuits
    yield GaugeMetricFamily("dsdnode_node_relay_circuits", "Circuits that go by way of it, as a relay.", circuits)


def _of_engines(node: NodeStatus) -> Iterator[Metric]:
    """A node has one of a role at most."""
    queue = GaugeMetricFamily("dsdnode_engine_queue_replies", "Replies with work there, lately.", labels=["role"])
    waiting = GaugeMetricFamily("dsdnode_engine_waiting_items", "Chunks, cache operations that wait.", labels=["role"])
    batch = SummaryMetricFamily("dsdnode_engine_batch_positions", "Positions of each decode.", labels=["role"])
    deaths = CounterMetricFamily("dsdnode_engine_deaths", "Worker processes that died.", labels=["role"])
    fixed = GaugeMetricFamily("dsdnode_engine_block_seconds", "A block takes this, however short.", labels=["role"])
    slope = GaugeMetricFamily("dsdnode_engine_position_seconds", "And for each position this.", labels=["role"])
    for one in (one for one in node.engines if one.role in ROLES):
        queue.add_metric([one.role], one.queue)
        waiting.add_metric([one.role], one.num_waiting)
        batch.add_metric([one.role], one.num_decodes, one.num_positions)
        deaths.add_metric([one.role], one.num_deaths)
        fixed.add_metric([one.role], one.fixed_ms / 1e3)
        slope.add_metric([one.role], one.slope_ms / 1e3)
    yield from (queue, waiting, batch, deaths, fixed, slope)


async def metrics(request: Request) -> Response:
    state = request.app.state
    own: Metrics = state.metrics
    (own.seen.peers, own.seen.models), own.seen.node = await asyncio.gather(state.swarm.known(), state.here())
    own.running.set(len(state.swarm.flows))
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(own.registry), headers={"content-type": kind, "cache-control": "no-store"})

"""Who we know: Kademlia's buckets, with caps per network and no eviction of the living.

A node is absent, spare, live, suspect or dead. `seen` is called when a peer answered us, never on hearsay.

| state   | seen                                          | failed                              | its place is wanted |
|---------|-----------------------------------------------|-------------------------------------|---------------------|
| absent  | live, if bucket and caps allow, else spare    | -                                   | -                   |
| spare   | live, if bucket and caps allow, else spare    | absent                              | the oldest goes     |
| live    | live                                          | suspect                             | stays               |
| suspect | live                                          | suspect; dead at the third failure  | stays               |
| dead    | live                                          | dead                                | gone                |

Whoever is called no more without a relay, or says that nobody can call it, `leave`s, whatever its state.

Rules: only live nodes are told to others or asked. Failures within a second of each other count once (requests in
flight together fail together). A spare that comes in is suspect until it answers. New addresses face the caps anew.
A dead node whose place nobody wants is tried again, ever more rarely, and forgotten after an hour, unless nobody is
live: then it is we who are cut off. A bucket holds K nodes and 10 spares, so the table is bounded by 256 buckets.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from dsdnode.dht.ids import (
    ID_BITS,
    MAX_PER_GROUP,
    K,
    as_int,
    bucket_index,
    ip_groups,
    is_dialable,
    node_id,
    random_id_in_bucket,
)
from dsdnode.wire.messages import Contact

MAX_SPARES = 10
MAX_TABLE_PER_GROUP = 10
NUM_FAILURES_DEAD = 3
FAILURE_SPACING_S = 1.0
CHECK_AFTER_S = 60.0
RECHECK_S = 2.0
MAX_RECHECK_S = 60.0
SHUN_S = 30.0
FORGET_AFTER_S = 3600.0
REFRESH_AFTER_S = 900.0
MAX_DUE = 10
"""Nodes handed out for checking at once."""


@dataclass(slots=True)
class _Node:
    id: bytes
    number: int
    contact: Contact
    groups: tuple[str, ...]
    seen_at: float
    check_at: float
    failures: int = 0
    failed_at: float = float("-inf")
    queued_at: float = float("inf")
    """Of its valid entry in the table's queue of checks, which is never later than `check_at`."""

    @property
    def live(self) -> bool:
        return self.failures == 0

    @property
    def dead(self) -> bool:
        return self.failures >= NUM_FAILURES_DEAD


@dataclass(slots=True)
class _Bucket:
    nodes: dict[bytes, _Node] = field(default_factory=dict)
    spares: dict[bytes, _Node] = field(default_factory=dict)
    refreshed_at: float = float("-inf")


class Table:
    """The routing table of `own_id` (32 bytes). Time comes in as `now`, seconds of any monotonic clock."""

    def __init__(self, own_id: bytes) -> None:
        self._own_id = own_id
        self._buckets: dict[int, _Bucket] = {}
        self._groups: Counter[str] = Counter()
        self._checks: list[tuple[float, bytes]] = []
        self._refresh_at = float("-inf")

    def __len__(self) -> int:
        """Nodes that are live."""
        return sum(node.live for node in self._nodes())

    def get(self, peer: bytes) -> Contact | None:
        """How to reach a node of the table, whatever its state."""
        bucket = self._buckets.get(bucket_index(self._own_id, peer))
        node = bucket.nodes.get(peer) if bucket else None
        return node.contact if node else None

    def seen_at(self, peer: bytes) -> float | None:
        """When a node of the table answered last, whatever its state."""
        bucket = self._buckets.get(bucket_index(self._own_id, peer))
        node = bucket.nodes.get(peer) if bucket else None
        return node.seen_at if node else None

    def is_live(self, peer: bytes) -> bool:
        bucket = self._buckets.get(bucket_index(self._own_id, peer))
        return bucket is not None and peer in bucket.nodes and bucket.nodes[peer].live

    def shunned(self, now: float) -> list[bytes]:
        """Nodes that failed just now: not worth asking, whoever names them."""
        return [node.id for node in self._nodes() if not node.live and now < node.failed_at + SHUN_S]

    def closest(self, target: bytes, num: int = K, exclude: Collection[bytes] = ()) -> list[Contact]:
        """The live nodes closest to `target`, closest first."""
        number = as_int(target)
        live = [node for node in self._nodes() if not node.failures and node.id not in exclude]
        return [node.contact for node in sorted(live, key=lambda node: node.number ^ number)[:num]]

    def contacts(self) -> list[Contact]:
        """Every live node, the one heard from last first."""
        live = [node for node in self._nodes() if node.live]
        return [node.contact for node in sorted(live, key=lambda node: (-node.seen_at, node.id))]

    def known(self) -> list[Contact]:
        """Every node, live ones first: what is worth remembering for the next start."""
        nodes = sorted(self._nodes(), key=lambda node: (node.failures, -node.seen_at, node.id))
        return [node.contact for node in nodes]

    def seen(self, contact: Contact, now: float, networks: Iterable[str] = ()) -> bool:
        """A peer answered us. True when it is live now and was not before (absent, suspect or dead).

        `networks`: where it was seen to be; the caps count it there and where its addresses say.
        """
        peer = node_id(contact)
        index = bucket_index(self._own_id, peer)
        if index < 0 or not is_dialable(contact):
            return False
        bucket = self._buckets.setdefault(index, _Bucket())
        node = bucket.nodes.pop(peer, None)
        groups = tuple(sorted({*ip_groups(contact.addresses), *networks}))
        if node is not None and node.contact == contact and node.groups == groups:
            fresh = not node.live
            node.seen_at, node.failures = now, 0
            self._check_at(node, now + CHECK_AFTER_S)
            bucket.nodes[peer] = node
            return fresh
        if node is not None:
            self._groups.subtract(node.groups)
        newcomer = _Node(peer, as_int(peer), contact, groups, now, now + CHECK_AFTER_S)
        bucket.spares.pop(peer, None)
        if self._has_room(bucket, newcomer) or self._makes_room(index, newcomer):
            self._insert(bucket, newcomer)
            return node is None or not node.live
        self._keep_spare(bucket, newcomer)
        return False

    def failed(self, peer: bytes, now: float) -> None:
        """A peer did not answer in time, or is known to be gone."""
        bucket = self._buckets.get(bucket_index(self._own_id, peer))
        if bucket is None:
            return
        bucket.spares.pop(peer, None)
        node = bucket.nodes.get(peer)
        if node is None or now < node.failed_at + FAILURE_SPACING_S:
            return
        node.failures += 1
        node.failed_at = now
        self._check_at(node, now + min(RECHECK_S * 2.0 ** min(node.failures - 1, 10), MAX_RECHECK_S))
        if node.dead:
            self._replace(bucket, node, now)

    def leave(self, peer: bytes, now: float) -> None:
        """A peer lives, and is no longer one to be asked: it cannot be called where we said that it can."""
        bucket = self._buckets.get(bucket_index(self._own_id, peer))
        if bucket is None:
            return
        bucket.spares.pop(peer, None)
        node = bucket.nodes.get(peer)
        if node is not None:
            self._remove(bucket, node)
            self._let_in(bucket, now)

    def due(self, now: float) -> list[Contact]:
        """Nodes to be pinged now, at most 10; each comes again only later. Forgets the long dead."""
        due: list[Contact] = []
        while self._checks and self._checks[0][0] <= now and len(due) < MAX_DUE:
            queued_at, peer = heapq.heappop(self._checks)
            bucket = self._buckets.get(bucket_index(self._own_id, peer))
            node = bucket.nodes.get(peer) if bucket else None
            if bucket is None or node is None or node.queued_at != queued_at:
                continue
            node.queued_at = float("inf")
            if now < node.check_at:
                self._check_at(node, node.check_at)
            elif node.dead and now >= node.seen_at + FORGET_AFTER_S and any(one.live for one in self._nodes()):
                self._remove(bucket, node)
            else:
                self._check_at(node, now + min(RECHECK_S * 2.0 ** min(node.failures, 10), MAX_RECHECK_S))
                due.append(node.contact)
        return due

    def refresh_targets(self, now: float, rng: random.Random) -> list[bytes]:
        """One random id of each bucket that saw no lookup for 15 minutes, from our closest neighbour's bucket up."""
        if now < self._refresh_at:
            return []
        occupied = [index for index, bucket in self._buckets.items() if bucket.nodes]
        self._refresh_at = float("inf")
        targets = []
        for index in range(min(occupied, default=ID_BITS), ID_BITS):
            bucket = self._buckets.setdefault(index, _Bucket())
            if now >= bucket.refreshed_at + REFRESH_AFTER_S:
                bucket.refreshed_at = now
                targets.append(random_id_in_bucket(self._own_id, index, rng))
            self._refresh_at = min(self._refresh_at, bucket.refreshed_at + REFRESH_AFTER_S)
        return targets

    def _nodes(self) -> Iterator[_Node]:
        for index in sorted(self._buckets):
            yield from self._buckets[index].nodes.values()

    def _bucket_of(self, node: _Node) -> _Bucket:
        return self._buckets[bucket_index(self._own_id, node.id)]

    def _check_at(self, node: _Node, check_at: float) -> None:
        node.check_at = check_at
        if check_at < node.queued_at:
            node.queued_at = check_at
            heapq.heappush(self._checks, (check_at, node.id))

    def _insert(self, bucket: _Bucket, node: _Node) -> None:
        if not bucket.nodes:
            self._refresh_at = float("-inf")
        self._check_at(node, node.check_at)
        bucket.nodes[node.id] = node
        self._groups.update(node.groups)

    def _remove(self, bucket: _Bucket, node: _Node) -> None:
        del bucket.nodes[node.id]
        self._groups.subtract(node.groups)
        self._groups += Counter()

    def _has_room(self, bucket: _Bucket, node: _Node) -> bool:
        if len(bucket.nodes) >= K or not node.groups:
            return len(bucket.nodes) < K
        in_bucket = Counter(group for other in bucket.nodes.values() for group in other.groups)
        return all(
            in_bucket[group] < MAX_PER_GROUP and self._groups[group] < MAX_TABLE_PER_GROUP for group in node.groups
        )

    def _makes_room(self, index: int, newcomer: _Node) -> bool:
        """Let the dead that stand in the newcomer's way go."""
        bucket = self._buckets[index]
        for node in [node for node in self._nodes() if node.dead]:
            if node.id in bucket.nodes or not set(node.groups).isdisjoint(newcomer.groups):
                self._remove(self._bucket_of(node), node)
        return self._has_room(bucket, newcomer)

    def _keep_spare(self, bucket: _Bucket, node: _Node) -> None:
        """The newest spares are kept, but one network cannot flush the others out."""
        in_spares = Counter(group for other in bucket.spares.values() for group in other.groups)
        if any(in_spares[group] >= MAX_PER_GROUP for group in node.groups):
            return
        if len(bucket.spares) >= MAX_SPARES:
            del bucket.spares[next(iter(bucket.spares))]
        bucket.spares[node.id] = node

    def _replace(self, bucket: _Bucket, dead: _Node, now: float) -> None:
        """The newest spare that the caps allow takes the place of `dead`; it must answer before it counts as live."""
        self._remove(bucket, dead)
        if not self._let_in(bucket, now):
            self._insert(bucket, dead)

    def _let_in(self, bucket: _Bucket, now: float) -> bool:
        for spare in reversed(bucket.spares.values()):
            if self._has_room(bucket, spare):
                del bucket.spares[spare.id]
                spare.failures, spare.check_at = 1, now
                self._insert(bucket, spare)
                return True
        return False

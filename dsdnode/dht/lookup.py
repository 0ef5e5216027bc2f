"""One lookup: which peers to ask, in which order, and when it is over.

After rust-libp2p's `kad/query/peers/closest.rs`.

Each candidate has one state:

| state   | next(now)                                       | on_reply | on_failure                            |
|---------|-------------------------------------------------|----------|---------------------------------------|
| heard   | asked, if in the closest set and a slot is free | -        | -                                     |
| asked   | slow, when silent for `PATIENCE_S`              | replied  | failed                                |
| slow    | -                                               | replied  | failed                                |
| replied | -                                               | -        | -                                     |
| failed  | - (heard, once, if named at another address)    | -        | -                                     |

The closest set: the K candidates nearest to the target that did not fail, at most two of one network (`ip_groups`);
only its members are asked. Slots: 3 requests in flight, 10 as soon as one was slow or failed; slow ones hold none, and
they leave the closest set to those behind them until they reply.
Done: all of a full closest set replied; or there is nobody left to ask and nobody we wait for; or time is up, or
`MAX_ASKED` peers were asked and none of them is pending. Order is by distance alone: the same replies, the same lookup.

Place for disjoint paths: several lookups with seeds split among them and one shared dict of who was asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from dsdnode.dht.ids import MAX_PER_GROUP, K, as_int, ip_groups, is_dialable, node_id
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import Newest, ProviderRecord

PARALLELISM = 3
MAX_PARALLELISM = 10
PATIENCE_S = 0.4
"""A first call takes 5.6 round trips: while a peer beyond 70 ms makes up its mind, others are asked. (500 nodes, all
alive: 0.7 s gave a p99 of 2.15 s with 17 requests a lookup, this one 1.57 s with 23.)"""
QUORUM = 5
MAX_ASKED = 100
MAX_CANDIDATES = 400
MAX_PROVIDERS = 2048
"""Of all that replied. Where there are more each has a share: four liars have as many records as that."""


class _State(Enum):
    HEARD = auto()
    ASKED = auto()
    SLOW = auto()
    REPLIED = auto()
    FAILED = auto()


@dataclass(slots=True)
class _Candidate:
    id: bytes
    distance: int
    contact: Contact
    groups: tuple[str, ...]
    state: _State = _State.HEARD
    asked_at: float = 0.0
    tried: list[tuple[str, ...]] = field(default_factory=list)


class Lookup:
    """Towards `target` (32 bytes), from `seeds`, never asking those in `exclude` (ourselves, the unresponsive).

    `deadline` is on the clock of the `now` of the calls.
    """

    def __init__(self, target: bytes, seeds: Iterable[Contact], exclude: Collection[bytes], deadline: float) -> None:
        self._target = as_int(target)
        self._exclude = frozenset(exclude)
        self._deadline = deadline
        self._parallelism = PARALLELISM
        self._num_asked = 0
        self._num_with_records = 0
        self._candidates: list[_Candidate] = []
        self._by_id: dict[bytes, _Candidate] = {}
        self._asked: dict[bytes, _Candidate] = {}
        self._slow: dict[bytes, _Candidate] = {}
        self._newest = Newest(MAX_PROVIDERS)
        self._hear(seeds)

    def next(self, now: float) -> Contact | None:
        """Whom to ask now, if anybody; call again until None, and after every event and at `wakes_at`."""
        self._notice_slow(now)
        if now >= self._deadline or self._num_asked >= MAX_ASKED or len(self._asked) >= self._parallelism:
            return None
        for candidate in self._closest_set():
            if candidate.state is _State.HEARD:
                candidate.state, candidate.asked_at = _State.ASKED, now
                candidate.tried.append(candidate.contact.addresses)
                self._asked[candidate.id] = candidate
                self._num_asked += 1
                return candidate.contact
        return None

    def on_reply(
        self,
        peer: bytes,
        contacts: Iterable[Contact],
        records: Iterable[ProviderRecord] = (),
        networks: Iterable[str] = (),
    ) -> None:
        """`peer` answered with whom it knows and, in a lookup for providers, with (verified) records.

        `networks`: where it was seen to be; it counts for them, too, whatever addresses it was named with.
        """
        candidate = self._settle(peer)
        if candidate is None:
            return
        candidate.state = _State.REPLIED
        candidate.groups = tuple(dict.fromkeys((*candidate.groups, *networks)))
        self._hear(contacts)
        records = tuple(records)
        self._num_with_records += bool(records)
        self._newest.add(records, peer)

    def on_failure(self, peer: bytes) -> None:
        """`peer` could not be reached, did not answer in time, or answered nonsense."""
        candidate = self._settle(peer)
        if candidate is not None:
            candidate.state = _State.FAILED
            self._parallelism = MAX_PARALLELISM

    def done(self, now: float) -> bool:
        if not self._only_slow_left(now):
            return False
        return now >= self._deadline or not self._slow or sum(1 for _ in self._closest_set()) == K

    def settled(self, now: float) -> bool:
        """Good enough for somebody in a hurry: records were found, and only slow peers are left to wait for.

        Where some are slow or gone, records from `QUORUM` peers are enough: each holder should have them all.
        """
        if not self._num_with_records:
            return False
        in_trouble = self._parallelism > PARALLELISM
        return self._only_slow_left(now) or (in_trouble and self._num_with_records >= QUORUM)

    def wakes_at(self) -> float:
        """When `next` and `done` may change their mind although nothing happened."""
        first = next(iter(self._asked.values()), None)
        return self._deadline if first is None else min(first.asked_at + PATIENCE_S, self._deadline)

    @property
    def closest(self) -> list[Contact]:
        """Those of the closest set that replied, closest first: where a record of this key belongs."""
        return [candidate.contact for candidate in self._closest_set() if candidate.state is _State.REPLIED]

    @property
    def records(self) -> list[ProviderRecord]:
        """What each provider said last, withdrawn offers included, in a fixed order."""
        return self._newest.records

    def _only_slow_left(self, now: float) -> bool:
        self._notice_slow(now)
        if now >= self._deadline:
            return True
        if self._num_asked >= MAX_ASKED:
            return not self._asked
        return all(candidate.state is _State.REPLIED for candidate in self._closest_set())

    def _settle(self, peer: bytes) -> _Candidate | None:
        """The candidate that we wait for no longer."""
        return self._asked.pop(peer, None) or self._slow.pop(peer, None)

    def _notice_slow(self, now: float) -> None:
        for candidate in list(self._asked.values()):
            if now < candidate.asked_at + PATIENCE_S:
                return
            candidate.state = _State.SLOW
            self._slow[candidate.id] = self._asked.pop(candidate.id)
            self._parallelism = MAX_PARALLELISM

    def _closest_set(self) -> Iterator[_Candidate]:
        counts: dict[str, int] = {}
        num = 0
        for candidate in self._candidates:
            if candidate.state in (_State.FAILED, _State.SLOW):
                continue
            groups = candidate.groups
            if any([counts.get(group, 0) >= MAX_PER_GROUP for group in groups]):
                continue
            for group in groups:
                counts[group] = counts.get(group, 0) + 1
            yield candidate
            num += 1
            if num == K:
                return

    def _hear(self, contacts: Iterable[Contact]) -> None:
        for contact in contacts:
            self._hear_one(contact)
        self._candidates.sort(key=lambda candidate: candidate.distance)
        for candidate in self._candidates[MAX_CANDIDATES:]:
            del self._by_id[candidate.id]
        del self._candidates[MAX_CANDIDATES:]

    def _hear_one(self, contact: Contact) -> None:
        peer = node_id(contact)
        if peer in self._exclude or not is_dialable(contact):
            return
        known = self._by_id.get(peer)
        if known is None:
            known = _Candidate(peer, as_int(peer) ^ self._target, contact, ip_groups(contact.addresses))
            self._by_id[peer] = known
            self._candidates.append(known)
        elif known.state is _State.FAILED and len(known.tried) < 2 and contact.addresses not in known.tried:
            # Whoever named it first may have lied about its address.
            known.contact, known.groups, known.state = contact, ip_groups(contact.addresses), _State.HEARD

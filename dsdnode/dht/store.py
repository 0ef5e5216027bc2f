"""The records that we hold for others: bounded, expiring by `now` alone, each provider speaking only for itself.

What a provider announces under a key replaces, as a whole, all that it announced there before, whatever that was of;
so what it says now and what it said then never stand side by side. It lives `ttl_s` from its receipt; a withdrawn offer
stays as a tombstone for as long as an old copy could be alive elsewhere.

Whoever comes gets in. Where there is no room, who has more than others gives way: first the network whose connections
brought most, of it the address, of that the provider; and among equals who came last, so that newcomers push out each
other and not those who were there. Where a connection came from we have seen; what a record claims does not count.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsdnode.addresses import network_of
from dsdnode.dht.ids import MODELS_KEY, model_key, tokenizer_key
from dsdnode.errors import Overloaded, PeerMisbehaved
from dsdnode.wire.messages import MAX_RECORD_BYTES, MAX_ROLES
from dsdnode.wire.records import MAX_RECORDS, MAX_TTL_S, ProviderRecord

RECORD_PIECE_BYTES = 1024
"""Room is counted in pieces. A usual record takes one; whoever needs more has room for fewer."""
MAX_PER_KEY = MAX_RECORDS
MAX_KEYS_PER_PROVIDER = 16
"""An offer has three keys; two roles, and what they were in an earlier life, have twelve at most."""
MAX_TOTAL = 16_384
SPARE_SHARE = 1 / 8
"""Of a full store so much is freed at once: looking for whom it is takes a while."""

Signed = tuple[ProviderRecord, bytes]
"""A verified record, and its bytes as they came."""
_Name = tuple[bytes, bytes]
"""Key and provider."""


def record_keys(record: ProviderRecord) -> tuple[bytes, ...]:
    """Under which keys a provider announces a record."""
    return model_key(record.model_id), tokenizer_key(record.tokenizer_hash), MODELS_KEY


@dataclass(frozen=True, slots=True)
class _Held:
    name: _Name
    records: tuple[Signed, ...]
    expires_at: float
    source: str
    """The address that it was announced from."""
    came: int
    """In the order of who was there first; a renewal changes nothing of that."""
    num_pieces: int

    @property
    def sequence(self) -> int:
        return self.records[0][0].sequence

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.records]


class Store:
    """`now` is in seconds of any monotonic clock, the same for all calls."""

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[bytes, _Held]] = {}
        self._expiry: list[tuple[float, _Name]] = []
        self._num_keys: Counter[bytes] = Counter()
        """By provider."""
        self._num = 0
        self._num_pieces = 0
        self._num_came = 0

    def __len__(self) -> int:
        """Providers under keys."""
        return self._num

    def put(self, key: bytes, records: Sequence[Signed], now: float, source: str = "") -> list[bytes]:
        """Hold what a provider, calling from address `source`, announces under `key`, unless something as new of it is
        held. Returns what is held now.

        Raises PeerMisbehaved for what no provider would announce, Overloaded for more keys than a provider needs.
        """
        _check(key, records)
        self.expire(now)
        first, _ = records[0]
        old = self._keys.get(key, {}).get(first.public_key)
        if old is not None and old.sequence >= first.sequence:
            return old.data
        data = [data for _, data in records]
        if old is None:
            if all(record.withdrawn for record, _ in records):
                return data
            if self._num_keys[first.public_key] >= MAX_KEYS_PER_PROVIDER:
                raise Overloaded("this provider has announced under as many keys as are kept of one")
            self._num_came += 1
        lives_s = min(record.ttl_s or MAX_TTL_S for record, _ in records)
        came = self._num_came if old is None else old.came
        num_pieces = sum(-(-len(one) // RECORD_PIECE_BYTES) for one in data)
        if old is not None:
            self._drop(old)
        new = _Held((key, first.public_key), tuple(records), now + lives_s, source, came, num_pieces)
        self._make_room(key, new)
        self._hold(new)
        return data

    def get(self, key: bytes, now: float) -> list[Signed]:
        """What is held under `key`, tombstones included, in a fixed order."""
        self.expire(now)
        held = self._keys.get(key, {})
        return [signed for provider in sorted(held) for signed in held[provider].records]

    def expire(self, now: float) -> None:
        """Forget what has lived its time; cheap when nothing has."""
        while self._expiry and self._expiry[0][0] <= now:
            expires_at, (key, provider) = heapq.heappop(self._expiry)
            held = self._keys.get(key, {}).get(provider)
            if held is not None and held.expires_at <= expires_at:
                self._drop(held)

    def _make_room(self, key: bytes, new: _Held) -> None:
        there = list(self._keys.get(key, {}).values())
        if sum(held.num_pieces for held in there) + new.num_pieces > MAX_PER_KEY:
            for held in _too_much(new, there, MAX_PER_KEY):
                self._drop(held)
        if self._num_pieces + new.num_pieces > MAX_TOTAL:
            everything = [held for places in self._keys.values() for held in places.values()]
            for held in _too_much(new, everything, int(MAX_TOTAL * (1 - SPARE_SHARE))):
                self._drop(held)

    def _hold(self, held: _Held) -> None:
        key, provider = held.name
        self._keys.setdefault(key, {})[provider] = held
        self._num += 1
        self._num_keys[provider] += 1
        self._num_pieces += held.num_pieces
        heapq.heappush(self._expiry, (held.expires_at, held.name))
        if len(self._expiry) > 2 * self._num + 64:
            # Replaced records leave their entries behind: a provider that announces without pause must not fill memory.
            self._expiry = [(held.expires_at, held.name) for one in self._keys.values() for held in one.values()]
            heapq.heapify(self._expiry)

    def _drop(self, held: _Held) -> None:
        key, provider = held.name
        del self._keys[key][provider]
        if not self._keys[key]:
            del self._keys[key]
        self._num -= 1
        self._num_pieces -= held.num_pieces
        self._num_keys[provider] -= 1
        if not self._num_keys[provider]:
            del self._num_keys[provider]


def _check(key: bytes, records: Sequence[Signed]) -> None:
    """Raises PeerMisbehaved."""
    if not 0 < len(records) <= MAX_ROLES or len({record.role for record, _ in records}) < len(records):
        raise PeerMisbehaved("a provider has one record for each of its roles")
    if len({(record.public_key, record.sequence) for record, _ in records}) > 1:
        raise PeerMisbehaved("what a provider announces has one sequence number")
    if any(key not in record_keys(record) or len(data) > MAX_RECORD_BYTES for record, data in records):
        raise PeerMisbehaved("a record announced under a key that is not its own")


def _too_much(new: _Held, there: Iterable[_Held], max_pieces: int) -> list[_Held]:
    """Of those that are there: who gives way, so that the rest and the new one take `max_pieces` at most.

    Each is ranked by how much the others before it have: of its provider, then, in that order, of its address, then of
    its network. So who is high up has much, or belongs to those who have. The new one is the first of its equals.
    """
    ranked = [(0, 0, new), *((0, one.came, one) for one in there)]
    for group in (_provider, _address, _network):
        taken: Counter[str | bytes] = Counter()
        again = []
        for _, came, one in sorted(ranked):  # (no two came as the same)
            name = group(one)
            again.append((taken[name], came, one))
            taken[name] += one.num_pieces
        ranked = again
    room, over = max_pieces, []
    for _, _, one in sorted(ranked):
        room -= one.num_pieces
        if room < 0:
            over.append(one)
    return over


def _provider(held: _Held) -> bytes:
    return held.name[1]


def _address(held: _Held) -> str:
    return held.source


def _network(held: _Held) -> str:
    return network_of(held.source)

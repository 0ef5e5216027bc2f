"""The records that we hold for others: bounded, expiring by `now` alone, each provider speaking only for itself.

A record lives `ttl_s` from its receipt. A higher sequence replaces a lower one of the same place (peer, role, model,
range); a withdrawn record stays as a tombstone for as long as an old copy could be alive elsewhere. When a cap is
reached newcomers are refused, the old stay: filling the store evicts nobody.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

from dsdnode.dht.ids import MODELS_KEY, ip_groups, model_key, tokenizer_key
from dsdnode.errors import Overloaded, PeerMisbehaved
from dsdnode.wire.messages import MAX_RECORD_BYTES
from dsdnode.wire.records import MAX_RECORDS, MAX_TTL_S, ProviderRecord

MAX_PER_KEY = MAX_RECORDS
MAX_PER_PROVIDER = 32
MAX_STORE_PER_GROUP = 512
MAX_TOTAL = 16_384
MAX_TOTAL_BYTES = 32 * 1024 * 1024

Place = tuple[bytes, str, str, int, int]


def record_keys(record: ProviderRecord) -> tuple[bytes, ...]:
    """Under which keys a provider announces a record."""
    return model_key(record.model_id), tokenizer_key(record.tokenizer_hash), MODELS_KEY


@dataclass(frozen=True, slots=True)
class _Held:
    record: ProviderRecord
    data: bytes
    expires_at: float


class Store:
    """`now` is in seconds of any monotonic clock, the same for all calls."""

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[Place, _Held]] = {}
        self._expiry: list[tuple[float, bytes, Place]] = []
        self._per_owner: Counter[bytes | str] = Counter()
        self._num = 0
        self._size_bytes = 0

    def __len__(self) -> int:
        return self._num

    def put(self, key: bytes, record: ProviderRecord, data: bytes, now: float) -> bytes:
        """Hold `data`, the signed form of the verified `record`, unless one as new is held. Returns what is held now.

        Raises PeerMisbehaved for a key that is none of the record's, Overloaded at a cap.
        """
        if key not in record_keys(record) or len(data) > MAX_RECORD_BYTES:
            raise PeerMisbehaved("a record announced under a key that is not its own")
        self.expire(now)
        old = self._keys.get(key, {}).get(record.place)
        if old is not None and old.record.sequence >= record.sequence:
            return old.data
        if old is not None:
            self._drop(key, record.place)
        elif record.withdrawn:
            return data
        try:
            self._check_caps(key, record, len(data))
        except Overloaded:
            if old is not None:
                self._hold(key, old)
            raise
        self._hold(key, _Held(record, data, now + (record.ttl_s or MAX_TTL_S)))
        return data

    def get(self, key: bytes, now: float) -> list[tuple[ProviderRecord, bytes]]:
        """What is held under `key`, tombstones included, in a fixed order."""
        self.expire(now)
        held = self._keys.get(key, {})
        return [(held[place].record, held[place].data) for place in sorted(held)]

    def expire(self, now: float) -> None:
        """Forget what has lived its time; cheap when nothing has."""
        while self._expiry and self._expiry[0][0] <= now:
            expires_at, key, place = heapq.heappop(self._expiry)
            held = self._keys.get(key, {}).get(place)
            if held is not None and held.expires_at <= expires_at:
                self._drop(key, place)

    def _check_caps(self, key: bytes, record: ProviderRecord, size_bytes: int) -> None:
        if len(self._keys.get(key, {})) >= MAX_PER_KEY:
            raise Overloaded("this key has as many records as are kept")
        if self._per_owner[record.public_key] >= MAX_PER_PROVIDER:
            raise Overloaded("this provider has as many records as are kept")
        if any(self._per_owner[group] >= MAX_STORE_PER_GROUP for group in ip_groups(record.addresses)):
            raise Overloaded("this network has as many records as are kept")
        if self._num >= MAX_TOTAL or self._size_bytes + size_bytes > MAX_TOTAL_BYTES:
            raise Overloaded("the store is full")

    def _hold(self, key: bytes, held: _Held) -> None:
        self._keys.setdefault(key, {})[held.record.place] = held
        self._count(held, 1)
        heapq.heappush(self._expiry, (held.expires_at, key, held.record.place))
        if len(self._expiry) > 2 * self._num + 64:
            # Replaced records leave their entries behind: a provider that announces without pause must not fill memory.
            self._expiry = [(h.expires_at, k, place) for k, places in self._keys.items() for place, h in places.items()]
            heapq.heapify(self._expiry)

    def _drop(self, key: bytes, place: Place) -> None:
        held = self._keys[key].pop(place)
        if not self._keys[key]:
            del self._keys[key]
        self._count(held, -1)

    def _count(self, held: _Held, sign: int) -> None:
        self._num += sign
        self._size_bytes += sign * len(held.data)
        owners: tuple[bytes | str, ...] = (held.record.public_key, *ip_groups(held.record.addresses))
        for owner in owners:
            self._per_owner[owner] += sign
            if not self._per_owner[owner]:
                del self._per_owner[owner]

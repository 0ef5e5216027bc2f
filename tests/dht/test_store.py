from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dsdnode.dht import store as store_module
from dsdnode.dht.ids import MODELS_KEY, model_key, tokenizer_key
from dsdnode.dht.store import MAX_PER_PROVIDER, Store, record_keys
from dsdnode.errors import Overloaded, PeerMisbehaved
from dsdnode.wire.records import MAX_TTL_S, ProviderRecord

MODEL, TOKENIZER = "ab" * 32, "cd" * 32


def offer(
    who: int = 1, start: int = 0, sequence: int = 1, ttl_s: float = 600.0, ip: str = "127.0.0.1"
) -> ProviderRecord:
    return ProviderRecord(
        public_key=bytes([who]) * 32,
        addresses=(f"tcp://{ip}:{1000 + who}",),
        role="shard",
        model_id=MODEL,
        model_name="demo",
        start=start,
        end=start + 1,
        num_layers=100,
        tokenizer_hash=TOKENIZER,
        vocab_size=8,
        width=8,
        context_tokens=8,
        free_sessions=1,
        sequence=sequence,
        ttl_s=ttl_s,
    )


def put(store: Store, record: ProviderRecord, now: float = 0.0, key: bytes = MODELS_KEY) -> bool:
    data = repr(record).encode()
    return store.put(key, record, data, now) == data


def held(store: Store, now: float, key: bytes = MODELS_KEY) -> list[ProviderRecord]:
    return [record for record, _ in store.get(key, now)]


def test_alices_offer_is_held_under_her_keys_for_its_time() -> None:
    store, record = Store(), offer(ttl_s=60.0)
    assert record_keys(record) == (model_key(MODEL), tokenizer_key(TOKENIZER), MODELS_KEY)
    for key in record_keys(record):
        put(store, record, 10.0, key)
        assert held(store, 69.9, key) == [record]
    assert held(store, 70.0) == []
    store.expire(70.0)
    assert len(store) == 0


def test_another_key_is_refused() -> None:
    with pytest.raises(PeerMisbehaved):
        put(Store(), offer(), key=model_key("ef" * 32))
    with pytest.raises(PeerMisbehaved):
        Store().put(MODELS_KEY, offer(), bytes(9000), 0.0)


def test_an_old_record_does_not_come_back() -> None:
    store = Store()
    put(store, offer(sequence=5, ttl_s=600.0))
    assert not put(store, offer(sequence=4))
    put(store, offer(sequence=5), 100.0)  # a replay does not prolong its life either
    assert held(store, 599.0) == [offer(sequence=5)]
    assert held(store, 600.0) == []
    put(store, offer(sequence=6))
    assert held(store, 1.0) == [offer(sequence=6)]


def test_an_offer_taken_back_leaves_a_tombstone() -> None:
    store = Store()
    put(store, offer(sequence=1))
    put(store, offer(sequence=2, ttl_s=0.0), 10.0)
    assert not put(store, offer(sequence=1), 20.0)
    assert held(store, 20.0) == [offer(sequence=2, ttl_s=0.0)]
    assert held(store, 10.0 + MAX_TTL_S) == []


def test_taking_back_what_was_never_offered_takes_no_place() -> None:
    store = Store()
    put(store, offer(ttl_s=0.0))
    assert len(store) == 0


def test_one_provider_cannot_fill_the_store() -> None:
    store = Store()
    for start in range(MAX_PER_PROVIDER):
        put(store, offer(start=start))
    with pytest.raises(Overloaded, match="provider"):
        put(store, offer(start=99))
    put(store, offer(start=0, sequence=2))
    put(store, offer(who=2))


def test_one_network_cannot_fill_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_STORE_PER_GROUP", 3)
    store = Store()
    for who in range(3):
        put(store, offer(who, ip=f"8.8.8.{who + 1}"))
    with pytest.raises(Overloaded, match="network"):
        put(store, offer(9, ip="8.8.8.9"))
    put(store, offer(10, ip="9.9.9.9"))
    for who in range(11, 20):
        put(store, offer(who))


@pytest.mark.parametrize(("cap", "value"), [("MAX_PER_KEY", 3), ("MAX_TOTAL", 3), ("MAX_TOTAL_BYTES", 1500)])
def test_a_full_store_refuses_and_keeps(monkeypatch: pytest.MonkeyPatch, cap: str, value: int) -> None:
    monkeypatch.setattr(store_module, cap, value)
    store = Store()
    with pytest.raises(Overloaded):
        for who in range(10):
            put(store, offer(who))
    kept = held(store, 0.0)
    assert [record.public_key[0] for record in kept] == list(range(len(kept)))
    assert 2 <= len(kept) <= 3
    assert put(store, offer(0, sequence=2)), "who is in may renew"
    assert put(store, offer(9), 600.0), "until the others expired"


def test_announcing_without_pause_takes_no_memory() -> None:
    store = Store()
    for sequence in range(5000):
        put(store, offer(sequence=sequence))
    assert len(store._expiry) < 200


OFFERS = st.builds(
    offer,
    who=st.integers(0, 4),
    start=st.integers(0, 2),
    sequence=st.integers(0, 5),
    ttl_s=st.sampled_from([0.0, 60.0, 600.0]),
    ip=st.sampled_from(["127.0.0.1", "8.8.8.8"]),
)


class StoreMachine(RuleBasedStateMachine):
    """Against a model of a few lines: the newest of each place, until its time is up."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.now = 0.0
        self.model: dict[Any, tuple[ProviderRecord, float]] = {}

    @rule(record=OFFERS, key=st.sampled_from([MODELS_KEY, model_key(MODEL)]))
    def announced(self, record: ProviderRecord, key: bytes) -> None:
        put(self.store, record, self.now, key)
        old, expires_at = self.model.get((key, record.place), (None, 0.0))
        if old is not None and expires_at > self.now:
            if old.sequence >= record.sequence:
                return
        elif record.withdrawn:
            return
        self.model[key, record.place] = record, self.now + (record.ttl_s or MAX_TTL_S)

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def holds_what_it_should(self) -> None:
        for wanted in (MODELS_KEY, model_key(MODEL)):
            alive = {
                place: record
                for (key, place), (record, expires_at) in self.model.items()
                if key == wanted and expires_at > self.now
            }
            assert held(self.store, self.now, wanted) == [alive[place] for place in sorted(alive)]

    @invariant()
    def counts_what_it_holds(self) -> None:
        self.store.expire(self.now)
        records = [pair for key in (MODELS_KEY, model_key(MODEL)) for pair in self.store.get(key, self.now)]
        assert len(self.store) == len(records)
        assert self.store._size_bytes == sum(len(data) for _, data in records)
        assert sum(self.store._per_owner[bytes([who]) * 32] for who in range(5)) == len(records)


TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)

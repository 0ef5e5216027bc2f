from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dsdnode.dht import store as store_module
from dsdnode.dht.ids import MODELS_KEY, model_key, tokenizer_key
from dsdnode.dht.store import MAX_KEYS_PER_PROVIDER, MAX_PER_KEY, RECORD_PIECE_BYTES, Store, record_keys
from dsdnode.errors import Overloaded, PeerMisbehaved
from dsdnode.wire.records import MAX_TTL_S, ProviderRecord

MODEL, TOKENIZER = "ab" * 32, "cd" * 32
HOME, CAFE = "192.0.2.7", "198.51.100.3"
replace = msgspec.structs.replace


def offer(
    who: int = 1, start: int = 0, sequence: int = 1, ttl_s: float = 600.0, weights_hash: str = MODEL, **more: Any
) -> ProviderRecord:
    record = ProviderRecord(
        public_key=who.to_bytes(32, "big"),
        addresses=(f"tcp://127.0.0.1:{1000 + who}",),
        role="shard",
        weights_hash=weights_hash,
        architecture="llama",
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
    return replace(record, **more)


def put(store: Store, *records: ProviderRecord, now: float = 0.0, key: bytes = MODELS_KEY, source: str = HOME) -> bool:
    """Is it held now?"""
    data = [repr(record).encode()[:500] + bytes([0, record.sequence % 256]) for record in records]
    return store.put(key, list(zip(records, data, strict=True)), now, source) == data


def held(store: Store, now: float = 0.0, key: bytes = MODELS_KEY) -> list[ProviderRecord]:
    return [record for record, _ in store.get(key, now)]


def people(store: Store, key: bytes = MODELS_KEY) -> list[int]:
    return [int.from_bytes(record.public_key, "big") for record in held(store, key=key)]


def test_alices_offer_is_held_under_her_keys_for_its_time() -> None:
    store, record = Store(), offer(ttl_s=60.0)
    assert record_keys(record) == (model_key(record.model_id), tokenizer_key(TOKENIZER), MODELS_KEY)
    for key in record_keys(record):
        put(store, record, now=10.0, key=key)
        assert held(store, 69.9, key) == [record]
    assert held(store, 70.0) == []
    store.expire(70.0)
    assert len(store) == 0


def test_another_key_is_refused() -> None:
    with pytest.raises(PeerMisbehaved):
        put(Store(), offer(), key=model_key("ef" * 32))
    with pytest.raises(PeerMisbehaved):
        put(Store(), offer(), key=model_key(MODEL))
    with pytest.raises(PeerMisbehaved):
        Store().put(MODELS_KEY, [(offer(), bytes(9000))], 0.0)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [offer(), offer(start=4)],
        [offer(), offer(2, role="drafter")],
        [offer(), offer(sequence=2, role="drafter")],
        [offer(), offer(role="drafter"), offer(role="drafter", start=3)],
    ],
)
def test_what_no_provider_would_announce_at_once_is_refused(records: list[ProviderRecord]) -> None:
    store = Store()
    with pytest.raises(PeerMisbehaved):
        put(store, *records)
    assert len(store) == 0


def test_an_old_record_does_not_come_back() -> None:
    store = Store()
    put(store, offer(sequence=5, ttl_s=600.0))
    assert not put(store, offer(sequence=4))
    put(store, offer(sequence=5), now=100.0)  # a replay does not prolong its life either
    assert held(store, 599.0) == [offer(sequence=5)]
    assert held(store, 600.0) == []
    put(store, offer(sequence=6))
    assert held(store, 1.0) == [offer(sequence=6)]


NEXT_LIVES = {
    "other layers": [offer(start=7, sequence=2)],
    "another model with the tokenizer": [offer(sequence=2, weights_hash="ef" * 32)],
    "another role": [offer(sequence=2, role="drafter", weights_hash="ef" * 32)],
    "another shape of the same file": [offer(sequence=2, width=16)],
    "one role less": [offer(start=3, sequence=2)],
    "one role more": [offer(sequence=2), offer(sequence=2, role="drafter", weights_hash="ef" * 32)],
}


@pytest.mark.parametrize("now", NEXT_LIVES.values(), ids=NEXT_LIVES)
@pytest.mark.parametrize("key", [MODELS_KEY, tokenizer_key(TOKENIZER)], ids=["models", "tokenizer"])
def test_what_alice_says_now_replaces_all_that_she_said(now: list[ProviderRecord], key: bytes) -> None:
    store = Store()
    put(store, offer(), offer(role="drafter", weights_hash="12" * 32), key=key)
    assert put(store, *now, key=key)
    assert held(store, key=key) == now
    assert not put(store, offer(sequence=1), key=key), "and what she said then does not come back"
    assert held(store, key=key) == now


def test_an_offer_taken_back_leaves_a_tombstone() -> None:
    store = Store()
    put(store, offer(sequence=1))
    put(store, offer(sequence=2, ttl_s=0.0), now=10.0)
    assert not put(store, offer(sequence=1), now=20.0)
    assert held(store, 20.0) == [offer(sequence=2, ttl_s=0.0)]
    assert held(store, 10.0 + MAX_TTL_S) == []


def test_taking_back_what_was_never_offered_takes_no_place() -> None:
    store = Store()
    put(store, offer(ttl_s=0.0))
    assert len(store) == 0


def test_one_provider_has_so_many_keys_and_no_more() -> None:
    store = Store()
    for number in range(MAX_KEYS_PER_PROVIDER):
        record = offer(weights_hash=f"{number:064x}")
        put(store, record, key=model_key(record.model_id))
    last = offer(weights_hash="ff" * 32)
    with pytest.raises(Overloaded, match="provider"):
        put(store, last, key=model_key(last.model_id))
    first = offer(weights_hash="0" * 64, sequence=2)
    assert put(store, first, key=model_key(first.model_id)), "what is there may be renewed"
    assert put(store, replace(last, public_key=bytes(32)), key=model_key(last.model_id))


# --- crowds: where a record came from is what was seen, whatever it says


def crowd(store: Store, num: int, first: int = 10_000, source: str = CAFE, **more: Any) -> None:
    for who in range(first, first + num):
        put(store, offer(who, **more), source=source)


def test_mallorys_thousand_keys_push_out_nobody_but_each_other() -> None:
    store = Store()
    for who, source in enumerate(("192.0.2.1", "203.0.113.9", "2001:db8::5", "10.1.2.3"), start=1):
        put(store, offer(who), source=source)
    crowd(store, 1000)
    put(store, offer(5), source="10.7.7.7")  # eve comes when all is full
    assert people(store)[:5] == [1, 2, 3, 4, 5]
    assert len(people(store)) == MAX_PER_KEY


def test_a_neighbour_in_mallorys_network_keeps_his_place_and_gets_one() -> None:
    store = Store()
    put(store, offer(1), source="198.51.100.77")
    crowd(store, 1000)
    put(store, offer(2), source="198.51.100.78")
    crowd(store, 100, first=50_000)
    assert people(store)[:2] == [1, 2]


def test_who_came_first_from_mallorys_own_machine_stays_and_a_newcomer_gets_in() -> None:
    store = Store()
    put(store, offer(1), source=CAFE)
    crowd(store, 1000)
    assert put(store, offer(2), source=CAFE)
    assert people(store)[:2] == [1, 2]
    assert put(store, offer(1, sequence=2), source=CAFE)
    crowd(store, 200, first=50_000)
    assert 1 in people(store)


def test_many_machines_of_one_network_have_what_one_network_has() -> None:
    store = Store()
    for who in range(2000):
        put(store, offer(10_000 + who), source=f"198.51.100.{who % 250}")
    for who in range(1, 300):
        put(store, offer(who), source=f"203.{who // 200}.{who % 200}.1")
    assert people(store)[:299] == list(range(1, 300))
    assert len(people(store)) == MAX_PER_KEY


def test_what_a_record_says_of_its_address_counts_for_nothing() -> None:
    store = Store()
    put(store, offer(1, addresses=("tcp://8.8.8.8:1",)), source=HOME)
    for who in range(1000):  # each claims to live in another network of the world
        address = (f"tcp://{8 + who // 250}.{who % 250}.8.8:1",)
        put(store, offer(10_000 + who, addresses=address), source=CAFE)
    assert people(store)[0] == 1


def test_when_nobody_else_asks_one_network_may_have_it_all() -> None:
    store = Store()
    crowd(store, MAX_PER_KEY, source="127.0.0.1")
    assert len(people(store)) == MAX_PER_KEY


def test_large_records_count_as_many() -> None:
    store = Store()
    put(store, offer(1))
    for who in range(300):
        record = offer(10_000 + who)
        store.put(MODELS_KEY, [(record, bytes(8 * RECORD_PIECE_BYTES))], 0.0, CAFE)
    assert people(store)[0] == 1
    assert sum(len(data) for _, data in store.get(MODELS_KEY, 0.0)) <= MAX_PER_KEY * RECORD_PIECE_BYTES


def test_a_full_store_is_shared_by_all_networks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_TOTAL", 64)
    store = Store()
    mine = offer(1)
    put(store, mine, key=model_key(mine.model_id))
    for who in range(500):
        record = offer(10_000 + who, weights_hash=f"{who:064x}")
        put(store, record, key=model_key(record.model_id), source=CAFE)
        assert len(store) <= 64
    assert held(store, key=model_key(mine.model_id)) == [mine]
    late = offer(2, weights_hash="fe" * 32)
    put(store, late, key=model_key(late.model_id))
    assert held(store, key=model_key(late.model_id)) == [late]


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
    role=st.sampled_from(["shard", "drafter"]),
)


class StoreMachine(RuleBasedStateMachine):
    """Against a model of a few lines: what each said last, until its time is up."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.now = 0.0
        self.model: dict[Any, tuple[ProviderRecord, float]] = {}

    @rule(record=OFFERS, key=st.sampled_from([MODELS_KEY, tokenizer_key(TOKENIZER)]))
    def announced(self, record: ProviderRecord, key: bytes) -> None:
        put(self.store, record, now=self.now, key=key)
        old, expires_at = self.model.get((key, record.public_key), (None, 0.0))
        if old is not None and expires_at > self.now:
            if old.sequence >= record.sequence:
                return
        elif record.withdrawn:
            return
        self.model[key, record.public_key] = record, self.now + (record.ttl_s or MAX_TTL_S)

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def holds_what_it_should(self) -> None:
        for wanted in (MODELS_KEY, tokenizer_key(TOKENIZER)):
            alive = {
                who: record
                for (key, who), (record, expires_at) in self.model.items()
                if key == wanted and expires_at > self.now
            }
            assert held(self.store, self.now, wanted) == [alive[who] for who in sorted(alive)]

    @invariant()
    def counts_what_it_holds(self) -> None:
        self.store.expire(self.now)
        records = [pair for key in (MODELS_KEY, tokenizer_key(TOKENIZER)) for pair in self.store.get(key, self.now)]
        assert len(self.store) == self.store._num_pieces == len(records)
        assert self.store._num_keys == Counter(record.public_key for record, _ in records)


TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dsdnode.dht.ids import MAX_PER_GROUP, K, bucket_index, distance, ip_groups, node_id
from dsdnode.dht.table import (
    CHECK_AFTER_S,
    FAILURE_SPACING_S,
    FORGET_AFTER_S,
    MAX_DUE,
    MAX_TABLE_PER_GROUP,
    REFRESH_AFTER_S,
    Table,
)
from dsdnode.wire.messages import Contact

OWN_ID = bytes(32)
BOB, CAROL, DAVE = (Contact(bytes([i]) * 32, (f"tcp://127.0.0.1:{i}",)) for i in (1, 2, 3))


def crowd(num: int, address: str = "tcp://127.0.0.1:{port}") -> list[Contact]:
    """Peers that all belong into the farthest bucket."""
    keys = (i.to_bytes(32, "big") for i in range(100_000))
    far = (key for key in keys if bucket_index(OWN_ID, node_id(Contact(key))) == 255)
    return [Contact(next(far), (address.format(port=port + 1),)) for port in range(num)]


def fail(table: Table, contact: Contact, now: float, times: int = 3) -> float:
    for _ in range(times):
        table.failed(node_id(contact), now)
        now += FAILURE_SPACING_S
    return now


def test_only_who_answered_is_told_to_others() -> None:
    table = Table(OWN_ID)
    assert table.seen(BOB, 0.0)
    assert not table.seen(BOB, 1.0), "nothing new"
    table.seen(CAROL, 0.0)
    table.failed(node_id(BOB), 2.0)
    assert table.closest(OWN_ID) == [CAROL]
    assert table.shunned(2.0) == [node_id(BOB)]
    assert len(table) == 1
    assert table.seen(BOB, 3.0), "alive again"
    assert set(table.closest(OWN_ID)) == {BOB, CAROL}


def test_who_leaves_is_told_to_nobody_and_makes_room() -> None:
    """Bob lives, but cannot be called any more; the newest spare must answer before it counts."""
    table = Table(OWN_ID)
    people = crowd(K + 1)
    for one in people:
        table.seen(one, 0.0)
    gone, spare = people[0], people[-1]
    table.leave(node_id(gone), 1.0)
    table.leave(node_id(gone), 1.0)
    assert gone not in table.known() and spare in table.known() and spare not in table.contacts()
    assert table.due(1.0) == [spare]
    table.seen(spare, 2.0)
    assert len(table) == K
    table.leave(node_id(spare), 3.0)
    assert table.seen(gone, 4.0), "it is called again"


def test_clients_and_ourselves_have_no_place() -> None:
    table = Table(node_id(BOB))
    assert not table.seen(BOB, 0.0)
    assert not table.seen(Contact(CAROL.public_key), 0.0)
    assert not table.seen(Contact(CAROL.public_key, ("carrier pigeon",)), 0.0)
    assert table.known() == []


def test_a_newcomer_never_drives_out_the_living() -> None:
    table, (*old, newcomer) = Table(OWN_ID), crowd(K + 1)
    for contact in old:
        table.seen(contact, 0.0)
    table.failed(node_id(old[0]), 10.0)
    assert not table.seen(newcomer, 3000.0)
    assert table.get(node_id(newcomer)) is None
    assert set(table.known()) == set(old)


def test_a_spare_takes_the_place_of_the_dead_and_must_answer_first() -> None:
    table, (*old, carol, dave) = Table(OWN_ID), crowd(K + 2)
    for contact in [*old, carol, dave]:
        table.seen(contact, 0.0)
    now = fail(table, old[0], 10.0)
    assert table.get(node_id(old[0])) is None
    assert table.get(node_id(dave)) == dave, "the newest spare"
    assert dave not in table.closest(OWN_ID, 100)
    assert dave in table.due(now), "asked at once"
    table.seen(dave, now)
    assert dave in table.closest(OWN_ID, 100)


def test_failures_in_flight_together_count_once() -> None:
    table, contacts = Table(OWN_ID), crowd(K + 1)
    for contact in contacts:
        table.seen(contact, 0.0)
    for _ in range(10):
        table.failed(node_id(contacts[0]), 5.0)
    assert table.get(node_id(contacts[0])) == contacts[0]


def test_one_network_gets_two_places_a_bucket_and_ten_in_all() -> None:
    table = Table(OWN_ID)
    sybils = [Contact(i.to_bytes(32, "big"), (f"tcp://8.8.8.{i % 250}:1",)) for i in range(1, 3000)]
    for sybil in sybils:
        table.seen(sybil, 0.0)
    assert len(table) == MAX_TABLE_PER_GROUP
    buckets = Counter(bucket_index(OWN_ID, node_id(contact)) for contact in table.contacts())
    assert max(buckets.values()) == MAX_PER_GROUP


@pytest.mark.parametrize("address", ["tcp://name{port}.example{port}.org:5000", "tcp://127.0.0.1:{port}"])
def test_whatever_they_call_themselves_they_count_where_they_were_seen(address: str) -> None:
    """Mallory has a name of its own for each of her hundred peers, or a tunnel; all answer from one network."""
    table = Table(OWN_ID)
    sybils = crowd(100, address)
    for sybil in sybils:
        table.seen(sybil, 0.0, ("8.8.8.0/24",))
    assert len(table) == MAX_PER_GROUP
    assert table.seen(Contact(BOB.public_key, ("tcp://bob.example:5000",)), 0.0, ("9.9.9.0/24",))


def test_a_peer_that_moves_faces_the_caps_again() -> None:
    table = Table(OWN_ID)
    bob, carol, dave = crowd(3, "tcp://8.8.8.8:{port}")
    dave = Contact(dave.public_key, ("tcp://9.9.9.9:1",))
    for contact in (bob, carol, dave):
        assert table.seen(contact, 0.0)
    assert not table.seen(Contact(dave.public_key, ("tcp://8.8.8.8:3",)), 1.0)
    assert table.get(node_id(dave)) is None
    moved = Contact(bob.public_key, ("tcp://9.9.9.9:2",))
    table.seen(moved, 1.0)
    assert table.get(node_id(bob)) == moved
    assert table.seen(Contact(dave.public_key, ("tcp://8.8.8.8:3",)), 2.0), "bob made room"


def test_the_dead_make_room_for_others_of_their_network() -> None:
    table = Table(OWN_ID)
    bob, carol, dave = crowd(3, "tcp://8.8.8.8:{port}")
    table.seen(bob, 0.0)
    table.seen(carol, 0.0)
    assert not table.seen(dave, 0.0)
    now = fail(table, bob, 1.0)
    table.seen(dave, now)
    assert table.is_live(node_id(dave))


def test_the_silent_are_pinged_a_few_at_a_time() -> None:
    table, contacts = Table(OWN_ID), crowd(K)
    for contact in contacts:
        table.seen(contact, 0.0)
    assert table.due(CHECK_AFTER_S - 1) == []
    first, second = table.due(CHECK_AFTER_S), table.due(CHECK_AFTER_S)
    assert len(first) == MAX_DUE
    assert set(first) | set(second) == set(contacts)
    assert table.due(CHECK_AFTER_S) == []


def test_the_long_dead_are_forgotten_unless_it_is_we_who_are_cut_off() -> None:
    table = Table(OWN_ID)
    table.seen(BOB, 0.0)
    table.seen(CAROL, 0.0)
    fail(table, BOB, 10.0)
    fail(table, CAROL, 10.0)
    assert table.due(FORGET_AFTER_S + 1) != []
    assert set(table.known()) == {BOB, CAROL}
    table.seen(CAROL, FORGET_AFTER_S + 2)
    table.due(FORGET_AFTER_S + CHECK_AFTER_S + 2)
    assert table.known() == [CAROL]


def test_quiet_buckets_are_refreshed_and_then_left_alone() -> None:
    table, rng = Table(OWN_ID), random.Random(0)
    assert table.refresh_targets(0.0, rng) == []
    table.seen(BOB, 0.0)
    lowest = bucket_index(OWN_ID, node_id(BOB))
    targets = table.refresh_targets(0.0, rng)
    assert [bucket_index(OWN_ID, target) for target in targets] == list(range(lowest, 256))
    assert table.refresh_targets(REFRESH_AFTER_S - 1, rng) == []
    assert len(table.refresh_targets(REFRESH_AFTER_S, rng)) == len(targets)


PEOPLE = st.builds(
    lambda key, net, port: Contact(key.to_bytes(32, "big"), (f"tcp://{net}:{port}",)),
    st.integers(0, 200),
    st.sampled_from(["127.0.0.1", "8.8.8.1", "8.8.8.2", "9.9.9.9", "10.0.0.1"]),
    st.integers(1, 3),
)


class TableMachine(RuleBasedStateMachine):
    """Whatever happens: caps hold, nobody live leaves but by its own failures or move, the closest are the closest."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(OWN_ID)
        self.now = 0.0
        self.live: dict[bytes, Contact] = {}

    @rule(contact=PEOPLE)
    def somebody_answers(self, contact: Contact) -> None:
        peer = node_id(contact)
        moved = self.live.get(peer, contact) != contact
        fresh = self.table.seen(contact, self.now)
        assert fresh == (self.table.is_live(peer) and peer not in self.live)
        assert peer not in self.live or moved or self.table.is_live(peer)
        self.live.pop(peer, None)
        if self.table.is_live(peer):
            self.live[peer] = contact

    @rule(contact=PEOPLE)
    def somebody_fails(self, contact: Contact) -> None:
        self.table.failed(node_id(contact), self.now)
        if not self.table.is_live(node_id(contact)):
            self.live.pop(node_id(contact), None)

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        assert len(self.table.due(self.now)) <= MAX_DUE

    @invariant()
    def the_living_stay(self) -> None:
        assert {node_id(contact): contact for contact in self.table.contacts()} == self.live
        assert len(self.table) == len(self.live)

    @invariant()
    def caps_hold(self) -> None:
        in_buckets: Counter[tuple[int, str]] = Counter()
        in_table: Counter[str] = Counter()
        sizes: Counter[int] = Counter()
        for contact in self.table.known():
            index = bucket_index(OWN_ID, node_id(contact))
            sizes[index] += 1
            for group in ip_groups(contact.addresses):
                in_buckets[index, group] += 1
                in_table[group] += 1
        assert max(sizes.values(), default=0) <= K
        assert max(in_buckets.values(), default=0) <= MAX_PER_GROUP
        assert max(in_table.values(), default=0) <= MAX_TABLE_PER_GROUP

    @invariant()
    def the_closest_are_the_closest(self) -> None:
        target = b"\x5a" * 32
        closest = [distance(target, node_id(contact)) for contact in self.table.closest(target, 5)]
        assert closest == sorted(distance(target, peer) for peer in self.live)[:5]


TestTableMachine = pytest.mark.slow(TableMachine.TestCase)
TestTableMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.dht.ids import MAX_PER_GROUP, K, distance, ip_groups, node_id
from dsdnode.dht.lookup import (
    LEAST_PATIENCE_S,
    MANY,
    MAX_ASKED,
    MAX_PARALLELISM,
    MAX_PROVIDERS,
    PARALLELISM,
    PATIENCE_S,
    QUORUM,
    Lookup,
)
from dsdnode.dht.table import Table
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import MAX_RECORDS, ProviderRecord

TARGET = bytes(32)
OWN_ID = b"\xff" * 32


def peers(num: int, address: Callable[[int], str] = lambda i: f"127.0.0.1:{i + 1}") -> list[Contact]:
    """Closest to the target first."""
    made = [Contact(hashlib.sha256(bytes([i % 256, i // 256])).digest(), (f"tcp://{address(i)}",)) for i in range(num)]
    return sorted(made, key=lambda contact: distance(TARGET, node_id(contact)))


def start(seeds: list[Contact], deadline: float = 100.0, *, hurried: bool = False) -> Lookup:
    return Lookup(TARGET, seeds, [OWN_ID], deadline, hurried=hurried)


def ask(lookup: Lookup, now: float = 0.0) -> list[Contact]:
    asked = []
    while (contact := lookup.next(now)) is not None:
        asked.append(contact)
    return asked


def record(who: Contact, sequence: int) -> ProviderRecord:
    return ProviderRecord(
        who.public_key,
        who.addresses,
        "shard",
        "ab" * 32,
        "fake",
        "demo",
        0,
        4,
        8,
        "cd" * 32,
        8,
        8,
        8,
        1,
        sequence=sequence,
    )


def test_asks_the_closest_first_three_at_a_time() -> None:
    known = peers(10)
    lookup = start(known[::-1])
    assert ask(lookup) == known[:PARALLELISM]
    lookup.on_reply(node_id(known[1]), [])
    assert ask(lookup) == [known[3]]


def test_what_a_reply_names_closer_is_asked_next() -> None:
    known = peers(10)
    lookup = start(known[5:8])
    ask(lookup)
    lookup.on_reply(node_id(known[5]), [known[9], known[0]])
    assert ask(lookup) == [known[0]]


def test_a_silent_peer_raises_the_parallelism_and_may_still_answer() -> None:
    known = peers(30)
    lookup = start(known)
    ask(lookup)
    assert lookup.wakes_at() == PATIENCE_S
    assert ask(lookup, PATIENCE_S / 2) == []
    assert ask(lookup, PATIENCE_S) == known[3 : 3 + MAX_PARALLELISM]
    lookup.on_reply(node_id(known[0]), [])
    assert lookup.closest == [known[0]]


def test_in_a_hurry_a_peer_has_no_longer_than_is_usual_here() -> None:
    """Those that answered took 30 ms each, one of them a second."""
    known = peers(30)
    lookup = start(known, hurried=True)
    ask(lookup)
    assert lookup.wakes_at() == PATIENCE_S, "nobody has answered yet"
    for contact, took_s in zip(known, (0.03, 1.0), strict=False):
        lookup.on_reply(node_id(contact), [], took_s=took_s)
    ask(lookup, 0.05)
    assert lookup.wakes_at() == pytest.approx(MANY * 0.03)
    assert ask(lookup, MANY * 0.03 + 0.001) == known[5 : 5 + MAX_PARALLELISM - 2]
    lookup.on_reply(node_id(known[5]), [], took_s=0.0001)
    lookup.on_reply(node_id(known[6]), [], took_s=0.0001)
    assert lookup._patience_s == LEAST_PATIENCE_S


def test_over_when_the_k_closest_replied_though_a_slow_one_did_not() -> None:
    known = peers(40)
    lookup = start(known)
    now = 0.0
    while not lookup.done(now):
        for contact in ask(lookup, now):
            if contact != known[3]:
                lookup.on_reply(node_id(contact), [])
        now += 0.1
    assert lookup.closest == known[:3] + known[4 : K + 1]
    assert now < PATIENCE_S + 0.5


def test_a_small_swarm_waits_for_its_slow_ones_unless_somebody_cannot_wait() -> None:
    bob, carol = peers(2)
    lookup = start([bob, carol])
    ask(lookup)
    lookup.on_reply(node_id(bob), [], [record(bob, 1)])
    assert not lookup.settled(PATIENCE_S / 2)
    assert lookup.settled(PATIENCE_S)
    assert not lookup.done(PATIENCE_S)
    lookup.on_failure(node_id(carol))
    assert lookup.done(PATIENCE_S)


def test_records_of_five_are_enough_where_some_are_gone() -> None:
    known = peers(30)
    lookup = start(known)
    for _ in range(QUORUM):
        contact = ask(lookup)[0]
        lookup.on_reply(node_id(contact), [], [record(contact, 1)])
    assert not lookup.settled(0.0), "everybody answers: hear them all"
    lookup.on_failure(node_id(known[1]))
    assert lookup.settled(0.0)
    assert not lookup.done(0.0)


def test_over_at_once_with_nobody_to_ask_and_over_when_time_is_up() -> None:
    assert start([]).done(0.0)
    assert start([Contact(bytes(32))]).done(0.0), "who cannot be dialled is nobody"
    lookup = start(peers(3), deadline=5.0)
    ask(lookup)
    assert not lookup.done(4.9)
    assert lookup.done(5.0)
    assert ask(lookup, 5.0) == []


def test_neither_ourselves_nor_those_that_just_failed() -> None:
    bob, carol, dave = peers(3)
    lookup = Lookup(TARGET, [bob, carol], [node_id(bob)], 100.0)
    assert ask(lookup) == [carol]
    lookup.on_reply(node_id(carol), [bob, dave])
    assert ask(lookup) == [dave]


def test_a_lie_about_an_address_is_corrected_once() -> None:
    bob, carol, dave = peers(3)
    lie = Contact(bob.public_key, ("tcp://127.0.0.9:9",))
    lookup = start([lie, carol, dave])
    ask(lookup)
    lookup.on_failure(node_id(bob))
    lookup.on_reply(node_id(carol), [lie])
    assert ask(lookup) == []
    lookup.on_reply(node_id(dave), [bob])
    assert ask(lookup) == [bob]
    lookup.on_failure(node_id(bob))
    assert lookup.done(0.0)


def test_unasked_replies_change_nothing() -> None:
    bob, carol, dave = peers(3)
    lookup = start([bob])
    lookup.on_reply(node_id(bob), [dave])
    lookup.on_failure(node_id(bob))
    assert ask(lookup) == [bob]
    lookup.on_reply(node_id(carol), [dave])
    lookup.on_reply(node_id(bob), [carol])
    lookup.on_reply(node_id(bob), [dave])
    assert ask(lookup) == [carol]


def test_the_newest_record_of_each_place() -> None:
    bob, carol, dave = peers(3)
    lookup = start([bob, carol, dave])
    ask(lookup)
    lookup.on_reply(node_id(bob), [], [record(bob, 2), record(carol, 1)])
    lookup.on_reply(node_id(carol), [], [record(bob, 1), record(carol, 5)])
    assert sorted(found.sequence for found in lookup.records) == [2, 5]


@pytest.mark.parametrize("honest_comes", ["last", "first"])
def test_liars_cannot_fill_a_lookup(honest_comes: str) -> None:
    """Each tells of as many peers as an answer has room for, and last of dave, so that he goes where one goes."""
    bob, dave, *liars = peers(7)
    lookup = start([bob, *liars])
    ghosts = iter(ghost for ghost in peers(6 * MAX_RECORDS) if ghost not in (bob, dave, *liars))
    known = [record(dave, 1)]
    answers = {node_id(liar): [*(record(next(ghosts), 1) for _ in range(MAX_RECORDS - 1)), *known] for liar in liars}
    honest = {node_id(bob): [record(bob, 1), *known]}
    answers = honest | answers if honest_comes == "first" else answers | honest
    while ask(lookup):
        pass
    for peer, records in answers.items():
        lookup.on_reply(peer, [], records)
        ask(lookup)
    found = {one.public_key for one in lookup.records}
    assert {bob.public_key, dave.public_key} <= found
    assert len(found) == MAX_PROVIDERS


def test_mined_sybils_of_two_networks_take_four_places() -> None:
    crowd = peers(200, lambda i: f"{11 + i}.0.0.1:1")
    sybils = [Contact(contact.public_key, (f"tcp://8.8.{i % 2}.{i + 1}:1",)) for i, contact in enumerate(crowd[:20])]
    honest = crowd[20:]
    lookup = start([*sybils, *honest])
    while not lookup.done(0.0):
        for contact in ask(lookup):
            lookup.on_reply(node_id(contact), sybils)
    assert lookup.closest == [*sybils[:4], *honest[: K - 4]]


def test_sybils_of_many_names_count_where_they_were_seen() -> None:
    crowd = peers(60, lambda i: f"{11 + i}.0.0.1:1")
    sybils = [Contact(one.public_key, (f"tcp://n{i}.example{i}.org:1",)) for i, one in enumerate(crowd[:20])]
    honest = crowd[20:]
    lookup = start([*sybils, *honest])
    while not lookup.done(0.0):
        for contact in ask(lookup):
            lookup.on_reply(node_id(contact), sybils, networks=("8.8.8.0/24",) if contact in sybils else ())
    assert lookup.closest == [*sybils[:2], *honest[: K - 2]]


def test_a_swarm_of_liars_ends_bounded() -> None:
    lookup = start(peers(3))
    num_asked, invented = 0, 0
    while not lookup.done(0.0):
        for contact in ask(lookup):
            num_asked += 1
            invented += 40
            # Every reply names forty more who are closer still.
            lies = [Contact(i.to_bytes(32, "big"), ("tcp://127.0.0.1:1",)) for i in range(invented, invented + 40)]
            lookup.on_reply(node_id(contact), lies) if num_asked % 2 else lookup.on_failure(node_id(contact))
    assert num_asked <= MAX_ASKED


def test_a_way_that_leads_on_and_on_ends_too() -> None:
    """Mallory has mined ids, each closer than the ones before: every peer names her next three."""
    way = peers(600)[::-1]
    lookup, at, num_asked = start(way[:3]), 3, 0
    while not lookup.done(0.0):
        for contact in ask(lookup):
            num_asked += 1
            lookup.on_reply(node_id(contact), way[at : at + 3])
            at += 3
    assert num_asked == MAX_ASKED


def closest_with_caps(living: list[Contact]) -> list[Contact]:
    groups: Counter[str] = Counter()
    chosen = []
    for contact in living:
        if all(groups[group] < MAX_PER_GROUP for group in ip_groups(contact.addresses)):
            groups.update(ip_groups(contact.addresses))
            chosen.append(contact)
    return chosen[:K]


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.integers(2, 60), st.sampled_from([0, 12, 40]), st.booleans(), st.integers(0, 2**32))
def test_whatever_the_order_of_events_the_closest_living_are_found(
    num: int, num_networks: int, patient: bool, seed: int
) -> None:
    """Everybody knows everybody, some are dead, answers come in any order, late ones too."""
    rng = random.Random(seed)
    known = peers(num, lambda i: f"{11 + i % num_networks}.0.0.1:1" if num_networks else f"127.0.0.1:{i + 1}")
    living = [contact for contact in known if rng.random() < 0.7]
    lookup, now = start(rng.sample(known, min(num, 5))), 0.0
    pending: list[Contact] = []
    asked: list[Contact] = []
    while not lookup.done(now):
        asked += (new := ask(lookup, now))
        pending += new
        if not patient and (not pending or rng.random() < 0.3):
            now += 0.2
            continue
        contact = pending.pop(rng.randrange(len(pending)))
        if contact in living:
            lookup.on_reply(node_id(contact), rng.sample(known, num))
        else:
            lookup.on_failure(node_id(contact))
    assert len(asked) == len(set(asked)), "each is asked once"
    assert set(lookup.closest) <= set(living)
    assert lookup.closest == closest_with_caps(lookup.closest)
    if patient and lookup.closest:
        assert lookup.closest == closest_with_caps(living)


# --- five hundred nodes, half of them killed at once: pure machines under a clock of their own ---------------------

ROUND_TRIP_S = 0.1
TIMEOUT_S = 3.0


class World:
    def __init__(self, num: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.contacts = {node_id(contact): contact for contact in peers(num)}
        self.tables = {peer: Table(peer) for peer in self.contacts}
        everybody = list(self.contacts.values())
        for table in self.tables.values():
            for contact in self.rng.sample(everybody, min(num, 150)):
                table.seen(contact, 0.0)
        self.dead: set[bytes] = set()

    def holders(self, key: bytes) -> set[bytes]:
        return set(heapq.nsmallest(K, self.contacts, key=lambda peer: distance(key, peer)))

    def find(self, key: bytes, own_id: bytes, holders: set[bytes]) -> float | None:
        """Seconds until a holder of the key replied; None: not found."""
        lookup, now, found_at = Lookup(key, self.tables[own_id].closest(key), [own_id], 20.0), 0.0, None
        events: list[tuple[float, bytes]] = []
        while not lookup.done(now):
            while (contact := lookup.next(now)) is not None:
                peer = node_id(contact)
                delay_s = TIMEOUT_S if peer in self.dead else ROUND_TRIP_S * self.rng.uniform(0.5, 1.5)
                heapq.heappush(events, (now + delay_s, peer))
            if events and events[0][0] <= lookup.wakes_at():
                now, peer = heapq.heappop(events)
                if peer in self.dead:
                    lookup.on_failure(peer)
                    continue
                if peer in holders and found_at is None:
                    found_at = now
                lookup.on_reply(peer, self.tables[peer].closest(key))
            else:
                now = lookup.wakes_at()
        return found_at


@pytest.mark.slow
def test_half_of_five_hundred_killed_at_once_and_lookups_find() -> None:
    world = World(500, seed=1)
    world.dead = set(world.rng.sample(sorted(world.contacts), 250))
    living = [peer for peer in sorted(world.contacts) if peer not in world.dead]
    times: list[float | None] = []
    for number in range(100):
        key = hashlib.sha256(number.to_bytes(4, "big")).digest()
        times.append(world.find(key, world.rng.choice(living), world.holders(key)))
    found = sorted(time for time in times if time is not None)
    assert len(found) == len(times)
    assert found[int(0.99 * len(found))] <= 2.0

"""Whom a relay serves, how much, and until when: its decisions alone, in told time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from dsdnode.errors import Overloaded
from dsdnode.identity import Identity
from dsdnode.net.relay import frames
from dsdnode.net.relay.agent import MAX_FRAMES, Patience
from dsdnode.net.relay.book import Book, Circuit, Limits, Reservation, limits_for
from tests.net.relay.ends import BOB, CAROL, MALLORY, ROSE

HER, HIS = "198.51.100.1", "203.0.113.9"


def book_of(**limits: Any) -> Book:
    """Where nothing else is said one network may call as often as all together."""
    return Book(Limits(**{"network_burst": 1e9, **limits}), Random(1), 0.0)


def somebody(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def reserved(book: Book, identity: Identity = BOB, now: float = 0.0, host: str = HIS) -> Reservation:
    return book.reserve(now, identity.public_key, host)[0]


def dialled(book: Book, now: float = 0.0, host: str = HER, callee: Identity = BOB) -> Circuit:
    return book.dial(now, host, book._reserved[callee.peer_id])[0]


def accepted(book: Book, circuit: Circuit, now: float = 0.0, by: Identity = BOB) -> bool:
    signature = by.sign(frames.to_accept(ROSE.public_key, circuit.token))
    return book.accept(now, ROSE.public_key, circuit.token, signature) is circuit


def hosts(first: str = "198.51.100") -> Iterator[str]:
    return (f"{first}.{number}" for number in range(1, 255))


def test_a_circuit_is_fetched_by_its_callee_once_and_in_time() -> None:
    book = book_of()
    reserved(book)
    circuit = dialled(book)
    assert not accepted(book, circuit, by=MALLORY)
    assert book.accept(0, MALLORY.public_key, circuit.token, bytes(64)) is None
    assert accepted(book, circuit)
    assert not accepted(book, circuit)
    late = dialled(book, 1)
    assert not accepted(book, late, 6.1)
    assert len(circuit.token) == 16 and circuit.token != late.token


def test_one_caller_has_eight_circuits_and_asks_for_four_a_second() -> None:
    book = book_of(circuits_per_caller=8, dials_burst=4)
    reserved(book)
    for _ in range(4):
        dialled(book)
    with pytest.raises(Overloaded, match="too many circuits asked for from this address"):
        dialled(book)
    for _ in range(4):
        dialled(book, 1)
    with pytest.raises(Overloaded, match="this address has as many circuits as it may have"):
        dialled(book, 2)
    dialled(book, 2, host="198.51.100.2")


def test_a_caller_of_ipv6_is_its_house() -> None:
    book = book_of(circuits_per_caller=2)
    reserved(book)
    for number in range(2):
        dialled(book, host=f"2001:db8:1:1::{number}")
    with pytest.raises(Overloaded, match="this address"):
        dialled(book, host="2001:db8:1:1:ffff::7")
    dialled(book, host="2001:db8:1:2::1")


def test_one_callee_has_sixteen_circuits() -> None:
    book = book_of(circuits_per_callee=16)
    reserved(book)
    reserved(book, CAROL)
    one, *others = [dialled(book, host=host) for host, _ in zip(hosts(), range(16), strict=False)]
    with pytest.raises(Overloaded, match="this peer has as many circuits as it may have"):
        dialled(book, host="198.51.100.77")
    dialled(book, host="198.51.100.77", callee=CAROL)
    book.end(1, one)
    dialled(book, host="198.51.100.77")
    assert len(others) == 15


def test_when_all_circuits_to_bob_are_taken_who_has_most_makes_room_for_another_network() -> None:
    """One house of mallory's, whose computers have addresses of their own. What she has elsewhere is no matter."""
    book = book_of(circuits_per_callee=4)
    bobs, _ = reserved(book), reserved(book, CAROL)
    elsewhere = [dialled(book, host=f"2001:db8:1:{number}::1", callee=CAROL) for number in range(3)]
    taken = [dialled(book, number, host=f"2001:db8:1:{number % 2}::1") for number in range(4)]
    for _ in range(2):
        circuit, ended = book.dial(5, HER, bobs)
        assert len(ended) == 1 and ended[0] in taken and circuit.callee is bobs
        book.end(5, ended[0])
    with pytest.raises(Overloaded, match="this peer has as many circuits as it may have"):
        dialled(book, 6)
    with pytest.raises(Overloaded, match="this peer has as many circuits as it may have"):
        dialled(book, 6, host="2001:db8:1:2::1")
    assert len(book.circuits_to(bobs)) == 4 and set(elsewhere) <= set(book._circuits.values())


def test_when_all_circuits_are_taken_who_has_most_makes_room_for_another_network() -> None:
    book = book_of(circuits=4, dials_burst=100)
    reserved(book)
    hers = [dialled(book, host=host) for host, _ in zip(hosts(), range(4), strict=False)]
    with pytest.raises(Overloaded, match="all circuits are taken"):
        dialled(book, host="198.51.100.77")
    _, ended = book.dial(0, "192.0.2.1", book._reserved[BOB.peer_id])
    assert len(ended) == 1 and ended[0] in hers
    book.end(0, ended[0])
    assert book.num_circuits == 4


def test_when_all_reservations_are_taken_it_is_the_same() -> None:
    book = book_of(reservations=4)
    hers = [reserved(book, somebody(number), host=host) for number, host in zip(range(4), hosts(), strict=False)]
    with pytest.raises(Overloaded, match="all reservations are taken"):
        reserved(book, somebody(9), host="198.51.100.77")
    bobs, ended = book.reserve(0, BOB.public_key, HIS)
    assert len(ended) == 1 and ended[0] in hers
    assert dialled(book).callee is bobs


def test_one_address_has_so_many_reservations_and_a_peer_one() -> None:
    book = book_of()
    for number in range(8):
        reserved(book, somebody(number))
    with pytest.raises(Overloaded, match="one address"):
        reserved(book, BOB)
    again, ended = book.reserve(1, somebody(0).public_key, HIS)
    assert [one.peer for one in ended] == [somebody(0).peer_id] and ended[0] is not again
    reserved(book, BOB, host="203.0.113.10")


def test_a_reservation_ends_with_its_lease_or_in_silence() -> None:
    book = book_of()
    bobs, carols = reserved(book), reserved(book, CAROL)
    assert book.overdue_reservations(59) == []
    for now in range(50, 3600, 50):
        assert book.heard(now, bobs)
    assert book.overdue_reservations(3599) == [carols]
    book.renew(3599, bobs)
    book.heard(3599, bobs)
    book.release(carols)
    assert book.overdue_reservations(3601) == []
    assert book.overdue_reservations(3660) == [bobs]


def test_a_circuit_ends_when_it_is_idle_and_after_an_hour() -> None:
    book = book_of()
    reserved(book)
    busy, idle, vain = dialled(book), dialled(book), dialled(book)
    assert book.overdue_circuits(200) == []
    for one in (busy, idle, vain):
        assert accepted(book, one)
        book.carried(0, one, 1, by_callee=one is not vain)
    book.carried(9, vain, 1, by_callee=False)
    assert book.overdue_circuits(9.9) == [] and book.overdue_circuits(10) == [vain], "nobody says a word to her"
    book.end(10, vain)
    assert book.overdue_circuits(119) == []
    for now in range(100, 3600, 100):
        book.carried(now, busy, 1, by_callee=False)
    assert book.overdue_circuits(130) == [idle]
    book.end(130, idle)
    assert book.overdue_circuits(3599) == []
    assert book.overdue_circuits(3600) == [busy]


def test_a_circuit_carries_a_gigabyte_both_ways_together() -> None:
    book = book_of()
    reserved(book)
    circuit = dialled(book)
    book.carried(0, circuit, 1 << 29, by_callee=False)
    assert not book.is_spent(circuit)
    book.carried(0, circuit, 1 << 29, by_callee=True)
    assert book.is_spent(circuit)


def test_who_calls_in_vain_five_times_waits_a_minute() -> None:
    book = book_of()
    reserved(book)

    def call(now: float, answered: bool = False) -> None:
        circuit = dialled(book, now)
        assert accepted(book, circuit, now)
        book.carried(now, circuit, 64, by_callee=answered)
        book.end(now, circuit)
        book.end(now, circuit)

    for now in range(4):
        call(now)
    call(4, answered=True)
    for now in range(5, 10):
        call(now)
    with pytest.raises(Overloaded, match="of no use"):
        call(68)
    dialled(book, 68, host="198.51.100.2")
    call(70)
    assert book.refusals == {"too many circuits from this address to this peer were of no use: wait a minute": 1}


def test_callees_of_mallory_s_that_answer_nobody_keep_alice_from_nobody_else() -> None:
    """She finds their names in the table of the DHT, and cannot know whose they are."""
    book = book_of()
    reserved(book)
    for number in range(5):
        reserved(book, somebody(number))
        book.end(number + 5, dialled(book, number, callee=somebody(number)))
    dialled(book, 10)


def test_what_is_remembered_of_callers_is_bounded() -> None:
    book = book_of(calls_burst=1e9)
    reserved(book)
    for number in range(4200):
        book.end(0, dialled(book, host=f"198.{number >> 8}.{number & 255}.1"))
    assert len(book._vain) == 4096 == len(book._dials)
    assert book.num_circuits == 0 == len(book._by_flow)


def test_whoever_calls_bob_is_told_of_no_oftener_than_he_stays_for() -> None:
    """Mallory calls him from as many houses as she likes; carol is called as before."""
    book, told, ping_s = book_of(), 0, Patience().ping_s
    reserved(book), reserved(book, CAROL)
    for step in range(round(8 * ping_s)):
        for number in range(4):
            with contextlib.suppress(Overloaded):
                book.end(step / 8, dialled(book, step / 8, host=f"2001:db8:{step:x}:{number:x}00::1"))
                told += 1
    assert 150 < told < MAX_FRAMES / 1.25
    with pytest.raises(Overloaded, match="this peer is called too often"):
        dialled(book, ping_s - 1 / 8)
    dialled(book, ping_s, callee=CAROL)


def test_one_network_does_not_keep_alice_from_bob_by_calling_him_all_the_time() -> None:
    book = book_of(network_burst=Limits.network_burst)
    reserved(book), reserved(book, CAROL)
    for step in range(40):
        for host, _ in zip(hosts(), range(4), strict=False):
            with contextlib.suppress(Overloaded):
                circuit = dialled(book, step / 4, host)
                book.carried(step / 4, circuit, 1, by_callee=True)
                book.end(step / 4, circuit)
    with pytest.raises(Overloaded, match="this peer is called too often from this network"):
        dialled(book, 9.75, "198.51.100.9")
    assert dialled(book, 9.75, "192.0.2.1").callee is not dialled(book, 9.75, "198.51.100.9", CAROL).callee


def test_guests_of_the_network_that_has_most_make_room() -> None:
    book = book_of(guests=3)
    for host in ("198.51.100.1", "198.51.100.2", HIS):
        assert book.arrived(0, host, host) is None
    assert book.arrived(0, "alice", "192.0.2.1") == "198.51.100.1"
    book.settled("198.51.100.2")
    assert book.arrived(0, "carol", "192.0.2.2") is None


def test_circuits_are_as_many_as_there_are_descriptors_for() -> None:
    assert limits_for(1 << 20).circuits == 512
    assert limits_for(1024).circuits == 66
    assert limits_for(256).circuits == 0
    assert limits_for(1 << 20, 1e6).bytes_per_s == 1e6

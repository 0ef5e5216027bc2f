"""What strangers say to a relay, and its book of who gets what, under floods of those who reserve, dial and accept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgpack

from dsdnode.errors import Overloaded, PeerMisbehaved
from dsdnode.net.relay import book, frames, rates
from dsdnode.net.relay.book import Book, Circuit, Limits, Reservation
from dsdnode.wire import codec
from tests.fuzz.hostile import person
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.fuzz.shards import seed
from tests.protocol import relays

FRAMES = tuple(bytes.fromhex(one["bytes"])[frames.HEAD_BYTES :] for one in relays.exchange()["cases"])
KINDS = tuple(frames.Frame.__subclasses__())
MAX_EVENTS = 60
NAMES = ("alice", "bob", "carol", "mallory")
HOSTS = ("198.51.100.1", "198.51.100.2", "203.0.113.9", "127.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8:1::1", "")
RELAY = bytes(32)
SMALL = Limits(
    bytes_per_s=1e5,
    circuit_bytes_per_s=1e5,
    circuit_bytes=200_000,
    circuits=5,
    circuits_per_callee=3,
    circuits_per_caller=2,
    reservations=3,
    reservations_per_caller=2,
    guests=4,
    unanswered=2,
)
"""That a game of some dozen events gets to."""


# --- frames


def _frame(mutator: Mutator) -> Case:
    return (mutator.packed(msgpack.unpackb(mutator.any_of(FRAMES))),)


def _parse(case: Case) -> None:
    told = frames.unpack(case[0], *KINDS)
    with suppress(ValueError):  # what its sender could not have said in so few bytes
        assert frames.unpack(frames.pack(told)[frames.HEAD_BYTES :], type(told)) == told


def _fits(case: Case) -> bool:
    return 0 < len(case[0]) <= frames.MAX_RELAY_FRAME_BYTES


# --- the book


class BookGame:
    def __init__(self, seed: bytes) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.book = Book(SMALL, Random(1), self.now)
        self.guests: dict[int, None] = {}
        self.reserved: dict[Reservation, None] = {}
        self.circuits: dict[Circuit, None] = {}
        self.held: set[Circuit] = set()

    def play(self) -> None:
        events: tuple[Callable[[], Any], ...] = (
            self._arrive, self._arrive, self._leave, self._reserve, self._reserve, self._speak, self._release,
            self._dial, self._dial, self._dial, self._accept, self._accept, self._accept, self._carry, self._carry,
            self._carry, self._end, self._sweep,
        )  # fmt: skip
        for _ in range(self.rng.randrange(MAX_EVENTS)):
            self.now += self.rng.choice((0.0, 0.0, 0.0, 0.01, 0.3, 1.0, 1.0, 6.0, 70.0))
            with suppress(Overloaded):
                events[int(self.rng.random() * len(events))]()
            self._check()

    def _check(self) -> None:
        assert len(self.guests) <= SMALL.guests
        assert len(self.reserved) <= SMALL.reservations
        assert self.book.num_circuits == len(self.circuits) <= SMALL.circuits
        by_callee = Counter(one.callee.peer for one in self.circuits)
        by_caller = Counter(one.caller.address for one in self.circuits)
        assert max(by_callee.values(), default=0) <= SMALL.circuits_per_callee
        assert max(by_caller.values(), default=0) <= SMALL.circuits_per_caller

    def _arrive(self) -> None:
        guest = self.rng.randrange(1 << 30)
        other = self.book.arrived(self.now, guest, self.rng.choice(HOSTS))
        self.guests[guest] = None
        if other is not None:
            assert isinstance(other, int)
            del self.guests[other]

    def _leave(self) -> None:
        if self.guests:
            guest, _ = self.guests.popitem()
            self.book.settled(guest)

    def _reserve(self) -> None:
        key = person(self.rng.choice(NAMES)).contact.public_key
        new, ended = self.book.reserve(self.now, key, self.rng.choice(HOSTS))
        for one in ended:
            del self.reserved[one]
        self.reserved[new] = None

    def _speak(self) -> None:
        for one in self.reserved:
            if self.rng.random() < 0.5:
                self.book.heard(self.now, one)
                self.book.renew(self.now, one)

    def _release(self) -> None:
        if self.reserved:
            one = self.rng.choice(list(self.reserved))
            self.book.release(one)
            del self.reserved[one]
            for circuit in self.book.waiting_for(one):
                self._over(circuit)

    def _dial(self) -> None:
        if not self.reserved:
            return
        callee = self.rng.choice(list(self.reserved))
        new, ended = self.book.dial(self.now, self.rng.choice(HOSTS), callee)
        assert new.callee is callee
        for one in ended:
            self._over(one)
        self.circuits[new] = None

    def _accept(self) -> None:
        waiting = [one for one in self.circuits if not one.accepted]
        token, who = bytes(16), person(self.rng.choice(NAMES))
        if waiting:
            one = self.rng.choice(waiting)
            token, asked = one.token, [person(name) for name in NAMES if person(name).id == one.callee.peer]
            who = self.rng.choice((who, *asked))
        signature = who.identity.sign(frames.to_accept(RELAY, token))
        circuit = self.book.accept(self.now, RELAY, token, signature)
        assert circuit is None or (circuit in self.circuits and circuit.callee.peer == who.id)
        if circuit is not None:
            assert self.book.accept(self.now, RELAY, token, signature) is None, "a token serves twice"

    def _carry(self) -> None:
        before = [one for one in self.circuits if one.accepted and one not in self.held]
        for one in before:
            if not self.book.carried(self.now, one, self.rng.randrange(1, one.flow.chunk_bytes + 1), True):
                self.held.add(one)
            if self.book.is_spent(one):
                self._over(one)
        for one in self.book.resumed(self.now + self.rng.choice((0.0, 0.1, 10.0))):
            self.held.remove(one)

    def _over(self, circuit: Circuit) -> None:
        self.book.end(self.now, circuit)
        self.circuits.pop(circuit, None)
        self.held.discard(circuit)

    def _end(self) -> None:
        if self.circuits:
            self._over(self.rng.choice(list(self.circuits)))

    def _sweep(self) -> None:
        for circuit in self.book.overdue_circuits(self.now):
            assert circuit.accepted
            self._over(circuit)
        for one in self.book.overdue_reservations(self.now):
            self.book.release(one)
            del self.reserved[one]


def _play(case: Case) -> None:
    BookGame(case[0]).play()


PARSERS = (
    Parser("relay-frame", _frame, _parse, (PeerMisbehaved,), (frames.unpack, codec._strict, codec._convert), _fits),
    Parser("relay-book", seed, _play, (), (book, rates)),
)

"""Who comes in, and whom we call on a stranger's word: lobby, gate, dials and book of peers, under floods of both."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from dsdnode.accounts import Credits
from dsdnode.addresses import LOWEST_PORT, Nearness, may_name, nearness, network, parse_address
from dsdnode.net import dials, lobby, peers, zap
from dsdnode.net.dials import Dials, Teacher
from dsdnode.net.lobby import Lobby
from dsdnode.net.peers import MAX_ADDRESSES, MAX_CLAIMS, PeerBook
from dsdnode.net.zap import Gate
from dsdnode.wire.messages import Contact
from tests.fuzz.hostile import person
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.fuzz.shards import seed
from tests.fuzz.words import IPS, _address

MAX_EVENTS = 60
NAMES = ("alice", "bob", "carol", "mallory")
SOURCES = ("198.51.100.1", "198.51.100.2", "203.0.113.9", "127.0.0.1", "10.0.0.1", "2001:db8::1", "fe80::1", "", "x")
SMALL = {"MAX_WAITING": 6, "MAX_CONNECTIONS": 8}
"""Limits of the lobby that a game of some dozen events gets to."""


class DoorGame:
    def __init__(self, seed: bytes) -> None:
        self.rng = Random(seed)
        self.mutator = Mutator(self.rng)
        self.now = 0.0
        self.lobby, self.gate, self.dials, self.book = Lobby(), Gate(), Dials(), PeerBook()
        self.waiting: dict[int, str] = {}
        self.inside: dict[int, str] = {}

    def play(self) -> None:
        events: tuple[Callable[[], Any], ...] = (
            self._arrive, self._arrive, self._arrive, self._greet, self._greet, self._refuse, self._leave, self._hear,
            self._sweep, self._ask, self._named, self._named, self._named, self._dial, self._dial, self._answered,
        )  # fmt: skip
        for _ in range(self.rng.randrange(MAX_EVENTS)):
            self.now += self.rng.choice((0.0, 0.0, 0.01, 1.0, 11.0))
            events[int(self.rng.random() * len(events))]()
            assert self.lobby.num_waiting == len(self.waiting) <= lobby.MAX_WAITING
            assert self.lobby.num_peers == len(self.inside) <= lobby.MAX_CONNECTIONS

    # --- at the door

    def _descriptor(self) -> int:
        return self.rng.randrange(40)

    def _arrive(self) -> None:
        """Descriptors are used again, at times before it is known that their connections have ended."""
        descriptor, source = self._descriptor(), self.rng.choice(SOURCES)
        self.inside.pop(descriptor, None)
        self.waiting.pop(descriptor, None)
        self.waiting[descriptor] = source
        self._ended(self.lobby.arrived(self.now, descriptor, source), self.waiting)

    def _greet(self) -> None:
        descriptor, source, who = self._descriptor(), self.rng.choice(SOURCES), person(self.rng.choice(NAMES))
        if self.lobby.admits(source):
            self.waiting.pop(descriptor, None)
            self.inside.pop(descriptor, None)
            self.inside[descriptor] = source
            self._ended(self.lobby.greeted(descriptor, source, who.id), self.inside)

    def _ended(self, descriptor: int | None, among: dict[int, str]) -> None:
        if descriptor is not None:
            assert descriptor in among, "somebody else's connection is ended"
            del among[descriptor]

    def _refuse(self) -> None:
        self.lobby.refused(self.now, self._descriptor())

    def _leave(self) -> None:
        descriptor = self._descriptor()
        self.lobby.left(descriptor)
        self.waiting.pop(descriptor, None)
        self.inside.pop(descriptor, None)

    def _hear(self) -> None:
        descriptor = self._descriptor()
        heard = [self.lobby.hears(descriptor) for _ in range(self.rng.choice((1, lobby.MAX_MESSAGES + 1)))]
        assert descriptor not in self.waiting or sum(heard) <= lobby.MAX_MESSAGES

    def _sweep(self) -> None:
        for descriptor in self.lobby.overdue(self.now):
            self._ended(descriptor, self.waiting)

    def _ask(self) -> None:
        key, source = person(self.rng.choice(NAMES)).id, self.rng.choice(SOURCES)
        change = self.rng.choice((None, self.gate.know, self.gate.ban, self.gate.lock, self.gate.refused))
        if change == self.gate.know:
            self.gate.know(key)
        elif change == self.gate.ban:
            self.gate.ban(self.now, key, 600.0)
            assert self.gate.admit(self.now, source, key) == "banned"
        elif change == self.gate.lock:
            self.gate.lock(self.now, self.rng.choice((None, *SOURCES)))
        elif change == self.gate.refused:
            self.gate.refused(self.now, source)
        admitted = sum(not self.gate.admit(self.now, source, key) for _ in range(self.rng.choice((1, 1, 300))))
        assert admitted <= zap.CONNECTIONS_BURST

    # --- whom we call

    def _named(self) -> None:
        """Somebody at some distance names addresses of a peer."""
        rng = self.rng
        told = tuple(_address(self.mutator)[0].decode()[:128] for _ in range(rng.randrange(5)))
        peer = self.book.meet(person(rng.choice(NAMES)).contact.public_key)
        near = rng.choice(list(Nearness))
        news = peer.hear(Contact(peer.public_key, told), Teacher(near, rng.choice(SOURCES)))
        assert not news or any(may_name(near, one) for one in told)
        assert len(peer.claims) <= MAX_CLAIMS
        peer.said = rng.choice((peer.said, Contact(peer.public_key, told)))
        peer.seen_at(rng.choice(SOURCES[:6]))
        peer.sighting()

    def _dial(self) -> None:
        peer = self.book.meet(person(self.rng.choice(NAMES)).contact.public_key)
        ways = peer.ways()
        assert len(ways) <= MAX_ADDRESSES
        for way in ways:
            host, port = parse_address(way.address)
            if way.teacher is None:
                continue
            near = nearness(host)
            assert near is not None and near >= way.near, "called nearer than who named it"
            assert port >= LOWEST_PORT, "a machine's service is called"
            called = sum(self.dials.allow(self.now, way.teacher, way.address) for _ in range(40))
            assert called <= dials.PER_TEACHER_AND_TARGET, "called without end on one's word"
            if self.rng.random() < 0.3:
                self.dials.answered(self.now, way.teacher, way.address)
                peer.answered(way, host if network(host) else "127.0.0.1")
            else:
                peer.unanswered(way.address)

    def _answered(self) -> None:
        peer = self.book.meet(person(self.rng.choice(NAMES)).contact.public_key)
        peer.unanswered(self.rng.choice(IPS))


@cache
def _limits() -> dict[str, int]:
    return {name: getattr(lobby, name) for name in SMALL}


def _play(case: Case) -> None:
    usual = _limits()
    try:
        for name, value in SMALL.items():
            setattr(lobby, name, value)
        DoorGame(case[0]).play()
    finally:
        for name, value in usual.items():
            setattr(lobby, name, value)


PARSERS = (Parser("doors", seed, _play, (), (Lobby, Gate, zap._group, dials, peers.Peer, PeerBook, Credits)),)

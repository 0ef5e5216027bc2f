"""Alice's and Bob's laptops find each other in their house, and nobody who is not of their swarm, nor near."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from dsdnode.net.beacon import (
    ASK_AFTER_S,
    BURST,
    BURST_OF_ALL,
    MAX_CONTACT_BYTES,
    MAX_DATAGRAM_BYTES,
    MAX_NEIGHBOURS,
    NEWS_S,
    Beacon,
    Neighbours,
    tag_of,
)
from dsdnode.net.handshake import swarm_names
from dsdnode.net.interfaces import AddressWatch, Own, own_addresses
from tests.nat.namespaces import configure, inside, ip, why_not
from tests.nat.networks import networks

ALICE, BOB, CAROL = b"alice's contact", b"bob's contact", b"carol's contact"
ALICES, BOBS = "192.168.1.10", "192.168.1.11"
OURS, THEIRS = "correct horse", "battery staple"
NOTHING = (b"", b"")
LOOPBACK = (Own("lo", "127.0.0.1", "127.0.0.0/8"),)


def at_home(contact: bytes, swarms: tuple[str, ...] = ("open",)) -> Neighbours:
    made = Neighbours(swarms, contact)
    made.networks = ("192.168.1.0/24",)
    return made


def test_who_asks_is_heard_and_answered() -> None:
    alice, bob = at_home(ALICE), at_home(BOB)
    [question] = bob.questions()
    answer, news = alice.hear(0.0, question, BOBS)
    assert news == BOB
    assert bob.hear(0.0, answer, ALICES) == (b"", ALICE)
    assert alice.hear(0.1, question, BOBS) == (answer, b""), "no news; the answer may have been lost"
    assert alice.hear(0.2, question, "192.168.1.12") == (answer, BOB), "the same by another way"
    assert alice.hear(0.3, alice.questions()[0], ALICES) == NOTHING, "she hears herself"
    assert alice.hear(NEWS_S, question, BOBS) == (answer, BOB), "she may have given him up since"


def test_who_cannot_be_called_asks_all_the_same() -> None:
    alice, client = at_home(ALICE), at_home(b"")
    answer, news = alice.hear(0.0, client.questions()[0], BOBS)
    assert news == b""
    assert client.hear(0.0, answer, ALICES) == (b"", ALICE)
    assert at_home(b"").hear(0.0, client.questions()[0], BOBS) == NOTHING


def test_swarms_do_not_mix_and_a_key_is_not_told() -> None:
    ours, theirs = swarm_names([OURS]), swarm_names([THEIRS])
    for alice, mallory in itertools.permutations([ours, theirs, ("open",)], 2):
        assert at_home(ALICE, alice).hear(0.0, at_home(b"mallory's", mallory).questions()[0], BOBS) == NOTHING
    said = at_home(ALICE, ours).questions()[0]
    assert b"horse" not in said
    assert ours[0].encode() not in said
    assert len({tag_of(name) for name in (*ours, *theirs, "open")}) == 3


def test_while_one_key_replaces_the_other_both_are_asked_by() -> None:
    old, new = swarm_names([THEIRS])[0], swarm_names([OURS])[0]
    alice = at_home(ALICE, (new, old))
    for bob in (at_home(BOB, (old,)), at_home(BOB, (new,))):
        answers = [answer for question in alice.questions() if (answer := bob.hear(0.0, question, ALICES)[0])]
        assert [alice.hear(0.0, answer, BOBS) for answer in answers] == [(b"", BOB)]
        alice.forget()


def test_what_is_no_beacon_is_ignored_whatever_its_size() -> None:
    alice = at_home(ALICE)
    [real] = at_home(BOB).questions()
    rng = random.Random(7)
    for size in [*range(1500), 9000, 65507]:
        assert alice.hear(0.0, rng.randbytes(size), BOBS) == NOTHING
        assert alice.hear(0.0, real[:26].ljust(size, b"x") if size > MAX_DATAGRAM_BYTES else b"", BOBS) == NOTHING
    for place in range(26):
        assert alice.hear(0.0, real[:place] + bytes((real[place] ^ 64,)) + real[place + 1 :], BOBS) == NOTHING
        assert alice.hear(0.0, real[:place], BOBS) == NOTHING
    assert alice.hear(0.0, real, BOBS)[1] == BOB, "none of it was counted against him"


@pytest.mark.parametrize("host", ["192.168.2.11", "8.8.8.8", "127.0.0.1", "", "fe80::1", "nowhere"])
def test_from_beyond_the_house_nothing_is_heard(host: str) -> None:
    assert at_home(ALICE).hear(0.0, at_home(BOB).questions()[0], host) == NOTHING


def test_a_contact_that_does_not_fit_is_refused_in_words() -> None:
    assert len(at_home(bytes(MAX_CONTACT_BYTES)).questions()[0]) == MAX_DATAGRAM_BYTES
    with pytest.raises(ValueError, match="701 bytes: a beacon has room for 700"):
        at_home(BOB).say(bytes(MAX_CONTACT_BYTES + 1))


def made_up(number: int) -> bytes:
    return at_home(b"mallory's contact %d" % number).questions()[0]


def test_one_machine_s_flood_is_heard_for_a_moment_and_bob_all_the_same() -> None:
    alice = at_home(ALICE)
    heard = [alice.hear(0.0, made_up(number), "192.168.1.66") for number in range(1000)]
    assert sum(one != NOTHING for one in heard) == BURST
    assert alice.hear(0.0, at_home(BOB).questions()[0], BOBS)[1] == BOB
    assert alice.hear(60.0, made_up(1000), "192.168.1.66") != NOTHING, "it is heard again later"


def test_a_flood_of_made_up_senders_is_no_larger() -> None:
    alice = at_home(ALICE)
    alice.networks = ("10.0.0.0/8",)
    heard = [alice.hear(0.0, made_up(number), f"10.{number >> 8}.{number & 255}.1") for number in range(1000)]
    assert sum(one != NOTHING for one in heard) == BURST_OF_ALL
    for number in range(10 * MAX_NEIGHBOURS):
        alice.hear(float(number), made_up(number), f"10.{number >> 8}.{number & 255}.1")
    assert len(alice) == MAX_NEIGHBOURS


# --- sockets


class Laptop:
    """`own`: what it takes for its addresses, where these are not those of its namespace, which are watched."""

    def __init__(self, contact: bytes, port: int, namespace: str) -> None:
        self.heard: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()
        self._namespace = namespace
        self.own = () if namespace else LOOPBACK
        self.beacon = Beacon(Neighbours(("open",), contact), self._on_neighbour, port, self._read)
        self.watch = AddressWatch(lambda _: self.beacon.addresses_changed(), self._read)

    def _on_neighbour(self, contact: bytes, host: str) -> None:
        self.heard.put_nowait((contact, host))

    def _read(self) -> tuple[Own, ...]:
        if self.own:
            return self.own
        with inside(self._namespace):
            return own_addresses()

    async def next(self) -> tuple[bytes, str]:
        return await asyncio.wait_for(self.heard.get(), 5)


@contextmanager
def laptop(contact: bytes, port: int = 0, namespace: str = "") -> Iterator[Laptop]:
    with inside(namespace) if namespace else nullcontext():
        made = Laptop(contact, port, namespace)
    try:
        yield made
    finally:
        made.watch.close()
        made.beacon.close()


async def has_asked() -> None:
    """The first question of every beacon has left."""
    await asyncio.sleep(ASK_AFTER_S[0])
    await asyncio.sleep(0)


async def test_two_daemons_of_one_machine_find_each_other_whatever_strangers_throw() -> None:
    """All sizes of nothing, thrown at the shared port and at Alice's own, before Bob comes."""
    with laptop(ALICE) as alice, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mallory:
        mallory.bind(("127.0.0.1", 0))
        mallory.setblocking(False)
        own_port = alice.beacon._mine.getsockname()[1]
        for size in range(0, 1500, 7):
            for port in (alice.beacon.port, own_port):
                mallory.sendto(b"dsdnode beacon 1\n".ljust(size, b"?")[:size], ("127.0.0.1", port))
            await asyncio.sleep(0)
        with laptop(BOB, alice.beacon.port) as bob:
            assert await bob.next() == (ALICE, "127.0.0.1")
            assert await alice.next() == (BOB, "127.0.0.1")
        assert alice.heard.empty()
        with pytest.raises(BlockingIOError):
            mallory.recv(1)


async def test_a_port_that_another_program_has_for_itself_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        with pytest.raises(OSError, match="in use"):
            Laptop(ALICE, other.getsockname()[1], "")


@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_where_multicast_is_not_carried_broadcast_is() -> None:
    """Carol asks by multicast alone, before Bob does: Alice hears him, and not her."""
    hosts = {"alice": [ALICES], "bob": [BOBS], "carol": ["192.168.1.12"]}
    with networks(hosts, multicast=False) as places, laptop(ALICE, namespace=places["alice"]) as alice:
        await has_asked()
        with laptop(CAROL, alice.beacon.port, places["carol"]) as carol:
            carol.own = (Own("eth0", "192.168.1.12", "192.168.1.0/24"),)
            carol.beacon.addresses_changed()
            await has_asked()
        with laptop(BOB, alice.beacon.port, places["bob"]) as bob:
            assert await bob.next() == (ALICE, ALICES)
            assert await alice.next() == (BOB, BOBS)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_of_two_networks_the_one_that_both_are_in_is_told() -> None:
    """By wire they are in different houses, which is where their default routes lead; the wireless one is common."""
    with networks({"alice": [ALICES], "bob": ["192.168.2.11"]}) as places:
        ends = [("wlan0", "netns", places[who]) for who in ("alice", "bob")]
        ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for who in ("alice", "bob"):
            configure(places[who], "link set wlan0 up\n")
        for number, who in enumerate(("alice", "bob"), 1):
            configure(places[who], f"addr add 10.9.0.{number}/16 broadcast + dev wlan0\n")
        with laptop(ALICE, namespace=places["alice"]) as alice, laptop(BOB, alice.beacon.port, places["bob"]) as bob:
            assert await bob.next() == (ALICE, "10.9.0.1")
            assert await alice.next() == (BOB, "10.9.0.2")


@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_who_has_no_address_yet_is_there_when_it_comes() -> None:
    with networks({"alice": [ALICES], "bob": [BOBS]}) as places:
        configure(places["bob"], "addr flush dev eth0\n")
        with laptop(ALICE, namespace=places["alice"]) as alice, laptop(BOB, alice.beacon.port, places["bob"]) as bob:
            await has_asked()
            configure(places["bob"], f"addr add {BOBS}/24 broadcast + dev eth0\n")
            assert await alice.next() == (BOB, BOBS)
            assert await bob.next() == (ALICE, ALICES)

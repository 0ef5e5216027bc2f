"""Whom an invitation names."""

from __future__ import annotations

import pytest

from dsdnode.identity import Identity
from dsdnode.swarm.inviting import members_to_name
from dsdnode.wire.messages import Contact

KEYS = {name: Identity(name.encode().ljust(32)).public_key for name in ("alice", "bob", "carol", "dave", "erin")}
NAMES = {key: name for name, key in KEYS.items()}
PUBLIC, HOUSE, HERE = "tcp://11.1.1.10:29170", "tcp://192.168.1.5:29170", "tcp://127.0.0.1:29170"
V6 = "tcp://[2a01:1::10]:29170"


def one(name: str, *addresses: str) -> Contact:
    return Contact(KEYS[name], addresses)


BOB, CAROL, DAVE = (one(name, f"tcp://{12 + i}.1.1.10:29170") for i, name in enumerate(("bob", "carol", "dave")))
NEIGHBOUR = one("erin", "tcp://192.168.1.6:29170")


@pytest.mark.parametrize(
    ("own", "is_reached", "others", "named"),
    [
        ((PUBLIC,), True, (), ["alice"]),
        ((HOUSE,), False, (), ["alice"]),
        ((PUBLIC,), True, (BOB, CAROL, DAVE), ["alice", "bob", "carol"]),
        ((PUBLIC,), False, (BOB, CAROL, DAVE), ["bob", "carol", "dave"]),
        ((HOUSE,), True, (BOB,), ["bob", "alice"]),
        ((PUBLIC,), True, (NEIGHBOUR, BOB), ["alice", "bob"]),
        ((HOUSE,), True, (NEIGHBOUR,), ["alice", "erin"]),
        ((HERE,), True, (BOB,), ["bob"]),
        (
            (HERE,),
            True,
            (one("bob", "tcp://127.0.0.1:1"), one("carol", "tcp://127.0.0.1:2")),
            ["alice", "bob", "carol"],
        ),
        ((PUBLIC,), True, (one("bob", "tcp://11.1.1.99:29170"), CAROL), ["alice", "carol"]),
        ((PUBLIC,), True, (BOB, one("carol", "tcp://12.1.1.99:1"), DAVE), ["alice", "bob", "dave"]),
    ],
    ids=[
        "herself",
        "herself though nobody reaches her: there is nobody else",
        "two others beside her",
        "others alone, where she is not reached",
        "who is reached from afar before her, whom neighbours reach",
        "no neighbour, where somebody is farther away",
        "a neighbour, where nobody is",
        "not herself, where nobody but this machine reaches her",
        "daemons of one machine",
        "nobody of her own network",
        "one of each network",
    ],
)
def test_who_is_named(own: tuple[str, ...], is_reached: bool, others: tuple[Contact, ...], named: list[str]) -> None:
    found = members_to_name(one("alice", *own), is_reached, others)
    assert [NAMES[contact.public_key] for contact in found] == named


def test_her_relay_is_named_beside_her() -> None:
    """The relay gave her a port of his own: once he is gone she is somewhere else, and he may be there without her."""
    alice, relay = one("alice", "tcp://12.1.1.10:41234"), BOB
    assert members_to_name(alice, True, (relay, CAROL), given=alice.addresses) == [alice, relay, CAROL]
    assert members_to_name(relay, True, (alice, CAROL)) == [relay, CAROL]


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        ((HOUSE, PUBLIC), (PUBLIC, HOUSE)),
        ((HOUSE, PUBLIC, V6), (PUBLIC, V6)),
        ((V6, HOUSE, "tcp://[2a01:1::11]:1", PUBLIC), (V6, PUBLIC)),
        ((PUBLIC, HERE), (PUBLIC,)),
        ((HERE,), (HERE,)),
    ],
)
def test_of_each_the_best_addresses_of_both_families(addresses: tuple[str, ...], told: tuple[str, ...]) -> None:
    [found] = members_to_name(one("alice", *addresses), True, ())
    assert found.addresses == told

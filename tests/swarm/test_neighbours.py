"""Who says in alice's house that he is there: he is called where he was heard, at a price, and not for ever."""

from __future__ import annotations

import pytest

from dsdnode.identity import Identity
from dsdnode.net.dials import PER_TEACHER_AND_TARGET
from dsdnode.swarm.joining import MAX_JOINED, MAX_OF_A_HOST, UNHEARD_S
from dsdnode.wire.messages import Contact
from tests.swarm.test_homes import Victim
from tests.swarm.test_joining import KEYS, Begin, Member, begin, elsewhere, until

__all__ = ["begin"]
BOBS_ID = KEYS["bob"].peer_id


def made_up(number: int, *addresses: str) -> Contact:
    return Contact(Identity(b"mallory %24d" % number).public_key, addresses)


def kept(alice: Member) -> list[Contact]:
    return [join.contact for join in alice.discovery._joining._joins.values()]


def is_live(alice: Member, peer: bytes = BOBS_ID) -> bool:
    return alice.discovery.table.is_live(peer)


async def test_mallory_s_many_names_at_a_printer_have_it_called_a_few_times(begin: Begin) -> None:
    """Alice keeps on trying all the same: the printer's place pays for that."""
    alice, printer = await begin("alice"), Victim()
    where = await printer.listens()
    names = [made_up(number, where) for number in range(MAX_OF_A_HOST)]
    with printer.leaves():
        for name in names:
            alice.discovery._met(name)
        refused = alice.discovery._joining._joins.values
        await until(lambda: all(one.error and "is not called again yet" in str(one.error) for one in refused()))
    assert len(kept(alice)) == len(names)
    assert 0 < printer.num_calls <= PER_TEACHER_AND_TARGET + 1, "one more each 15 s"


async def test_mallory_s_names_of_one_machine_are_few(begin: Begin) -> None:
    """And they do not shut out those of other machines."""
    alice, bob = await begin("alice"), await begin("bob")
    for number in range(3 * MAX_OF_A_HOST):
        alice.discovery._met(made_up(number, "tcp://127.0.0.9:29170"))
    assert len(kept(alice)) == MAX_OF_A_HOST
    alice.discovery._met(bob.contact)
    await until(lambda: is_live(alice))


async def test_mallory_s_names_of_many_machines_do_not_shut_out_bob(begin: Begin) -> None:
    """Nor does one more of these take the place of bob, who answers, or of carol, whom alice's user has named."""
    alice, bob, place = await begin("alice"), await begin("bob"), elsewhere()
    carol = Contact(KEYS["carol"].public_key, (place,))
    alice.discovery._joining.add(carol)
    for number in range(2 * MAX_JOINED):
        alice.discovery._met(made_up(number, f"tcp://127.0.1.{number}:29170"))
    alice.discovery._met(bob.contact)
    assert len(kept(alice)) == MAX_JOINED
    await until(lambda: is_live(alice))
    for number in range(2 * MAX_JOINED):
        alice.discovery._met(made_up(number, f"tcp://127.0.2.{number}:29170"))
    assert {carol, bob.contact} <= set(kept(alice))


async def test_who_does_not_answer_for_minutes_is_called_no_more_until_he_is_heard_again(begin: Begin) -> None:
    """But bob, who answers, and carol, whom alice's user has named, are."""
    alice, bob, place = await begin("alice"), await begin("bob"), elsewhere()
    joining = alice.discovery._joining
    carol, dave = (Contact(KEYS[name].public_key, (place,)) for name in ("carol", "dave"))
    joining.add(carol)
    for one in (dave, bob.contact):
        alice.discovery._met(one)
    await until(lambda: is_live(alice))
    joining.tick(max(join.since for join in joining._joins.values()) + UNHEARD_S)
    assert kept(alice) == [carol, bob.contact]
    alice.discovery._met(dave)
    assert dave in kept(alice)


@pytest.mark.parametrize("named", [False, True], ids=["met", "named by alice's user, too"])
async def test_bob_who_has_moved_is_called_where_he_is_heard_now(begin: Begin, named: bool) -> None:
    """She has moved with him, say, and he does not know where she is."""
    alice, bob = await begin("alice"), await begin("bob")
    if named:
        await alice.join(bob.contact)
    alice.discovery._met(bob.contact)
    await until(lambda: is_live(alice))
    before = kept(alice)
    await bob.close()
    await until(lambda: not is_live(alice))
    moved = await begin("bob")
    alice.discovery._met(moved.contact)
    await until(lambda: is_live(alice))
    assert kept(alice) == (before if named else [moved.contact]), "what her user said she keeps"


@pytest.mark.parametrize("tried", [False, True], ids=["at once", "once that was tried"])
async def test_whom_alice_s_user_names_is_called_there_whatever_was_said_in_the_house_before(
    begin: Begin, tried: bool
) -> None:
    alice, bob = await begin("alice"), await begin("bob")
    alice.discovery._met(Contact(bob.contact.public_key, (elsewhere(),)))
    (join,) = alice.discovery._joining._joins.values()
    if tried:
        await until(lambda: join.error is not None)
    await alice.join(bob.contact)
    assert is_live(alice) and kept(alice) == [bob.contact]
    alice.discovery._joining.tick(join.since + UNHEARD_S)
    assert kept(alice) == [bob.contact]

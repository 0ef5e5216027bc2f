"""Where others reach a node, as they say: alone, over real sockets, and with mallory among them."""

from __future__ import annotations

import asyncio

import pytest

from dsdnode.errors import PeerMisbehaved
from dsdnode.net.port import REACH
from dsdnode.net.rpc import Response
from dsdnode.swarm import checks
from dsdnode.swarm.reach import ASK_AGAIN_S, FIRST_S, MAX_HASTY, MAX_VOICES, REACHED_S, UNREACHED_S, Reach, Verdict
from dsdnode.wire.messages import FindMe, Reached
from tests.swarm.test_joining import Begin, begin, elsewhere, until

__all__ = ["begin"]

LAN, VPN, IPV6 = "tcp://192.168.1.2:29170", "tcp://100.64.0.2:29170", "tcp://[2001:db8::2]:29170"
OWN = (LAN, VPN, IPV6)


def test_without_a_word_of_others_the_likeliest_address_is_told() -> None:
    reach = Reach(0.0)
    assert reach.verdict is Verdict.UNKNOWN and reach.told(OWN) == (LAN,) and reach.told(()) == ()


def test_a_newcomer_is_to_call_where_others_have_been_answered() -> None:
    reach = Reach(0.0)
    assert reach.worth_calling(OWN) == OWN
    reach.heard(0.0, "bob's", OWN, (), (LAN, IPV6))
    assert reach.worth_calling(OWN) == (VPN,), "nobody has tried that one"
    reach.heard(0.0, "carol's", OWN, (), OWN)
    assert reach.worth_calling(OWN) == OWN, "none is better than another"
    for name in ("bob's", "carol's"):
        reach.heard(0.0, name, OWN, (IPV6,), OWN)
    assert reach.worth_calling(OWN) == (IPV6,)


def test_what_most_of_them_say_counts() -> None:
    """Mallory says the contrary, under two names of one network."""
    reach = Reach(0.0)
    reach.heard(0.0, "bob's", OWN, (IPV6,), (LAN, IPV6))
    reach.heard(0.0, "carol's", OWN, (IPV6,), (LAN, IPV6))
    for _ in range(2):
        reach.heard(0.0, "mallory's", OWN, (VPN, LAN), OWN)
    assert reach.verdict is Verdict.REACHED
    assert reach.told(OWN) == (VPN, IPV6), "nobody else has tried the VPN's"
    reach.heard(0.0, "bob's", OWN, (IPV6,), OWN)
    assert reach.told(OWN) == (IPV6,)


def test_a_voice_counts_once_and_old_ones_are_forgotten() -> None:
    reach = Reach(0.0)
    for _ in range(9):
        reach.heard(0.0, "mallory's", OWN, (), OWN)
    for name in ("bob's", "carol's"):
        reach.heard(0.0, name, OWN, (LAN,), OWN)
    told = reach.verdict
    assert reach.told(OWN) == (LAN,) and told is Verdict.REACHED
    for number in range(MAX_VOICES):
        reach.heard(0.0, f"network {number}", OWN, (), OWN)
    assert reach.verdict is Verdict.UNREACHED and reach.told(OWN) == (LAN,)


def test_an_address_that_nobody_could_try_is_not_unreached() -> None:
    """Bob lives far away, and does not call what is nearby."""
    reach = Reach(0.0)
    reach.heard(0.0, "bob's", OWN, (), ())
    assert reach.verdict is Verdict.UNKNOWN


def cut_off(reach: Reach) -> bool:
    return reach.is_cut_off


def families(reach: Reach) -> list[int]:
    return list(reach.cut_off)


def test_whom_those_far_away_do_not_reach_is_cut_off_though_his_neighbours_reach_him() -> None:
    """And still is when a relay has given him an address; he is not once carol reaches him without."""
    reach, given = Reach(0.0), "tcp://203.0.113.1:40000"
    assert not cut_off(reach)
    reach.heard(0.0, "alice, next door", (LAN,), (LAN,), (LAN,))
    assert not cut_off(reach)
    reach.heard(1.0, "carol's", (LAN,), (), (), far=True)
    assert cut_off(reach) and reach.verdict is Verdict.REACHED and reach.told((LAN,)) == (LAN,)
    own = (LAN, given)
    reach.ask_now(2.0, own)
    assert reach.due(2.0)
    reach.discount((given,))
    reach.heard(2.0, "carol's", own, (given,), (given,), far=True)
    assert reach.told(own) == own and cut_off(reach)
    reach.ask_now(3.0, (LAN,))
    assert not reach.is_reached(given)
    reach.heard(3.0, "carol's", (LAN, IPV6), (IPV6,), (IPV6,), far=True)
    assert not cut_off(reach)
    reach.moved(4.0)
    assert not reach.is_far and reach.told((LAN, IPV6)) == (LAN,)


def test_in_a_new_place_what_was_said_of_relays_counts_and_nothing_else() -> None:
    """They are where they were. Whether anybody reaches us without them nobody knows."""
    reach, given = Reach(0.0), "tcp://203.0.113.1:40000"
    own = (LAN, IPV6, given)
    reach.discount((given,))
    reach.heard(0.0, "carol's", own, (IPV6, given), own, far=True)
    assert reach.is_open and reach.told(own) == (IPV6, given)
    reach.moved(1.0, (given,))
    assert reach.told((VPN, given)) == (given,) and (reach.is_open, cut_off(reach)) == (False, False)
    reach.heard(2.0, "carol's", (VPN, given), (given,), (given,), far=True)
    assert (reach.is_open, cut_off(reach)) == (False, True)


def test_of_a_family_they_alone_are_heard_who_have_it() -> None:
    """Dave has IPv6 alone, carol IPv4 alone: what neither can call neither speaks of."""
    v4, v6 = "tcp://11.9.9.9:29170", "tcp://[2a11:9::9]:29170"
    reach, own = Reach(0.0), (v6, v4)
    reach.heard(0.0, "carol's", own, (v4,), (v4,), far=True)
    assert not families(reach) and reach.told(own) == (v4,), "nobody has called the other one yet"
    reach.heard(1.0, "dave's", own, (), (v6,), far=True)
    assert families(reach) == [6] and not cut_off(reach)
    reach.heard(2.0, "dave's", own, (v6,), (v6,), far=True)
    assert not families(reach) and reach.told(own) == own
    reach.heard(3.0, "dave's", (v4,), (), (), far=True)
    reach.moved(3.0)
    reach.heard(4.0, "carol's", (v4,), (v4,), (v4,), far=True)
    assert families(reach) == [6], "there is no address of that family at all"


def test_who_is_seen_in_carol_s_network_and_has_another_family_does_not_unsay_her_word() -> None:
    """Bob is reached by way of her relay, and has IPv4 alone: his word is one with hers."""
    v6, given = "tcp://[2a11:9::9]:29170", "tcp://[2a11:1::1]:40000"
    reach, own = Reach(0.0), (v6, given)
    reach.discount((given,))
    reach.heard(0.0, "carol's", own, (given,), own, far=True)
    reach.heard(1.0, "carol's", own, (), (), far=True)
    assert reach.cut_off == (4, 6) and reach.is_reached(given)
    reach.heard(2.0, "carol's", (given,), (), (), far=True)
    reach.heard(3.0, "carol's", own, (), (), far=True)
    assert families(reach) == [4], "of an address that has gone meanwhile nothing is kept"


def test_whom_nobody_at_all_reaches_is_cut_off() -> None:
    reach = Reach(0.0)
    reach.heard(0.0, "carol's", (LAN,), (), (), far=True)
    assert reach.verdict is Verdict.UNREACHED and cut_off(reach)
    reach = Reach(0.0)
    reach.heard(0.0, "alice, next door", (LAN,), (), (LAN,))
    assert reach.verdict is Verdict.UNREACHED and cut_off(reach) and reach.is_unreached(LAN)


@pytest.mark.parametrize(("reached", "again_s"), [((LAN,), REACHED_S), ((), UNREACHED_S)])
def test_when_they_are_asked(reached: tuple[str, ...], again_s: float) -> None:
    reach = Reach(10.0)
    assert not reach.due(10.0) and reach.due(10.0 + FIRST_S)
    reach.asking(11.0)
    for name in ("bob's", "carol's"):
        reach.heard(12.0, name, OWN, reached, OWN)
    assert not reach.due(12.0) and reach.due(11.0 + ASK_AGAIN_S), "two may be wrong"
    reach.heard(21.0, "dave's", OWN, reached, OWN)
    assert not reach.due(21.0 + again_s - 1) and reach.due(21.0 + again_s)
    reach.moved(30.0)
    assert reach.due(30.0 + FIRST_S) and reach.verdict is Verdict.UNKNOWN


def is_due(reach: Reach, now: float) -> bool:
    reach.asking(now)
    for name, is_left in (("bob's", False), ("carol's", True), ("dave's", False)):
        reach.heard(now + 1, name, OWN, (LAN,), (LAN,), is_left=is_left)
    return reach.due(now + 1 + ASK_AGAIN_S)


def test_who_is_not_through_with_calling_is_asked_again_soon_but_not_for_ever() -> None:
    """Carol still called the others when she had reached one; or she says so each time."""
    reach = Reach(0.0)
    assert [is_due(reach, 100.0 * number) for number in range(MAX_HASTY + 3)] == [True] * MAX_HASTY + [False] * 3
    reach.moved(1000.0)
    assert is_due(reach, 1000.0)


def test_who_is_reached_by_relays_alone_asks_again_as_soon_as_who_is_not_reached() -> None:
    reach = Reach(0.0)
    reach.discount((VPN,))
    for name in ("bob's", "carol's", "dave's"):
        reach.heard(0.0, name, OWN, (VPN,), OWN, far=True)
    assert reach.verdict is Verdict.REACHED and not reach.due(UNREACHED_S - 1) and reach.due(UNREACHED_S)


def test_what_is_no_address_of_ours_any_more_does_not_count() -> None:
    reach = Reach(0.0)
    reach.heard(0.0, "bob's", OWN, (LAN,), OWN)
    reach.heard(1.0, "bob's", (VPN,), (), (VPN,))
    assert reach.verdict is Verdict.UNREACHED and reach.told((VPN,)) == (VPN,)


# --- over real sockets


async def test_alice_learns_at_which_of_her_addresses_others_reach_her(begin: Begin) -> None:
    """She has two, of which the first leads nowhere: a bridge to her containers, say."""
    bob, carol = await begin("bob"), await begin("carol")
    nowhere = elsewhere()
    alice = await begin("alice", port=True, advertise=[nowhere])
    real = alice.contact.addresses[1]
    await carol.join(bob.contact)
    await alice.join(bob.contact, carol.contact)
    assert alice.discovery.contact.addresses == (nowhere,), "nobody has said yet"
    assert [one.reached for one in alice.discovery.checks.info().addresses] == [None, None]
    await until(lambda: alice.discovery.reach.verdict is Verdict.REACHED)
    await asyncio.wait_for(alice.discovery.checks.until_usable(), 10)
    await until(lambda: alice.discovery.contact.addresses == (real,))
    info = alice.discovery.checks.info()
    assert [one.reached for one in info.addresses] == [False, True] and info.seen_at == ("127.0.0.1",)
    assert info.num_peers == info.num_able == 2 and info.is_known and not info.is_cut_off
    assert alice.contact.addresses == (nowhere, real), "her greeting names both: others are not where these are"


async def test_who_is_not_reached_is_told(begin: Begin) -> None:
    bob = await begin("bob")
    alice = await begin("alice", advertise=[elsewhere()])
    await alice.join(bob.contact)
    await until(lambda: alice.discovery.reach.verdict is Verdict.UNREACHED)
    assert not alice.discovery.checks.is_usable


async def test_bob_says_where_he_sees_her_and_calls_no_port_of_a_service(begin: Begin) -> None:
    bob, alice = await begin("bob"), await begin("alice")
    alice.rpc.transport.introduce(bob.contact)
    asked = (*alice.contact.addresses, "tcp://127.0.0.1:22")
    answer, _ = await alice.rpc.request(bob.id, FindMe(asked), timeout_s=8)
    assert answer == Reached("127.0.0.1", alice.contact.addresses, alice.contact.addresses)
    assert alice.rpc.transport.can(bob.id, REACH) and bob.rpc.transport.can(alice.id, REACH)
    handler = bob.rpc._on_request[FindMe]
    with pytest.raises(PeerMisbehaved):
        await handler(alice.id, FindMe(("http://127.0.0.1:7000",)), [])


async def test_bob_says_nothing_of_addresses_to_which_he_knows_no_way(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "may_lead", lambda host: ":" not in host)
    bob, alice = await begin("bob"), await begin("alice")
    alice.rpc.transport.introduce(bob.contact)
    own, other = alice.contact.addresses[0], "tcp://[::1]:29170"
    answer, _ = await alice.rpc.request(bob.id, FindMe((other, own)), timeout_s=8)
    assert answer == Reached("127.0.0.1", (own,), (own,))


@pytest.mark.parametrize("source", ["\x1b[2J", "fe80::1%\x1b[2J"])
async def test_mallory_s_word_for_another_address_is_not_taken(begin: Begin, source: str) -> None:
    """She says that alice is reached where alice is not at all, and seen where nobody is."""

    async def lies(peer: bytes, message: FindMe, buffers: list[bytes]) -> Response:
        return Reached(source, ("tcp://192.0.2.1:29170",), ()), ()

    mallory, alice = await begin("mallory"), await begin("alice")
    mallory.rpc.on_request(FindMe, lies)
    await alice.join(mallory.contact)
    await until(lambda: bool(mallory.rpc.sent.get("Reached")))
    await alice.rpc.ping(mallory.id, timeout_s=5)  # what she said before has been heard
    assert alice.discovery.contact == alice.contact and alice.discovery.reach.verdict is Verdict.UNKNOWN
    assert alice.discovery.checks.info().seen_at == ()

"""Fair shares: of what alice, bob and mallory want at once, and of what there is."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from hypothesis import given
from hypothesis import strategies as st

from dsdnode.accounts import ASKED_S, Account, Asking, Shares, in_turn

HERS = "198.51.100.0/24"
ALICE, BOB = Account(b"alice", "192.0.2.0/24"), Account(b"bob", "203.0.113.0/24")
NEIGHBOUR = Account(b"carol", HERS)


def mallory(name: int) -> Account:
    return Account(b"mallory %d" % name, HERS)


def test_one_who_has_it_all_gives_way_to_whoever_asks() -> None:
    shares = Shares(8, [(mallory(0), 8)])
    assert shares.over(ALICE, 1) == [mallory(0)]
    assert shares.over(NEIGHBOUR, 1) == [mallory(0)]
    assert shares.over(ALICE, 4) == [mallory(0)]
    assert shares.over(ALICE, 5) == []  # more than her half


def test_many_names_are_one_network() -> None:
    shares = Shares(8, [(mallory(name), 1) for name in range(8)])
    assert set(shares.over(ALICE, 4)) == {mallory(name) for name in range(8)}
    assert shares.over(ALICE, 5) == []
    assert shares.over(mallory(9), 1) == []  # names are for nothing


def test_a_neighbour_has_a_share_of_the_network_s_share() -> None:
    shares = Shares(8, [(ALICE, 4), (mallory(0), 3), (mallory(1), 1)])
    assert shares.over(NEIGHBOUR, 1) == [mallory(0)]
    assert shares.over(NEIGHBOUR, 2) == []
    assert shares.over(mallory(0), 1) == []


def test_names_next_door_are_one_address() -> None:
    """However many she has, and however they work: carol has an address of her own, and mallory four."""
    carol = Account(b"carol", HERS, "198.51.100.7")
    for num_addresses in (1, 4, 7):
        hers = [Account(b"%d" % name, HERS, f"198.51.100.{66 + name % num_addresses}") for name in range(80)]
        full = Shares(8, [(one, 1) for one in hers[:8]])
        assert {one.address for one in full.over(carol, 1)} <= {one.address for one in hers}
        assert full.over(carol, 1)
        assert full.over(hers[9], 1) == []
    assert Shares(8, [(one, 1) for one in hers[:7]] + [(carol, 1)]).over(hers[8], 1) == []


def test_at_an_address_each_owner_has_a_share_of_its_share() -> None:
    at_home = [Account(b"%d" % one, HERS, "198.51.100.7") for one in range(3)]
    shares = Shares(8, [(ALICE, 4), (at_home[0], 3), (at_home[1], 1)])
    assert shares.over(at_home[2], 1) == [at_home[0]]
    assert shares.over(at_home[2], 2) == []
    assert shares.heaviest() == [ALICE, at_home[0], at_home[1]]


def test_addresses_take_turns_too() -> None:
    carol, hers = Account(b"carol", HERS, "7"), [Account(b"%d" % name, HERS, "66") for name in range(3)]
    order = in_turn([*hers, carol, ALICE], lambda one: one)
    assert order == [hers[0], ALICE, carol, hers[1], hers[2]]


def test_who_has_no_more_than_a_share_never_gives_way() -> None:
    shares = Shares(8, [(ALICE, 2), (BOB, 1), (mallory(0), 5)])
    assert shares.over(mallory(1), 3) == []
    assert shares.over(BOB, 1) == [mallory(0)]
    assert shares.over(BOB, 2) == [mallory(0)]


def test_who_wants_little_leaves_the_rest_to_the_others() -> None:
    """Of 4096 alice may have 3000 while bob needs 90, however many there are."""
    shares = Shares(4096, [(BOB, 90), (mallory(0), 4000)])
    assert shares.over(ALICE, 2003) == [mallory(0)]
    assert shares.over(ALICE, 2004) == []


def test_an_owner_with_a_long_line_does_not_lose_it_to_one_that_asks_for_as_much() -> None:
    assert Shares(4096, [(ALICE, 2100)]).over(BOB, 2100) == []


def test_the_heaviest_comes_first() -> None:
    shares = Shares(9, [(ALICE, 3), (mallory(0), 1), (mallory(1), 3), (BOB, 2)])
    assert shares.heaviest() == [mallory(1), mallory(0), ALICE, BOB]


NAMES = st.builds(
    Account,
    st.sampled_from([b"1", b"2", b"3"]),
    st.sampled_from(["here", "there", "yonder"]),
    st.sampled_from(["7", "66"]),
)
LEVELS: tuple[Callable[[Account], Hashable], ...] = (
    lambda one: one.network,
    lambda one: one.place,
    lambda one: one,
)
HELD = st.lists(st.tuples(NAMES, st.integers(1, 5)), min_size=1, max_size=9)


@given(HELD, NAMES, st.integers(1, 5))
def test_whoever_gives_way_has_more_than_whoever_gets(
    held: list[tuple[Account, int]], asker: Account, more: int
) -> None:
    """Of his own, or his address's, or his network's; so the place does not go to and fro."""
    capacity = sum(amount for _, amount in held)
    for other in Shares(capacity, held).over(asker, more):
        assert other != asker
        level = next(level for level in LEVELS if level(other) != level(asker))
        mine = more + sum(n for one, n in held if level(one) == level(asker))
        theirs = sum(n for one, n in held if level(one) == level(other))
        assert theirs > mine


@given(HELD)
def test_somebody_new_is_always_entitled_to_a_little(held: list[tuple[Account, int]]) -> None:
    everything = 10 * sum(amount for _, amount in held)
    full = [*held, (mallory(0), everything - sum(amount for _, amount in held))]
    assert Shares(everything, full).over(ALICE, 1)


def test_networks_take_turns_and_in_each_its_owners() -> None:
    runs = [(mallory(0), 1), (mallory(0), 2), (mallory(1), 3), (NEIGHBOUR, 4), (ALICE, 5), (ALICE, 6), (BOB, 7)]
    order = in_turn(runs, lambda run: run[0])
    assert [number for _, number in order] == [1, 5, 7, 3, 6, 4, 2]


def test_what_is_larger_than_others_ask_for_stays_within_a_share_while_they_do() -> None:
    shares, asking = Shares(4096, [(mallory(0), 1000), (ALICE, 90)]), {ALICE.network: 90.0, HERS: 1000.0}
    assert shares.is_modest(mallory(1), 1048, asking)
    assert not shares.is_modest(mallory(1), 1049, asking)
    assert shares.is_modest(mallory(1), 3000, {HERS: 1000.0})  # nobody else wants any
    assert shares.is_modest(BOB, 3000, asking)  # he has nothing yet


def test_who_asks_for_no_more_than_others_do_may_have_it_while_there_is_room() -> None:
    """Ten of one house beside one of another, and carol beside mallory."""
    house = [(Account(b"%d" % number, BOB.network), 600) for number in range(9)]
    asking = {ALICE.network: 610.0, BOB.network: 600.0, HERS: 2500.0}
    shares = Shares(8192, [*house, (mallory(0), 2500), (ALICE, 90)])
    assert shares.is_modest(Account(b"the tenth", BOB.network), 600, asking)
    assert shares.is_modest(NEIGHBOUR, 90, asking)
    assert not shares.is_modest(mallory(1), 2500, {**asking, BOB.network: 600.0})


def test_who_asked_a_while_ago_does_not_ask_any_more() -> None:
    asking = Asking()
    asking.asks(HERS, 0.0, 900)
    asking.asks(ALICE.network, 1.0, 90)
    asking.asks(ALICE.network, 2.0, 60)
    assert asking.lately(ASKED_S + 0.5) == {ALICE.network: 90}
    assert asking.lately(ASKED_S + 2.5) == {}

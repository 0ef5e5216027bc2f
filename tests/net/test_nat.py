"""What two or three strangers see of alice's ports, and what that says of her router."""

from __future__ import annotations

import pytest

from dsdnode.net.nat import MAX_STEP, Kind, Nat, judged, stepped

OWN = "tcp://203.0.113.7:"


def test_two_who_see_the_same_are_believed_whatever_mallory_says() -> None:
    same = Nat(Kind.SAME, address=OWN + "29170")
    assert judged([OWN + "29170"] * 2) == same
    for place in range(3):
        said = [OWN + "29170"] * 2
        said.insert(place, "tcp://198.51.100.1:29170")
        assert judged(said) == same


def test_one_alone_is_not_believed() -> None:
    assert judged([]) == judged([OWN + "29170"]) == Nat()


def test_where_no_two_see_the_same_more_has_to_be_found_out() -> None:
    assert judged([OWN + "20000", OWN + "20001"]) is None
    assert judged([OWN + "20000", "tcp://198.51.100.1:20000", OWN + "20001"]) is None


@pytest.mark.parametrize(
    ("first", "second", "nat"),
    [
        (OWN + "20000", OWN + "20001", Nat(Kind.COUNTING, 1)),
        (OWN + "20002", OWN + "20000", Nat(Kind.COUNTING, -2)),
        (OWN + "20000", OWN + f"{20000 + MAX_STEP}", Nat(Kind.COUNTING, MAX_STEP)),
        (OWN + "20000", OWN + f"{20001 + MAX_STEP}", Nat(Kind.RANDOM)),
        (OWN + "20000", "tcp://203.0.113.8:20001", Nat(Kind.RANDOM)),
        (OWN + "20000", OWN + "20000", Nat()),
    ],
    ids=("next", "backwards", "the largest step", "larger", "another address", "the same after all"),
)
def test_two_calls_begun_at_once_show_whether_ports_can_be_guessed(first: str, second: str, nat: Nat) -> None:
    assert stepped(first, second) == nat

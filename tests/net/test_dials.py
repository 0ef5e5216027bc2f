"""How often we call somewhere because others say so."""

from __future__ import annotations

from dsdnode.addresses import Nearness
from dsdnode.net.dials import PER_TARGET, PER_TEACHER, PER_TEACHER_AND_TARGET, Dials, Teacher, first_to_go

MALLORY, TRUDY, ALICE = (Teacher.seen_at(host, Nearness.WORLD, b"") for host in ("9.1.1.1", "9.2.2.2", "9.3.3.3"))


def num_allowed(dials: Dials, now: float, teacher: Teacher, *addresses: str) -> int:
    return sum(dials.allow(now, teacher, address) for address in addresses)


def victims(num: int, port: int = 5000) -> list[str]:
    return [f"tcp://8.{number >> 8}.{number & 255}.1:{port}" for number in range(num)]


def test_a_liar_has_us_call_so_many_a_minute_and_no_more() -> None:
    dials = Dials()
    assert num_allowed(dials, 0.0, MALLORY, *victims(200)) == PER_TEACHER
    assert num_allowed(dials, 60.0, MALLORY, *victims(200)) == PER_TEACHER
    assert num_allowed(dials, 60.0, ALICE, *victims(5)) == 5


def test_her_many_names_of_one_network_are_one_liar() -> None:
    dials = Dials()
    names = [Teacher.seen_at(f"9.1.1.{number}", Nearness.WORLD, b"%d" % number) for number in range(100)]
    assert sum(dials.allow(0.0, name, address) for name in names for address in victims(40)) == PER_TEACHER


def test_many_liars_do_not_flood_one_target_whatever_the_port() -> None:
    dials = Dials()
    liars = [Teacher.seen_at(f"9.1.{number}.1", Nearness.WORLD, b"") for number in range(100)]
    ports = [f"tcp://8.8.8.8:{2000 + number}" for number in range(100)]
    assert sum(num_allowed(dials, 0.0, liar, *ports) for liar in liars) == PER_TARGET


def test_one_liar_who_names_a_target_again_and_again_has_it_called_a_few_times() -> None:
    """And who comes next with an honest word for it is believed."""
    dials = Dials()
    assert num_allowed(dials, 0.0, MALLORY, *["tcp://8.8.8.8:5000"] * 200) == PER_TEACHER_AND_TARGET
    assert dials.allow(0.0, ALICE, "tcp://8.8.8.8:29170")
    assert num_allowed(dials, 0.0, MALLORY, *victims(100)) == PER_TEACHER - PER_TEACHER_AND_TARGET
    assert num_allowed(dials, 60.0, MALLORY, *["tcp://8.8.8.8:5000"] * 200) == PER_TEACHER_AND_TARGET


def test_calls_that_are_answered_are_free() -> None:
    dials = Dials()
    for address in victims(500):
        assert dials.allow(0.0, ALICE, address)
        dials.answered(0.0, ALICE, address)
    assert num_allowed(dials, 0.0, ALICE, *victims(200)) == PER_TEACHER


def test_neighbours_on_one_machine_pay_each_for_itself_and_each_port_is_a_target() -> None:
    dials = Dials()
    here = [Teacher.seen_at("127.0.0.1", Nearness.HERE, b"%d" % number) for number in range(4)]
    ports = [f"tcp://127.0.0.1:{2000 + number}" for number in range(100)]
    assert [num_allowed(dials, 0.0, one, *ports) for one in here] == [PER_TEACHER] * 4


def test_of_too_many_links_calls_go_first_where_they_are_half_of_them() -> None:
    assert first_to_go(["bob", "carol", "?1", "dave", "?2"], lambda one: one[0] == "?") == "bob"
    assert first_to_go(["bob", "?1", "carol", "?2"], lambda one: one[0] == "?") == "?1"
    assert first_to_go(["?1", "?2"], lambda one: one[0] == "?") == "?1"

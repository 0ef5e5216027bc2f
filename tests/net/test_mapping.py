"""Alice's router is asked for a port: what she says when, and what she makes of every kind of answer."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from dsdnode.net.mapping import AGAIN_S, LEASE_S, LOOK_S, RETRY_S, Mapped, Mapping
from dsdnode.net.pcp import Request, has_started_again
from tests.net.routers import PUBLIC_IP, FakeRouter

BOTH, PCP, PMP = ("PCP", "NAT-PMP"), ("PCP",), ("NAT-PMP",)
REQUEST = Request("192.168.1.10", 29170, b"n" * 12)


def asked(router: FakeRouter, mapping: Mapping | None = None, now: float = 0.0) -> Mapping:
    """What Alice has after all that there is to be said at once."""
    mapping = mapping or Mapping(REQUEST, now)
    for _ in range(10):
        if not (messages := mapping.tick(now)):
            break
        for message in messages:
            for answer in router.answers(message):
                mapping.heard(now, answer)
    return mapping


@pytest.mark.parametrize("speaks", [BOTH, PCP, PMP])
def test_alice_gets_a_port_of_whatever_router_she_has(speaks: tuple[str, ...]) -> None:
    router = FakeRouter(speaks)
    mapping = asked(router)
    assert mapping.mapped == Mapped(PUBLIC_IP, 29170, LEASE_S)
    assert router.ports == {29170: 29170}
    assert mapping.why_not == ""


@pytest.mark.parametrize("speaks", [PCP, PMP])
def test_the_port_that_is_granted_counts_and_is_asked_for_from_then_on(speaks: tuple[str, ...]) -> None:
    router = FakeRouter(speaks, taken={29170})
    mapping = asked(router)
    assert mapping.mapped == Mapped(PUBLIC_IP, 29171, LEASE_S)
    router.taken.clear()
    assert asked(router, mapping, now=LEASE_S / 2).mapped == mapping.mapped
    assert router.ports == {29170: 29171}


@pytest.mark.parametrize("speaks", [PCP, PMP])
def test_it_is_renewed_at_half_of_the_lease_and_gone_after_a_whole_one_without_an_answer(
    speaks: tuple[str, ...],
) -> None:
    router = FakeRouter(speaks, lifetime_s=40)
    mapping = asked(router)
    assert (mapping.mapped, mapping.due) == (Mapped(PUBLIC_IP, 29170, 40.0), 20.0)
    asked(router, mapping, now=20.0)
    assert mapping.due == 40.0
    seen = [mapping.due]
    while mapping.mapped:
        mapping.tick(mapping.due)
        seen.append(mapping.due)
    assert 60.0 in seen, "she keeps what she has until its end"
    assert seen[:5] == [40.0, 40.25, 40.75, 41.75, 43.75]
    assert len(seen) < 40
    assert "does not answer any more" in mapping.why_not


def test_a_router_that_is_silent_is_given_up_after_seconds_and_asked_again_after_minutes() -> None:
    mapping = Mapping(REQUEST, 0.0)
    said = []
    while not mapping.is_settled:
        said.append((mapping.due, len(mapping.tick(mapping.due))))
    assert said == [(0.0, 2), (0.25, 2), (0.75, 2), (1.75, 2), (3.75, 0)]
    assert mapping.why_not == "no router answers that would give us a port"
    assert mapping.due == 3.75 + RETRY_S
    assert asked(FakeRouter(), mapping, now=mapping.due).mapped == Mapped(PUBLIC_IP, 29170, LEASE_S)


def test_where_nobody_listens_that_is_known_at_once() -> None:
    mapping = Mapping(REQUEST, 0.0)
    mapping.tick(0.0)
    mapping.refused(0.001)
    assert mapping.is_settled
    assert mapping.due == 0.001 + RETRY_S
    mapping.refused(0.002)  # of the second question
    assert mapping.due == 0.001 + RETRY_S


def test_a_router_that_answers_nat_pmp_alone_and_ignores_pcp_is_spoken_to_by_that() -> None:
    router = FakeRouter(PMP)
    mapping = Mapping(REQUEST, 0.0)
    for message in mapping.tick(0.0)[1:]:  # the first one is PCP's
        for answer in router.answers(message):
            mapping.heard(0.0, answer)
    assert asked(router, mapping, now=0.25).mapped == Mapped(PUBLIC_IP, 29170, LEASE_S)


@pytest.mark.parametrize(
    ("speaks", "result", "words"),
    [
        (PCP, 2, "switch on UPnP"), (PCP, 8, "no port to give"), (PCP, 99, "result 99"), (PMP, 2, "switch on UPnP"),
        (PMP, 3, "no outside address"), (PMP, 77, "result 77"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_words(speaks: tuple[str, ...], result: int, words: str) -> None:
    router = FakeRouter(speaks, result=result)
    mapping = asked(router)
    assert words in mapping.why_not
    assert mapping.due == RETRY_S
    router.result = 0
    assert asked(router, mapping, now=RETRY_S).mapped
    assert mapping.why_not == ""


@pytest.mark.parametrize("speaks", [PCP, PMP])
@pytest.mark.parametrize("host", ["192.168.0.2", "100.64.7.2", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"])
def test_an_address_that_means_nothing_to_others_is_no_candidate(speaks: tuple[str, ...], host: str) -> None:
    mapping = asked(FakeRouter(speaks, public_ip=host))
    assert mapping.mapped is None
    assert f"address is {host}, not a public one" in mapping.why_not


@pytest.mark.parametrize("speaks", [PCP, PMP])
def test_ports_of_machines_and_leases_of_moments_are_not_taken(speaks: tuple[str, ...]) -> None:
    low = Mapping(Request("192.168.1.10", 80, b"n" * 12), 0.0)
    assert "gives port 80" in asked(FakeRouter(speaks), low).why_not
    assert "too short" in asked(FakeRouter(speaks, lifetime_s=7)).why_not
    assert asked(FakeRouter(speaks, lifetime_s=(1 << 32) - 1)).mapped.lifetime_s == LEASE_S


def other_nonce(answer: bytes) -> list[bytes]:
    return [answer[:24] + b"x" * 12 + answer[36:]] if len(answer) == 60 else []


def other_port(answer: bytes) -> list[bytes]:
    if answer[0] == 2:
        return [answer[:40] + struct.pack(">H", 1) + answer[42:]] if len(answer) == 60 else []
    return [answer[:8] + struct.pack(">H", 1) + answer[10:]] if len(answer) == 16 else [answer]


def every_size(answer: bytes) -> list[bytes]:
    pad = answer + bytes(1200)
    return [pad[:size] for size in range(1200) if size not in (12, 16) and not (60 <= size <= 1100 and size % 4 == 0)]


def question(answer: bytes) -> list[bytes]:
    return [bytes((answer[0], answer[1] - 128)) + answer[2:]]


@pytest.mark.parametrize("speaks", [PCP, PMP])
@pytest.mark.parametrize("garble", [other_nonce, other_port, every_size, question], ids=lambda one: one.__name__)
def test_what_is_no_answer_to_alice_is_ignored(speaks: tuple[str, ...], garble: Callable[[bytes], list[bytes]]) -> None:
    mapping = asked(FakeRouter(speaks, garble=garble))
    assert mapping.mapped is None
    assert not mapping.is_settled
    mapping.heard(0.0, b"")


@pytest.mark.parametrize("speaks", [PCP, PMP])
def test_a_router_that_has_started_again_is_asked_again(speaks: tuple[str, ...]) -> None:
    router = FakeRouter(speaks)
    mapping = asked(router)
    assert mapping.due == LOOK_S
    router.epoch_s += int(LOOK_S)
    asked(router, mapping, now=LOOK_S)
    assert mapping.due == 2 * LOOK_S, "all is well"
    router.ports.clear()
    router.epoch_s = 3
    asked(router, mapping, now=2 * LOOK_S)
    assert router.ports == {29170: 29170}
    assert mapping.mapped == Mapped(PUBLIC_IP, 29170, LEASE_S)


def test_news_of_a_router_has_alice_ask_but_not_more_often_than_every_ten_seconds() -> None:
    router = FakeRouter()
    mapping = asked(router)
    num = 0
    for step in range(1000):
        now = 20.0 + step / 10
        mapping.announced(now, struct.pack(">BBHI4x", 0, 128, 0, step % 2 * 100_000))
        before = len(router.heard)
        asked(router, mapping, now=now)
        num += len(router.heard) > before
    assert 9 <= num <= 100 / AGAIN_S + 1


@pytest.mark.parametrize("speaks", [PCP, PMP])
def test_a_router_that_gives_what_was_not_asked_for_is_not_heard(speaks: tuple[str, ...]) -> None:
    router = FakeRouter(speaks)
    mapping = asked(router)
    for port in range(30000, 30100):
        for message in (REQUEST.pcp_map(LEASE_S, PUBLIC_IP, port), REQUEST.pmp_map(LEASE_S, port)):
            for answer in router.answers(message):
                mapping.heard(1.0, answer)
        assert mapping.mapped == Mapped(PUBLIC_IP, 29170, LEASE_S)
    assert asked(router, mapping, now=LEASE_S / 2).mapped == mapping.mapped


@pytest.mark.parametrize("speaks", [BOTH, PCP, PMP])
def test_a_port_is_given_back(speaks: tuple[str, ...]) -> None:
    router = FakeRouter(speaks)
    mapping = asked(router)
    assert router.ports
    answers = [answer for message in mapping.removal() for answer in router.answers(message)]
    assert router.ports == {}
    assert any(mapping.is_removed(answer) for answer in answers)
    assert Mapping(REQUEST, 0.0).removal() == []


@pytest.mark.parametrize(
    ("theirs", "ours", "started"),
    [(100, 100, False), (0, 0, False), (-1, 5, True), (-1, 0, False), (90, 100, True), (93, 100, False), (0, 100, True),
     (120, 100, True)],
)  # fmt: skip
def test_whether_a_clock_has_started_again(theirs: float, ours: float, started: bool) -> None:
    assert has_started_again((500.0, 50.0), (500.0 + theirs, 50.0 + ours)) is started

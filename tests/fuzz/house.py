"""What a home's own network says: its router, when it is asked for a port, and who else is in the house."""

from __future__ import annotations

from dsdnode.addresses import LOWEST_PORT, Nearness, nearness
from dsdnode.net import beacon, mapping, pcp
from dsdnode.net.beacon import MAX_CONTACT_BYTES, MAX_DATAGRAM_BYTES, Neighbours
from dsdnode.net.mapping import LEASE_S, MIN_RENEW_S, Mapping
from dsdnode.net.pcp import MAX_ANSWER_BYTES, Request
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.net.routers import FakeRouter

REQUEST = Request("192.168.1.10", 29170, b"n" * 12)
HEARD, ANNOUNCED, REFUSED = range(3)
STEPS_S = (0.0, 0.0, 0.01, 0.25, 1.0, 4.0, 60.0, 600.0)
SPEAKS = (("PCP", "NAT-PMP"), ("PCP",), ("NAT-PMP",))
PUBLIC_IPS = ("11.7.7.7", "11.7.7.7", "192.168.0.2", "127.0.0.1", "224.0.0.1", "0.0.0.0")
MAX_TICKS = 4
"""At one moment: a lease is over, another protocol is asked by, everything has been asked."""


def _router(mutator: Mutator) -> Case:
    """Datagrams, in front of each how it came and which step of time is before it."""
    router = FakeRouter(
        mutator.any_of(SPEAKS),
        mutator.any_of(PUBLIC_IPS),
        mutator.any_of((0, 0, 0, 0, 1, 2, 3, 4, 8, 255)),
        mutator.any_of((7200, 7200, 30, 7, 0, (1 << 32) - 1)),
        mutator.any_of((0, 5, 1000, (1 << 32) - 1)),
    )
    questions = (REQUEST.pcp_map(LEASE_S, "0.0.0.0", 29170), REQUEST.pmp_look(), REQUEST.pmp_map(LEASE_S, 29170))
    case = []
    for _ in range(1 + mutator.below(8)):
        said = router.answers(mutator.any_of((*questions, REQUEST.pcp_look()))) or [b"\0\x80\0\0\0\0\0\1"]
        data = mutator.scratched(said[0]) if mutator.rng.random() < 0.5 else said[0]
        router.epoch_s = mutator.any_of((router.epoch_s, 0, 77))
        case.append(bytes((mutator.any_of((HEARD, HEARD, HEARD, ANNOUNCED, REFUSED)), mutator.below(8))) + data)
    return tuple(case)


def _be_told(case: Case) -> None:
    now, asked = 0.0, Mapping(REQUEST, 0.0)
    for one in case:
        now = _wait(asked, now, STEPS_S[one[1] % len(STEPS_S)])
        if one[0] == HEARD:
            asked.heard(now, one[2:])
        elif one[0] == ANNOUNCED:
            asked.announced(now, one[2:])
        else:
            asked.refused(now)
        if asked.mapped:
            assert nearness(asked.mapped.host) is Nearness.WORLD, "an address that means nothing to others"
            assert LOWEST_PORT <= asked.mapped.port < 65536
            assert 2 * MIN_RENEW_S <= asked.mapped.lifetime_s <= LEASE_S
            assert not asked.why_not
        asked.is_removed(one[2:])
        assert len(asked.removal()) <= 2
    now = _wait(asked, now, 2 * LEASE_S)
    assert asked.is_settled, "it is not known in the end whether there is a port"
    assert asked.mapped is None, "nobody has answered for two leases"


def _wait(asked: Mapping, now: float, step_s: float) -> float:
    """Time goes by; whatever is due then is done."""
    until = now + step_s
    num = 0
    while asked.due <= until:
        num = num + 1 if asked.due <= now else 0
        assert num <= MAX_TICKS, "it is asked without end"
        now = max(now, asked.due)
        assert len(asked.tick(now)) <= 2
    return until


BOBS = "192.168.1.11"
HOSTS = (BOBS, BOBS, "192.168.1.255", "192.168.2.1", "8.8.8.8", "", "nowhere", "::1", "192.168.1.11%eth0")


def _beacon(mutator: Mutator) -> Case:
    swarm = mutator.any_of(("open", "open", "another"))
    contact = mutator.any_of((b"", b"bob's contact", bytes(MAX_CONTACT_BYTES)))
    alice, bob = Neighbours(("open",), b"alice's contact"), Neighbours((swarm,), contact)
    alice.networks = bob.networks = ("192.168.1.0/24",)
    [said] = bob.questions()
    if mutator.rng.random() < 0.3:
        said = alice.hear(0.0, said, BOBS)[0] or said
    if mutator.rng.random() < 0.7:
        said = mutator.scratched(said)
    return said, mutator.any_of(HOSTS).encode()


def _hear(case: Case) -> None:
    said, host = case[0], case[1].decode()
    alice = Neighbours(("open",), b"alice's contact")
    alice.networks = ("192.168.1.0/24",)
    answer, contact = alice.hear(0.0, said, host)
    if answer or contact:
        assert host.startswith("192.168.1."), "from beyond the house"
        assert beacon.tag_of("open") in said[:30], "of another swarm"
    assert len(answer) <= MAX_DATAGRAM_BYTES
    assert len(contact) <= MAX_CONTACT_BYTES
    assert contact in said
    if answer:
        assert alice.hear(0.0, answer, host) == (b"", b""), "an answer is answered"


PARSERS = (
    Parser(
        "router", _router, _be_told, (), (Mapping, mapping._what_is_wrong, Request, pcp.has_started_again),
        lambda case: all(8 <= len(one) - 2 <= MAX_ANSWER_BYTES for one in case),
    ),
    Parser(
        "beacon", _beacon, _hear, (), (Neighbours,),
        lambda case: len(case[0]) <= MAX_DATAGRAM_BYTES,
    ),
)  # fmt: skip

from __future__ import annotations

import pytest

from dsdnode import accounts
from dsdnode.net import zap
from dsdnode.net.zap import CONNECTIONS_BURST, CONNECTIONS_PER_S, LOCKDOWN_S, REFUSAL_COST, Gate

ALICE, MALLORY = b"a" * 32, b"m" * 32


def test_a_ban_ends() -> None:
    gate = Gate()
    gate.ban(0.0, MALLORY, 10.0)
    assert gate.admit(9.9, "10.0.0.1", MALLORY) == "banned"
    assert gate.admit(9.9, "10.0.0.1", ALICE) == ""
    assert gate.admit(10.1, "10.0.0.1", MALLORY) == ""


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [("10.0.0.1", "10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")],
)
def test_a_rate_for_each_address(address: str, same: str, other: str) -> None:
    gate = Gate()
    assert all(gate.admit(0.0, address, MALLORY) == "" for _ in range(CONNECTIONS_BURST))
    assert "too many" in gate.admit(0.0, same, MALLORY)
    assert gate.admit(0.0, other, ALICE) == ""
    assert gate.admit(1.1 / CONNECTIONS_PER_S, same, MALLORY) == ""
    assert "too many" in gate.admit(1.1 / CONNECTIONS_PER_S, same, MALLORY)


def test_when_memory_was_filled_only_the_known_come_in() -> None:
    gate = Gate()
    gate.know(ALICE)
    gate.lock(5.0)
    assert gate.admit(6.0, "10.0.0.1", ALICE) == ""
    assert gate.admit(6.0, "10.0.0.1", MALLORY) == "full"
    assert gate.admit(5.1 + LOCKDOWN_S, "10.0.0.1", MALLORY) == ""


def test_when_one_network_filled_the_memory_strangers_of_that_wait() -> None:
    gate = Gate()
    gate.know(ALICE)
    gate.lock(5.0, "198.51.100.0/24")
    assert gate.admit(6.0, "198.51.100.7", MALLORY) == "full"
    assert gate.admit(6.0, "198.51.100.7", ALICE) == ""
    assert gate.admit(6.0, "198.51.101.7", b"c" * 32) == ""
    assert gate.admit(5.1 + LOCKDOWN_S, "198.51.100.7", MALLORY) == ""


def test_a_refused_greeting_costs_its_address_as_much_as_eight_connections() -> None:
    gate = Gate()
    for _ in range(round(CONNECTIONS_BURST / (1 + REFUSAL_COST))):
        assert gate.admit(0.0, "10.0.0.1", MALLORY) == ""
        gate.refused(0.0, "10.0.0.1")
    assert "too many" in [gate.admit(0.0, "10.0.0.1", MALLORY) for _ in range(6)][-1]
    assert gate.admit(0.0, "10.0.0.2", ALICE) == ""
    assert gate.admit(1.0, "10.0.0.1", ALICE) == "", "and that is over in a second"


def test_a_relay_that_lies_about_alice_takes_nothing_from_calls_of_her_own() -> None:
    """Mallory's relay makes the circuits itself, as many as it may, and greets wrongly in each."""
    gate, mallory, rose = Gate(), b"m" * 32, b"r" * 32
    num, now = 0, 0.0
    for number in range(8 * 60):
        now = number / 8
        if gate.admits_circuit(now, mallory, "11.7.7.7"):
            num += 1
            gate.comes_by(4000 + number, mallory, "11.7.7.7")
            gate.refused(now, "11.7.7.7", 4000 + number)
    assert num < CONNECTIONS_BURST, "it has nothing left"
    assert gate.admits_circuit(now, rose, "11.7.7.7") and gate.admits_circuit(now, mallory, "11.7.8.8")
    assert all(gate.admit(now, "11.7.7.7", ALICE) == "" for _ in range(CONNECTIONS_BURST))
    gate.refused(now, "11.7.7.7", 9)  # a circuit that is not remembered
    assert gate.admit(now + 1 / CONNECTIONS_PER_S, "11.7.7.7", ALICE) == ""


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (zap, accounts):
        monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    gate = Gate()
    for index in range(10):
        gate.know(b"%d" % index)
        gate.ban(0.0, b"%d" % index, 1.0)
        gate.admit(0.0, f"10.0.0.{index}", ALICE)
        gate.admits_circuit(0.0, MALLORY, f"10.0.0.{index}")
        gate.comes_by(4000 + index, MALLORY, f"10.0.0.{index}")
    assert len(gate._known) == len(gate._banned) == len(gate._credits) == 3
    assert len(gate._circuits) == len(gate._spliced) == 3
    assert gate.admit(0.5, "10.0.1.1", b"9") == "banned"

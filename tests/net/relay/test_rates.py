"""How fast circuits go: alice, carol and mallory read from in told time, one whole chunk after the other."""

from __future__ import annotations

from collections import Counter

from dsdnode.accounts import Account
from dsdnode.net.relay.rates import CHUNK_BYTES, TURN_BYTES, Flow, Rates

TICK_S = 0.01
HERS, OTHERS = Account(b"a", "198.51.100.0/24", "198.51.100.1"), Account(b"m", "203.0.113.0/24", "203.0.113.9")


def play(rates: Rates, flows: dict[str, Flow], duration_s: float, steps_s: dict[str, float]) -> Counter[str]:
    """Bytes that each had read: whoever may goes on at once, or (`steps_s`) says 200 bytes every so often."""
    got: Counter[str] = Counter()
    waiting: set[str] = set()
    due_s = dict.fromkeys(flows, 0.0)
    now = 0.0
    while now < duration_s:
        for name, flow in flows.items():
            while name not in waiting and due_s[name] <= now:
                num_bytes = 200 if name in steps_s else flow.chunk_bytes
                due_s[name] += steps_s.get(name, 0.0)
                got[name] += num_bytes
                assert num_bytes <= CHUNK_BYTES
                if not rates.took(now, flow, num_bytes):
                    waiting.add(name)
        now += TICK_S
        for flow in rates.resumed(now):
            waiting -= {name for name, one in flows.items() if one is flow}
    return got


def test_one_circuit_has_its_own_rate() -> None:
    rates = Rates(0.0, 1e9, 1e6)
    got = play(rates, {"alice": rates.open(0.0, HERS)}, 10.0, {})
    assert 10e6 <= got["alice"] <= 10.4e6


def test_all_together_have_one_rate_and_those_who_have_enough_to_say_equal_parts() -> None:
    rates = Rates(0.0, 1e6, 1e6)
    flows = {name: rates.open(0.0, HERS) for name in ("alice", "carol", "mallory")}
    got = play(rates, flows, 20.0, {})
    assert 20e6 <= got.total() <= 20.5e6
    assert max(got.values()) - min(got.values()) <= 3 * CHUNK_BYTES


def test_who_says_little_is_not_held_up_by_those_who_say_much() -> None:
    rates = Rates(0.0, 1e6, 1e6)
    flows = {name: rates.open(0.0, HERS) for name in ("alice", "carol", "mallory")}
    got = play(rates, flows, 10.0, {"alice": 0.02})
    assert got["alice"] == 200 * 500
    assert 10e6 <= got.total() <= 10.5e6


def test_many_circuits_get_mallory_no_more_than_alice_has_with_one() -> None:
    rates = Rates(0.0, 1e6, 1e6)
    next_door = Account(b"c", OTHERS.network, "203.0.113.10")
    flows = {f"mallory {number}": rates.open(0.0, OTHERS) for number in range(8)}
    flows |= {"alice": rates.open(0.0, HERS), "carol": rates.open(0.0, next_door)}
    got = play(rates, flows, 20.0, {})
    assert abs(got["alice"] - 10e6) <= 0.5e6
    assert abs(got["carol"] - 5e6) <= 0.5e6
    mallorys = [got[name] for name in flows if name.startswith("mallory")]
    assert max(mallorys) - min(mallorys) <= 3 * CHUNK_BYTES


def test_who_leaves_waits_no_more_and_a_pause_is_made_up_for_but_not_without_end() -> None:
    rates = Rates(0.0, 1e6, 1e6)
    flow, other = rates.open(0.0, HERS), rates.open(0.0, HERS)
    while rates.took(0.0, flow, flow.chunk_bytes):
        pass
    assert (rates.has_waiting, rates.resumed(0.0)) == (True, [])
    rates.close(flow)
    assert (rates.has_waiting, rates.resumed(3600.0)) == (False, [])
    num_bytes = 0
    while rates.took(3600.0, other, other.chunk_bytes):
        num_bytes += other.chunk_bytes
    assert num_bytes <= 0.25e6 + TURN_BYTES

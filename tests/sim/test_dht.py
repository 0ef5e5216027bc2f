"""The DHT of a town that loses half of its people, and of one with Sybils beside a key (at scale: tests/sim/dht.py)."""

from __future__ import annotations

import pytest

from tests.sim.dht import Terms, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("gone", [False, True])
def test_half_the_town_dies_at_once_and_lookups_still_find(gone: bool) -> None:
    """Processes that are killed refuse calls; machines that are gone let their callers wait."""
    result = run(Terms(nodes=80, lookups=150, kill=0.5, gone=gone, warm=True))
    assert result["killed"] == 40
    assert result["found"] == 1.0
    assert result["took_s"]["p99"] < (3.5 if gone else 2.5)


def test_sybils_beside_a_key_hide_nothing() -> None:
    result = run(Terms(nodes=60, lookups=60, sybils=20, warm=True))
    assert result["found"] >= 0.99


def test_the_same_town_twice() -> None:
    one, other = (run(Terms(nodes=40, lookups=40, kill=0.3, warm=True)) for _ in range(2))
    assert all(one[key] == other[key] for key in ("found", "took_s", "asked", "messages", "simulated_s"))

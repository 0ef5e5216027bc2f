"""Alice and bob are each behind a router that nobody gets through, and reach each other by way of rose."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO

import pytest

from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not
from tests.node.mutation import ROOT


def run(host: Host, who: str, rose: str) -> IO[str]:
    """What it says."""
    words = (sys.executable, "-m", "tests.nat.relayed", who, rose)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = host.popen(*words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stdout is not None
    return process.stdout


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_alice_reaches_bob_where_both_routers_have_random_ports() -> None:
    with lab() as town:
        rose, alice, bob = town.home("public"), town.home("symf"), town.home("cgnsym")
        assert run(rose, "rose", "0.0.0.0").readline() == "open\n"
        heard = run(bob, "bob", rose.public_ip)
        assert heard.readline() == "reserved\n"
        first_ms, then_ms = map(int, run(alice, "alice", rose.public_ip).readline().split())
        assert 0 <= then_ms < first_ms < 5000
        assert heard.readline() == f"{alice.public_ip}\n"
        assert heard.readline() == "parted\n"

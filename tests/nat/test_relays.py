"""Alice and bob are each behind a router that nobody gets through: carol's node relays, and nobody has told them so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dsdnode.addresses import parse_address
from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not
from tests.nat.relayed import PORT
from tests.nat.situations import only_v4, only_v6
from tests.node.mutation import ROOT


class Process:
    def __init__(self, host: Host, *words: str) -> None:
        self._process = host.popen(
            *(sys.executable, "-m", "tests.nat.relayed", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def hear(self) -> str:
        return str(self._process.stdout.readline()).strip()

    def addresses(self) -> list[str]:
        """Those of IPv4 first."""
        return sorted(self.hear().split(), key=lambda one: "[" in one)

    def ask(self, *words: str) -> str:
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        return self.hear()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_alice_and_bob_are_reached_by_way_of_carol_and_alice_reaches_bob() -> None:
    """Alice has IPv6 alone and bob IPv4 alone; what they share is that carol has both. The client lives with alice."""
    with lab() as town:
        homes = only_v6(town.home("symf")), only_v4(town.home("cgn")), town.home("public")
        own = f"tcp://{homes[2].ip}:{PORT}", f"tcp://[{homes[2].ip6}]:{PORT}"
        carol, client = Process(homes[2], "carol"), Process(homes[0], "client")
        bob, alice = Process(homes[1], "bob", own[0]), Process(homes[0], "alice", own[1])
        assert carol.hear()
        his, hers = bob.addresses(), alice.addresses()
        assert his != hers and [parse_address(one)[0] for one in his] == [homes[2].ip, homes[2].ip6]
        assert alice.ask("bob", his[1]).endswith(" ms") and bob.ask("alice", hers[0]).endswith(" ms")
        assert client.hear() == "" and client.ask("bob", his[1]).endswith(" ms")
        assert bob.ask("client") == f"{homes[0].ip6} WORLD"
        town.unplug(homes[1])
        town.plug(homes[1], town.home("prc"))
        for one in (alice, client):
            assert one.ask("bob", his[1]).endswith(" ms"), "he has moved, and is called where he was"

"""Alice and bob are each behind a router that nobody gets through: carol's node relays, and nobody has told them so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not
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

    def ask(self, *words: str) -> str:
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        return self.hear()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_alice_and_bob_are_reached_by_way_of_carol_and_alice_reaches_bob() -> None:
    with lab() as town:
        homes = town.home("symf"), town.home("cgn"), town.home("public")
        carols = homes[2].public_ip
        carol, client = Process(homes[2], "carol"), Process(homes[0], "client")
        alice, bob = [Process(home, name, carols) for home, name in zip(homes, ("alice", "bob"), strict=False)]
        assert carol.hear() == f"tcp://{carols}:29170"
        his, hers = bob.hear(), alice.hear()
        assert his != hers and all(one.startswith(f"tcp://{carols}:") and " " not in one for one in (his, hers))
        assert alice.ask("bob", his).endswith(" ms") and bob.ask("alice", hers).endswith(" ms")
        assert client.hear() == "" and client.ask("bob", his).endswith(" ms")
        assert bob.ask("client") == f"{homes[0].public_ip} WORLD"
        town.unplug(homes[1])
        town.plug(homes[1], town.home("prc"))
        for one in (alice, client):
            assert one.ask("bob", his).endswith(" ms"), "he has moved, and is called where he was"

"""Bob's laptop leaves one network and comes into another: who talks to him hears him again as soon as he is there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.nat.lab import Host, lab
from tests.nat.namespaces import why_not

MOVED_S = 3.5
"""From the new address to the first answer: sooner than the kernel notices that the old connections are gone."""

# Each at a host of its own, for what it sees of its addresses is its own network's. It pings the other all the time.
TALKING = """
import asyncio, json, sys, time
from dsdnode.errors import DsdError
from dsdnode.identity import Identity, peer_id
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.joins import parse_join, format_join

async def main(name):
    identity = Identity(name.encode().ljust(32))
    rpc = Rpc(await ZmqTransport.open(identity, listen="tcp://0.0.0.0:29170"))
    rpc.start()
    print(json.dumps({"join": format_join(rpc.transport.contact)}), flush=True)
    other = parse_join((await asyncio.to_thread(sys.stdin.readline)).strip())
    rpc.transport.introduce(other)
    while True:
        try:
            await rpc.ping(peer_id(other.public_key), timeout_s=0.5)
            where = rpc.transport.contact_of(peer_id(other.public_key)).addresses
            print(json.dumps({"heard": time.time(), "at": where}), flush=True)
        except DsdError:
            pass
        await asyncio.sleep(0.05)

asyncio.run(main(sys.argv[1]))
"""


def talks(host: Host, name: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return host.popen(
        sys.executable, "-c", TALKING, name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )


def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("{"):  # (what is logged)
        assert line, "it has ended"
    told: dict[str, Any] = json.loads(line)
    return told


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_bob_is_heard_before_the_old_connections_are_missed() -> None:
    """He leaves without a word: his lost connections cannot say goodbye, and alice's side knows nothing of it."""
    with lab() as town:
        home = town.home("prc", num_hosts=2)
        places = {"alice": home, "bob": home.others[0]}
        both = {name: talks(host, name) for name, host in places.items()}
        joins = {name: next_line(process)["join"] for name, process in both.items()}
        for name, other in (("alice", "bob"), ("bob", "alice")):
            stdin = both[name].stdin
            assert stdin is not None
            stdin.write(joins[other] + "\n")
            stdin.flush()
        for process in both.values():
            assert next_line(process)["heard"]
        places["bob"].configure("addr flush dev eth0\n")
        gone_s = time.time()
        places["bob"].configure("addr add 192.168.1.77/24 broadcast + dev eth0\nroute add default via 192.168.1.1\n")
        moved_s = time.time()
        for process in both.values():
            while (heard := next_line(process))["heard"] < gone_s + 0.05:
                pass
            assert heard["heard"] < moved_s + MOVED_S
        while next_line(both["alice"])["at"] != ["tcp://192.168.1.77:29170"]:
            assert time.time() < moved_s + MOVED_S, "alice is told where he lives now"

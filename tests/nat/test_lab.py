"""Homes are as their kinds say (`python -m tests.nat kinds` looks at all of them), and nothing of them stays."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsdnode.net.places import may_lead
from tests.nat.kinds import KINDS, Look
from tests.nat.lab import Host, lab
from tests.nat.look import Observers, dial
from tests.nat.namespaces import all_names, clean, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))]


def test_homes_map_and_filter_as_their_kinds_say() -> None:
    """A router that lets in whom its host has called, one that answers strangers, one that counts its ports up."""
    with lab() as town:
        observers = Observers(town)
        seen = {kind: observers.look(town.home(kind)) for kind in ("arc", "prcrst", "symseq")}
        observers.close()
    assert seen == {kind: KINDS[kind].look for kind in seen}
    assert seen == {
        "arc": Look("same", "silence", "open"),
        "prcrst": Look("same", "refused", "refused"),
        "symseq": Look("next", "silence", "silence"),
    }


def listening(host: Host, address: str, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    with host.inside():
        return socket.create_server((address, 5000), family=family)


def test_bob_of_the_same_home_and_carol_by_ipv6_get_where_others_do_not() -> None:
    with lab() as town:
        alice, carol, dave = town.home("prc", num_hosts=2), town.home("public"), town.home("prc")
        [bob] = alice.others
        assert (alice.ip, bob.ip, dave.ip) == ("192.168.1.10", "192.168.1.11", "192.168.1.10")
        with listening(alice, alice.ip), listening(alice, alice.ip6, socket.AF_INET6) as door:
            assert dial([bob], (alice.ip, 5000)) == ["open"]
            assert dial([bob], (alice.public_ip, 5000)) != ["open"], "no way back in by the outside address"
            assert dial([dave], (alice.ip, 5000)) == ["refused"], "dave calls himself"
            with carol.inside(), pytest.raises(TimeoutError):
                socket.create_connection((alice.ip6, 5000), 0.1)
            door.settimeout(0)
            with pytest.raises(BlockingIOError):
                door.accept()
        with bob.inside():
            assert may_lead(carol.ip6) and may_lead(carol.ip) and may_lead(alice.ip)
        with dave.inside():
            dave.configure(f"addr del {dave.ip6}/64 dev eth0\n")
            assert may_lead(carol.ip) and not may_lead(carol.ip6), "the route is there, and no address to call from"
            dave.configure("route del default\n")
            assert may_lead(alice.ip) and not may_lead(carol.ip)
        with listening(carol, carol.ip6, socket.AF_INET6) as door, alice.inside():
            socket.create_connection((carol.ip6, 5000), 5).close()
            assert door.accept()[1][0] == alice.ip6


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="there is no /dev/net/tun here")
def test_a_line_takes_its_time() -> None:
    with lab() as town:
        alice, carol = town.home("prc", delay_ms=20), town.home("public")
        with listening(carol, carol.ip), alice.inside():
            socket.create_connection((carol.ip, 5000), 5).close()  # neighbours are found
            began = time.monotonic()
            socket.create_connection((carol.ip, 5000), 5).close()
        assert time.monotonic() - began >= 0.04


def test_nothing_stays() -> None:
    before = set(all_names())
    with pytest.raises(ZeroDivisionError), lab() as town:
        alice = town.home("public")
        process = alice.popen(sys.executable, "-c", "input()")
        assert alice.namespace in all_names()
        raise ZeroDivisionError
    assert process.poll() is not None
    assert not {name for name in set(all_names()) - before if name.startswith(alice.namespace.partition("-")[0] + "-")}


KILLED = """
from tests.nat.namespaces import namespaces
with namespaces() as add:
    print(add(), flush=True)
    input()
"""


def test_what_a_killed_run_left_is_found_and_removed_and_nothing_else() -> None:
    with lab() as town:
        alice = town.home("public")
        words = [sys.executable, "-c", KILLED]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
            name = run.stdout.readline().strip()
            assert name not in clean()
            run.kill()
        assert name in all_names()
        assert name in clean()
        assert name not in all_names()
        assert alice.namespace in all_names()

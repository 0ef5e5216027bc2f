"""Hosts in networks of their own, one router between them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.nat.namespaces import all_names, why_not, within
from tests.nat.networks import networks

LISTEN = """
import socket
with socket.create_server(("0.0.0.0", 7000)) as door:
    print("open", flush=True)
    print(door.accept()[1][0])
"""
CALL = "import socket, sys; socket.create_connection((sys.argv[1], 7000), timeout=5, source_address=(sys.argv[2], 0))"


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize(("caller", "source"), [("mallory", "14.4.4.67"), ("bob", "12.2.2.10")])
def test_hosts_of_one_network_and_of_others_see_who_calls(caller: str, source: str) -> None:
    hosts = {"dave": ["14.4.4.10"], "mallory": ["14.4.4.66", "14.4.4.67"], "bob": ["12.2.2.10"]}
    with networks(hosts) as places:
        listening = [*within(places["dave"]), sys.executable, "-c", LISTEN]
        with subprocess.Popen(listening, stdout=subprocess.PIPE, text=True) as door:
            assert door.stdout.readline() == "open\n"
            calling = [*within(places[caller]), sys.executable, "-c", CALL, "14.4.4.10", source]
            called = subprocess.run(calling, capture_output=True, text=True, timeout=20)
            if called.returncode:
                door.kill()
            assert door.stdout.readline() == f"{source}\n", called.stderr
        assert places["dave"] in all_names()
    assert not set(places.values()) & set(all_names())

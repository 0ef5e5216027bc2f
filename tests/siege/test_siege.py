"""Of the siege what is told in seconds: hosts in networks of their own, what an attack is told of, lines of the table.

The attacks themselves take minutes, real daemons and root: `python -m tests.siege`.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.siege.attacks import Done
from tests.siege.networks import networks, why_not, within
from tests.siege.table import COLUMNS, Round, percentile
from tests.siege.user import Asked

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
        assert places["dave"] in _namespaces()
    assert not set(places.values()) & set(_namespaces())


def _namespaces() -> list[str]:
    told = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in told.splitlines()]


def test_a_siege_as_a_line() -> None:
    """The neighbour apart; who was not served has waited, too; another text is neither served well nor hidden."""
    served = [Asked(0, "59", float(took)) for took in range(1, 5)]
    lost = Asked(0, "5", 60.0, "NoPipeline: nothing came")
    attacked = {"alice": served, "bob": [Asked(0, "58", 2.0)], "dave": [*served[:1], lost]}
    peace = {name: served[:2] for name in attacked}
    told = Round("pings", Done(300, 10.0, 0.5), attacked, peace, {0: "59"})
    cells = dict(zip(COLUMNS.split(" | "), told.row.split(" | "), strict=True))
    assert told.row.split(" | ")[:8] == ["pings", "30.0", "0.50", "5", "5", "1", "2", "1"]
    assert (cells["neighbour p99, s"], cells["p99 to peace's"]) == ("60.00", "2.00")
    assert told.failures == {"pings, attack, dave: NoPipeline: nothing came": 1}
    assert told.num_wrong == 1


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(one) for one in range(200, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [100.0, 198.0, 200.0]
    assert percentile([3.0], 0.99) == 3.0

"""Hosts in networks of their own, on one machine: a network namespace each, and one more that routes between them.

A host has addresses of one /24; hosts of the same /24 share a bridge. Nothing of it reaches the real network, and all
of it goes when the context ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from tests.nat.namespaces import ip, namespaces, sysctl


@contextlib.contextmanager
def networks(hosts: Mapping[str, Sequence[str]], multicast: bool = True) -> Iterator[dict[str, str]]:
    """`hosts`: the addresses of each, of one /24; the first is the one that it calls from. Their namespaces' names.

    `multicast`: does a bridge carry it? Some wireless access points do not.
    """
    with namespaces() as add:
        router = add()
        sysctl(router, "net/ipv4/ip_forward", 1)
        nets = list(dict.fromkeys(_net(addresses[0]) for addresses in hosts.values()))
        for index, net in enumerate(nets):
            ip("-n", router, "link", "add", f"net{index}", "type", "bridge")
            ip("-n", router, "addr", "add", f"{net}.1/24", "dev", f"net{index}")
            ip("-n", router, "link", "set", f"net{index}", "up")
        names: dict[str, str] = {}
        for number, (host, addresses) in enumerate(hosts.items()):
            net = _net(addresses[0])
            names[host] = add()
            _plug(names[host], router, f"host{number}", f"net{nets.index(net)}", addresses)
            if not multicast:
                ip("-n", router, "link", "set", f"host{number}", "type", "bridge_slave", "mcast_flood", "off")
            ip("-n", names[host], "route", "add", "default", "via", f"{net}.1", "src", addresses[0])
        yield names


def _plug(host: str, router: str, port: str, bridge: str, addresses: Sequence[str]) -> None:
    ip("link", "add", port, "netns", router, "type", "veth", "peer", "name", "eth0", "netns", host)
    ip("-n", router, "link", "set", port, "master", bridge, "up")
    for address in addresses:
        ip("-n", host, "addr", "add", f"{address}/24", "broadcast", "+", "dev", "eth0")
    ip("-n", host, "link", "set", "eth0", "up")


def _net(address: str) -> str:
    return address.rpartition(".")[0]

"""Hosts in networks of their own, on one machine: a network namespace each, and one more that routes between them.

A host has addresses of one /24; hosts of the same /24 share a bridge. Nothing of it reaches the real network, and all
of it goes when the context ends. It takes root, and `ip` of iproute2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence


def why_not() -> str:
    """Why there can be no namespaces here, in words; empty: there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` here: it comes with iproute2, on Linux"
    if os.geteuid() != 0:
        return "only root may make network namespaces: call it with sudo, or in a container that may"
    name = f"siege{os.getpid()}try"
    made = _ip("netns", "add", name, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here ({made.stderr.strip()})"
    _ip("netns", "del", name)
    return ""


def within(name: str) -> tuple[str, ...]:
    """What a command begins with that runs at a host; `name` as `networks` gave it."""
    return ("ip", "netns", "exec", name)


@contextlib.contextmanager
def networks(hosts: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """`hosts`: the addresses of each, of one /24; the first is the one that it calls from. Their namespaces' names."""
    names = {host: f"siege{os.getpid()}{host}" for host in hosts}
    router = f"siege{os.getpid()}router"
    try:
        _add(router)
        _ip("netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        nets = list(dict.fromkeys(_net(addresses[0]) for addresses in hosts.values()))
        for index, net in enumerate(nets):
            _ip("-n", router, "link", "add", f"net{index}", "type", "bridge")
            _ip("-n", router, "addr", "add", f"{net}.1/24", "dev", f"net{index}")
            _ip("-n", router, "link", "set", f"net{index}", "up")
        for number, (host, addresses) in enumerate(hosts.items()):
            net = _net(addresses[0])
            _plug(names[host], router, f"host{number}", f"net{nets.index(net)}", addresses)
            _ip("-n", names[host], "route", "add", "default", "via", f"{net}.1", "src", addresses[0])
        yield names
    finally:
        for name in (*names.values(), router):
            _ip("netns", "del", name, check=False)


def _plug(host: str, router: str, port: str, bridge: str, addresses: Sequence[str]) -> None:
    _add(host)
    _ip("link", "add", port, "netns", router, "type", "veth", "peer", "name", "eth0", "netns", host)
    _ip("-n", router, "link", "set", port, "master", bridge, "up")
    for address in addresses:
        _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", host, "link", "set", "eth0", "up")


def _add(name: str) -> None:
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")


def _net(address: str) -> str:
    return address.rpartition(".")[0]


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(("ip", *words), capture_output=True, text=True)
    assert not check or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done

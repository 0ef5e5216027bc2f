"""Network namespaces of this machine: made, entered, and gone when the context ends. It takes root, and `ip`.

Each is named after the process that made it, so that those of several processes never meet, and what a killed one left
can be told and removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

TOOLS = {
    "ip": "there is no `ip` here: it comes with iproute2, on Linux",
    "nft": "there is no `nft` here: it comes with nftables, on Linux",
}
_CLONE_NEWNET = 0x40000000
_OURS = re.compile(r"dsd([0-9]+)-[0-9]+")
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def why_not(*tools: str) -> str:
    """Why there can be no namespaces here, or none in which `tools` are called, in words; empty: there can."""
    for tool in ("ip", *tools):
        if shutil.which(tool) is None:
            return TOOLS[tool]
    if os.geteuid() != 0:
        return "only root may make network namespaces: call it with sudo, or in a container that may"
    name = _new_name()
    made = ip("netns", "add", name, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here ({made.stderr.strip()})"
    ip("netns", "del", name)
    return ""


@contextlib.contextmanager
def namespaces() -> Iterator[Callable[[], str]]:
    """What is yielded makes one, with loopback up, and gives its name. All of them go in the end."""
    names: list[str] = []

    def add() -> str:
        name = _new_name()
        ip("netns", "add", name)
        names.append(name)
        ip("-n", name, "link", "set", "lo", "up")
        return name

    try:
        yield add
    finally:
        for name in reversed(names):
            ip("netns", "del", name, check=False)


def within(name: str) -> tuple[str, ...]:
    """What a command begins with that runs in the namespace."""
    return ("ip", "netns", "exec", name)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread is in the namespace. Sockets that are made meanwhile stay there, and threads that are begun."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(("ip", *words), capture_output=True, text=True)
    assert not check or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done


def configure(name: str, lines: str) -> None:
    """Commands of `ip`, a line each, in the namespace."""
    done = subprocess.run(("ip", "-n", name, "-batch", "-"), input=lines, capture_output=True, text=True)
    assert done.returncode == 0, f"ip -batch in {name}: {done.stderr}\n{lines}"


def sysctl(name: str, key: str, value: int) -> None:
    """Of the namespace: `net/ipv4/ip_forward`."""
    with inside(name):
        Path("/proc/sys", key).write_text(str(value))


def all_names() -> list[str]:
    return [line.split()[0] for line in ip("netns", "list").stdout.splitlines()]


def clean() -> list[str]:
    """Removes what killed processes left; its names."""
    left = [one for one in all_names() if (made := _OURS.fullmatch(one)) and not Path("/proc", made[1]).exists()]
    for name in left:
        ip("netns", "del", name)
    return left


def _new_name() -> str:
    return f"dsd{os.getpid()}-{next(_numbers)}"


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this thread cannot enter the network namespace")

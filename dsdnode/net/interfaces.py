"""This machine's own addresses, best first, and a watch that tells when they have changed.

A laptop gets an address late, loses it, takes another. Linux tells of it at once (netlink); elsewhere we look.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog

from dsdnode.addresses import ANY_HOST, Nearness, is_ip, nearness

POLL_S = 1.0
"""Between two looks, where nobody tells."""
SETTLE_S = 0.1
"""News come in handfuls (a link, an address, a route): one look after them is enough."""
_CHANGES = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Of rtnetlink's groups: links, and addresses and routes of both families."""
_NEWS_BYTES = 65536
_MADE_UP = ("docker", "br-", "veth", "virbr", "cni", "flannel", "lxc", "podman")
"""Bridges to containers and virtual machines: every machine that has them has the same addresses on them."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Own:
    """An address of this machine, and the interface that has it."""

    host: str
    interface: str


def own_addresses() -> list[Own]:
    """All of them, those of loopback too, of interfaces that are up; without zones. Empty: the system does not say."""
    found = list[Own]()
    with contextlib.suppress(OSError):
        up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
        for name, entries in psutil.net_if_addrs().items():
            hosts = (str(entry.address).partition("%")[0] for entry in entries if name in up)
            found += [Own(host, name) for host in hosts if is_ip(host)]
    return found


def hosts_to_tell(any_host: str) -> tuple[str, ...]:
    """Where others may reach whoever listens on `any_host`, best first; loopback, where there is nothing else.

    Link-local addresses mean something with a zone alone, and are told to nobody.
    """
    sources = {_source(family) for family in (socket.AF_INET, socket.AF_INET6)}
    return ranked(own_addresses(), sources, v6=any_host == "::") or ("127.0.0.1",)


def ranked(found: list[Own], sources: set[str], v6: bool) -> tuple[str, ...]:
    """`sources`: what this machine would call the world from: the network that it lives in. Pure."""
    far = [one for one in found if (nearness(one.host) or Nearness.HERE) >= Nearness.HOUSE]
    real = [one for one in far if not one.interface.startswith(_MADE_UP)]

    def rank(own: Own) -> tuple[bool, Nearness, bool]:
        near = nearness(own.host) or Nearness.HERE
        is_v4 = ipaddress.ip_address(own.host).version == 4
        # At home the old family has the shorter way; to the world the new one leads past the router's translation.
        return own.host not in sources, near, is_v4 is (near is Nearness.WORLD)

    hosts = [own.host for own in sorted(real or far, key=rank)]
    return tuple(dict.fromkeys(host for host in hosts if v6 or ":" not in host))


def _source(family: socket.AddressFamily) -> str:
    """The address that this machine would reach the world from (nothing is sent); "": it would not."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))
        own = str(probe.getsockname()[0])
        return own if is_ip(own) and own not in ANY_HOST else ""
    return ""


class NetworkWatch:
    """Calls `changed(hosts)` with all addresses of this machine whenever they are not what they were."""

    def __init__(self, changed: Callable[[frozenset[str]], None]) -> None:
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._hosts = _hosts()
        self._timer: asyncio.TimerHandle | None = None
        self._news = _open_news()
        if self._news is not None:
            self._loop.add_reader(self._news.fileno(), self._hear)
        else:
            self._timer = self._loop.call_later(POLL_S, self._poll)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._news is not None:
            self._loop.remove_reader(self._news.fileno())
            self._news.close()
            self._news = None

    def _hear(self) -> None:
        with contextlib.suppress(OSError):  # all of it, or so much that the system has dropped some
            while self._news is not None and self._news.recv(_NEWS_BYTES):
                pass
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self._look()

    def _poll(self) -> None:
        self._timer = self._loop.call_later(POLL_S, self._poll)
        self._look()

    def _look(self) -> None:
        hosts = _hosts()
        if hosts and hosts != self._hosts:
            self._hosts = hosts
            self._changed(hosts)


def _hosts() -> frozenset[str]:
    return frozenset(own.host for own in own_addresses())


def _open_news() -> socket.socket | None:
    """None: this system does not tell, or tells not us."""
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    try:
        news = socket.socket(family, socket.SOCK_RAW, 0)
    except OSError as error:
        log.debug("addresses are looked at, for nobody tells of them", reason=str(error))
        return None
    try:
        news.setblocking(False)
        news.bind((0, _CHANGES))
    except OSError as error:
        news.close()
        log.debug("addresses are looked at, for nobody tells of them", reason=str(error))
        return None
    return news

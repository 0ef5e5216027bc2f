"""Our own addresses, by interface, and who tells when they change: a laptop that is carried to another network.

On Linux the kernel says so (netlink), within milliseconds; elsewhere somebody has to look again and again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import structlog

from dsdnode.net.port import MAX_TURN

log = structlog.get_logger(__name__)

MAX_OWN_ADDRESSES = 64
"""Of a machine. One with more has networks of its own making, for containers."""
SETTLE_S = 0.1
"""A change comes in several pieces (an address goes, another one comes, a link is up), which are told as one."""
POLL_S = 1.0
"""Where the kernel does not tell. A look takes 0.3 ms."""
_LINK, _IPV4_ADDRESS, _IPV6_ADDRESS = 0x1, 0x10, 0x100
"""Groups of netlink (RTMGRP_...)."""
_NEWS_BYTES = 65536


@dataclass(frozen=True, slots=True, order=True)
class Own:
    """An address of ours on an interface that works, the network that is reached through it, and how to call all there.

    `broadcast`: "" where there is none, as in IPv6.
    """

    interface: str
    host: str
    network: str
    broadcast: str = ""


def own_addresses() -> tuple[Own, ...]:
    """All but those of loopback and of single cables (link-local IPv6), in an order that stays."""
    try:
        working = {name for name, state in psutil.net_if_stats().items() if state.isup}
        found = {
            own
            for name, addresses in psutil.net_if_addrs().items()
            for one in addresses
            if name in working and (own := _own(name, one.family, one.address, one.netmask, one.broadcast))
        }
    except (OSError, psutil.Error) as error:
        log.debug("own addresses are not known", reason=str(error))
        return ()
    return tuple(sorted(found)[:MAX_OWN_ADDRESSES])


class AddressWatch:
    """Calls `on_change` with all addresses, once they are other ones than before: within a second of the change."""

    def __init__(
        self, on_change: Callable[[tuple[Own, ...]], None], read: Callable[[], tuple[Own, ...]] = own_addresses
    ) -> None:
        self._on_change, self._read = on_change, read
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._news = _open_news()
        if self._news is not None:
            self._loop.add_reader(self._news, self._on_news)
        else:
            self._timer = self._loop.call_later(POLL_S, self._look)
        self.addresses = read()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._news:
            self._loop.remove_reader(self._news)
            self._news.close()

    def _on_news(self) -> None:
        """What is said does not matter: we look ourselves, also when more was said than fits (ENOBUFS)."""
        assert self._news
        with suppress(OSError):
            for _ in range(MAX_TURN):
                self._news.recv(_NEWS_BYTES)
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_S, self._look)

    def _look(self) -> None:
        self._timer = None if self._news else self._loop.call_later(POLL_S, self._look)
        before, self.addresses = self.addresses, self._read()
        if self.addresses != before:
            self._on_change(self.addresses)


def _open_news() -> socket.socket | None:
    """The kernel's, of links and addresses; None, where that is not to be had."""
    if sys.platform != "linux":
        return None
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        sock.setblocking(False)
        sock.bind((0, _LINK | _IPV4_ADDRESS | _IPV6_ADDRESS))
    except OSError:
        sock.close()
        return None
    return sock


def _own(interface: str, family: int, host: str, netmask: str | None, broadcast: str | None) -> Own | None:
    if family not in (socket.AF_INET, socket.AF_INET6) or not netmask:
        return None
    ip = ipaddress.ip_address(host.partition("%")[0])
    if ip.is_loopback or (ip.version == 6 and ip.is_link_local):
        return None
    prefix = int(ipaddress.ip_address(netmask)).bit_count()
    network = ipaddress.ip_network((ip, prefix), strict=False)
    return Own(interface, str(ip), str(network), broadcast or "")

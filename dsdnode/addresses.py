"""Addresses: how they are read, to whom they mean something, and the network that one counts for.

An address that somebody names may be a trap: our own machine, a printer of our house, a stranger who is to be flooded.
Everything here is a function of its text.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from enum import IntEnum

LOWEST_PORT = 1024
"""Below it are services of machines: nobody calls there because a stranger says so."""
ANY_HOST = ("0.0.0.0", "::")
"""To listen on: every address that this machine has."""
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9_.])?):([0-9]{1,5})")
_ZONE = re.compile(r"tcp://\[[^\]]*%")
_MAX_READINGS = 4096
"""Readings: a message asks for those of its sender's address; more senders than that are read anew."""
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HOME_NAMES = ("local", "internal", "lan", "home", "arpa")
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Nearness(IntEnum):
    """Where an address leads to from anywhere, nearest first; what is near means another machine to everybody."""

    HERE = 0
    """This machine: loopback."""
    CABLE = 1
    """Whatever is on the same cable: link-local, also what clouds tell their machines by."""
    HOUSE = 2
    """Private and shared networks, and names without a public ending."""
    WORLD = 3


@functools.lru_cache(_MAX_READINGS)
def parse_address(address: str, lowest_port: int = 1) -> tuple[str, int]:
    """Host (IPv6 without brackets) and port of `tcp://HOST:PORT`; nothing else is ever dialled. Raises ValueError."""
    match = _HOST_PORT.fullmatch(address.removeprefix("tcp://"))
    if _ZONE.match(address):
        raise ValueError(f"{address!r} has a zone (behind %), which means something on one machine alone: leave it out")
    if match is None or not address.startswith("tcp://"):
        raise ValueError(f"{address!r} is not tcp://HOST:PORT (IPv6 in brackets)")
    host, port = match[1], int(match[2])
    if not lowest_port <= port < 65536:
        raise ValueError(f"port {port} is not within {lowest_port} to 65535")
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif not is_ip(host):
        _check_name(host)
    return host, port


def is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def _check_name(host: str) -> None:
    """Resolvers read 127.1, 0177.0.0.1 and 2130706433 as IPv4 addresses: here these are mistakes. Raises ValueError."""
    *_, last = host.removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        raise ValueError(f"{host!r} is no name of a host")
    if last.isdigit() or last.lower().startswith("0x"):
        raise ValueError(f"{host!r} is neither an IP address nor a name")


def read_host(text: str) -> str:
    """How a host that people write (Bücher.example, MY_BOX) is dialled: ASCII, small letters. Raises ValueError."""
    try:
        return text.lower() if text.isascii() else text.encode("idna").decode().lower()
    except UnicodeError as error:
        raise ValueError(f"{text!r} is no name of a host: {error}") from None


FAMILIES = (4, 6)


def family(host: str) -> int | None:
    """Of FAMILIES the one of an IP address; None: a name, which may lead to both."""
    return (6 if ":" in host else 4) if is_ip(host) else None


@functools.lru_cache(_MAX_READINGS)
def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@functools.lru_cache(_MAX_READINGS)
def nearness(host: str) -> Nearness | None:
    """Of a host as `parse_address` gives it. None: no single machine (0.0.0.0, multicast, broadcast, reserved).

    A public name is WORLD until it is resolved: then each of its addresses is asked for anew.
    """
    try:
        ip = _innermost(ipaddress.ip_address(host))
    except ValueError:
        return _nearness_of_name(host.lower().removesuffix(".").split("."))
    if ip.is_loopback:
        return Nearness.HERE
    if ip.is_link_local:
        return Nearness.CABLE
    if ip.is_multicast or ip.is_unspecified or ip.is_reserved or ip in _THIS_NETWORK:
        return None
    is_site = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    return Nearness.WORLD if ip.is_global and not is_site else Nearness.HOUSE


def _nearness_of_name(labels: list[str]) -> Nearness:
    if labels[-1] == "localhost":
        return Nearness.HERE
    return Nearness.HOUSE if len(labels) < 2 or labels[-1] in _HOME_NAMES else Nearness.WORLD


def _innermost(ip: _IP) -> _IP:
    """The IPv4 address that an IPv6 one stands for, if it does: 127.0.0.1 has many names."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def may_name(teacher: Nearness, address: str) -> bool:
    """May we call `address` because somebody at that distance named it? Nothing nearer, and no machine's service."""
    try:
        host, _ = parse_address(address, LOWEST_PORT)
    except ValueError:
        return False
    near = nearness(host)
    return near is not None and near >= teacher


@functools.lru_cache(_MAX_READINGS)
def network(host: str) -> str | None:
    """The /24 (IPv4) or /56 (IPv6) of a public address, a public name's last two labels; None: of no public network."""
    if nearness(host) is not Nearness.WORLD:
        return None
    return network_of(host) or ".".join(host.lower().removesuffix(".").split(".")[-2:])


@functools.lru_cache(_MAX_READINGS)
def network_of(ip: str) -> str:
    """The /24 or /56 of any IP address, also of one nearby: where a connection came from. "" for what is no address."""
    try:
        inner = _innermost(ipaddress.ip_address(ip.partition("%")[0]))
    except ValueError:
        return ""
    return str(ipaddress.ip_network((inner, 24 if inner.version == 4 else 56), strict=False))


@functools.lru_cache(maxsize=4096)
def machine_of(ip: str) -> str:
    """As much of an IP address as one machine has: all of IPv4, the /64 of IPv6. "" for what is no address."""
    try:
        inner = _innermost(ipaddress.ip_address(ip.partition("%")[0]))
    except ValueError:
        return ""
    return str(ipaddress.ip_network((inner, 32 if inner.version == 4 else 64), strict=False).network_address)


def check_reachable(address: str) -> None:
    """Raises ValueError, in words, where nobody could be: what people type wants saying."""
    host, _ = parse_address(address)
    if nearness(host) is None:
        raise ValueError(f"{host} is not the address of one machine: nobody can be reached there")

"""Where a node that listens is reached: what it tells others, and what processes of its own machine are told."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Collection, Sequence

import structlog

from dsdnode.addresses import (
    ANY_HOST,
    LOWEST_PORT,
    Nearness,
    check_reachable,
    is_address,
    is_ip,
    nearness,
    parse_address,
)
from dsdnode.errors import BadInput
from dsdnode.net.interfaces import Own, own_addresses
from dsdnode.wire.messages import MAX_ADDRESSES

_MADE_UP = ("docker", "br-", "veth", "virbr", "cni", "flannel", "lxc", "podman")
"""Bridges to containers and virtual machines: every machine that has them has the same addresses on them."""

log = structlog.get_logger(__name__)


def advertised(listen: str, advertise: Sequence[str], port: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """`advertise`, else the address listened on, or this machine's, best first, with the real port, and those that its
    router and relays have `given`: for one of its own there is always room. Raises BadInput."""
    if not given:
        check_advertised(advertise)
    host, _ = parse_address(listen, lowest_port=0)
    hosts = () if advertise else hosts_to_tell(host) if host in ANY_HOST else (host,)
    mine = [*advertise, *(to_address(one, port) for one in hosts)]
    given = [one for one in dict.fromkeys(given) if one not in mine]
    return tuple([*mine[: max(1, MAX_ADDRESSES - len(given))], *given][:MAX_ADDRESSES])


def check_advertised(advertise: Sequence[str]) -> None:
    """Raises BadInput."""
    for address in advertise:
        try:
            check_reachable(address)
        except ValueError as error:
            raise BadInput(f"cannot advertise: {error}") from error
        if parse_address(address)[1] < LOWEST_PORT:
            log.warning(f"a port below {LOWEST_PORT} is called by those alone who join it by hand", address=address)
    if len(advertise) > MAX_ADDRESSES:
        raise BadInput(f"cannot advertise {len(advertise)} addresses; at most {MAX_ADDRESSES}")


def here_of(listen: str, port: int, addresses: Sequence[str]) -> tuple[str, ...]:
    """For processes of this machine: what is advertised may lead nowhere from inside its network."""
    host, _ = parse_address(listen, lowest_port=0)
    here = to_address("127.0.0.1" if host in ANY_HOST else host, port)
    return (here, *(one for one in addresses if one != here))[:MAX_ADDRESSES]


def to_address(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_plain_ip(host: str) -> bool:
    """Is this an IP address that can be called at a port? One with a zone is none."""
    return is_ip(host) and is_address(to_address(host, LOWEST_PORT))


def hosts_to_tell(any_host: str) -> tuple[str, ...]:
    """Where others may reach whoever listens on `any_host`, best first; loopback, where there is nothing else."""
    sources = {source(family) for family in (socket.AF_INET, socket.AF_INET6)}
    return ranked(own_addresses(), sources, v6=any_host == "::") or ("127.0.0.1",)


def ranked(found: Sequence[Own], sources: Collection[str], v6: bool) -> tuple[str, ...]:
    """`sources`: what this machine would call the world from: the networks that it lives in. Pure."""
    far = [one for one in found if (nearness(one.host) or Nearness.HERE) >= Nearness.HOUSE]
    real = [one for one in far if not one.interface.startswith(_MADE_UP)]

    def rank(own: Own) -> tuple[bool, Nearness, bool]:
        near = nearness(own.host) or Nearness.HERE
        is_v4 = ipaddress.ip_address(own.host).version == 4
        # At home the old family has the shorter way; to the world the new one leads past the router's translation.
        return own.host not in sources, near, is_v4 is (near is Nearness.WORLD)

    hosts = [own.host for own in sorted(real or far, key=rank)]
    return tuple(dict.fromkeys(host for host in hosts if v6 or ":" not in host))


def is_anywhere(hosts: Collection[str]) -> bool:
    """Is this machine, with these addresses, in any network?"""
    return any((nearness(host) or Nearness.HERE) >= Nearness.HOUSE for host in hosts)


def why_not_told(found: Sequence[Own], told: Sequence[str], any_host: str) -> tuple[tuple[str, str], ...]:
    """Of our addresses those that others are not `told` (a list of addresses), and why, in words. `any_host`: listened
    on; "": one address alone, or others are told what our user has said. Pure."""
    hosts = {parse_address(address)[0] for address in told}
    real = [own for own in found if not own.interface.startswith(_MADE_UP)]

    def why(own: Own) -> str:
        if not any_host:
            return "other addresses were asked for"
        if (nearness(own.host) or Nearness.HERE) < Nearness.HOUSE:
            return "it means something on one cable alone"
        if real and own.interface.startswith(_MADE_UP):
            return "it leads to this machine's own containers"
        return (
            "IPv6 is not listened for" if ":" in own.host and any_host != "::" else "there are others that are better"
        )

    return tuple((own.host, why(own)) for own in found if own.host not in hosts)


def is_gone(host: str, found: Collection[str]) -> bool:
    """Is `host`, where a connection of ours was made from ("": there is none), no address of ours any more?"""
    return host not in (*found, "") and (nearness(host) or Nearness.HERE) >= Nearness.HOUSE


def may_lead(host: str) -> bool:
    """Does this machine know a way to an IP address, from an address of its own that is answered there? Whoever has one
    family alone knows none to the other. Nothing is sent; of a name it cannot be told."""
    if not is_ip(host):
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            own = str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return False
    return (nearness(own) or Nearness.HERE) >= min(nearness(host) or Nearness.HERE, Nearness.HOUSE)


def source(family: socket.AddressFamily) -> str:
    """The address that this machine would reach the world from (nothing is sent); "": it would not."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))
        own = str(probe.getsockname()[0])
        return own if is_ip(own) and own not in ANY_HOST else ""
    return ""

"""Ports of ours from which somebody is called just when he calls us: how each looks from outside.

Whoever comes from there while we call him gets through to us, for our router has seen us call.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from dsdnode.addresses import Nearness, nearness, parse_address
from dsdnode.net.listener import socket_from
from dsdnode.net.nat import Kind, Nat
from dsdnode.net.outlook import Outlook
from dsdnode.net.views import View

MAX_GUESSES = 4
"""Next ports of a router that counts: others of the house may call somebody meanwhile."""
POKE_S = 2.0
POKED_PORT = 29170
"""Any: nobody listens there, or somebody who does not know us."""
ANYWHERE_V6 = "2600::1"
"""Of the wide world."""


@dataclass(slots=True)
class Hole:
    """`host`, `ports`: where a call from `port` seems to come from; no ports: nobody can know."""

    own: socket.socket
    view: View | None
    port: int
    host: str
    ports: tuple[int, ...]

    def close(self) -> None:
        """Nobody is called from there who has not been called yet."""
        if self.view is not None:
            self.view.close()
        self.own.close()


async def dig(outlook: Outlook, peers: Iterable[bytes]) -> Hole | None:
    """`peers`: who may be asked how it looks. None: nobody says."""
    try:
        own = socket_from(outlook.host, 0, "0.0.0.0")
    except OSError:
        return None
    view: View | None = None
    try:
        port = int(own.getsockname()[1])
        for peer in peers:
            view = await outlook.view(peer, port)
            if view is not None:
                seen, number = parse_address(view.seen)
                return Hole(own, view, port, seen, guessed(outlook.nat, number))
    finally:
        if view is None:
            own.close()
    return None


def dig_v6() -> Hole | None:
    """The same in IPv6, where nobody translates: a port looks as it is. None: this machine has no such address."""
    host = own_v6()
    if not host:
        return None
    try:
        own = socket_from("::", 0, "::")
    except OSError:
        return None
    port = int(own.getsockname()[1])
    return Hole(own, None, port, host, (port,))


def own_v6() -> str:
    """The public IPv6 address that this machine's calls leave from ("": none). Nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect((ANYWHERE_V6, POKED_PORT))
        host = str(probe.getsockname()[0])
        if nearness(host) is Nearness.WORLD:
            return host
    return ""


def guessed(nat: Nat, port: int) -> tuple[int, ...]:
    """Of the next calls from a port of ours that has just been seen as this one. Pure."""
    if nat.kind is Kind.RANDOM:
        return ()
    if nat.kind is Kind.COUNTING:
        ports = (port + nat.step * number for number in range(1, MAX_GUESSES + 1))
        return tuple(one for one in ports if 0 < one < 65536)
    return (port,)


def poke(host: str, port: int) -> None:
    """Begin to call, so that our router lets in what comes from there; whether anybody answers is all the same."""
    with contextlib.suppress(OSError):
        own = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        asyncio.get_running_loop().call_later(POKE_S, own.close)
        own.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            own.connect((host, port))

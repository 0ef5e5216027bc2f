"""Calls that are made to be looked at, and nothing else: whoever is called says where he sees them come from.

Between the same two ports there is one connection at most. Whom a peer calls to be looked at itself may be unable to
call it from the port that was called, but is told over that call where it leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dsdnode.addresses import Nearness, is_ip, may_name, network, parse_address
from dsdnode.net.call import Way
from dsdnode.net.link import Dealer, Inbound, Link
from dsdnode.net.links import Links
from dsdnode.net.listener import socket_from
from dsdnode.net.passage import Passage
from dsdnode.net.port import ATTEMPT_TIMEOUT_S, LOOK, SEEN

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: when it is closed nothing stays of the connection, and the same one may be made again at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer of the world can be looked at from: it has answered there."""

    peer: bytes
    host: str
    port: int

    @property
    def network(self) -> str:
        return network(self.host) or self.host


class View:
    """A call from a port of ours, as whoever was called sees it. Implements DealerOwner."""

    def __init__(self, links: Links, place: Place, ended: Callable[[View], None]) -> None:
        self.context, self.names, self.resolver = links.context, links.names, links.resolver
        self.identity, self.may_dial = links.identity, links.may_dial
        own = links.handshake
        called = f"{SEEN}tcp://{place.host}:{place.port}"
        self.handshake = replace(own, capabilities=(*own.capabilities, LOOK, called))
        self.place = place
        self.seen = ""
        """tcp://IP:PORT; "": it does not say."""
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._dealer: Dealer | None = None
        self._passage: Passage | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def open(self, listens: tuple[str, int], public_key: bytes) -> None:
        """From the host and port that we listen on, or any other port. Begun before anything else is waited for.

        Raises OSError, TimeoutError."""
        far = socket_from(*listens, self.place.host)
        try:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                await self._loop.sock_connect(far, (self.place.host, self.place.port))
            self._passage = Passage(far)
        except BaseException:
            far.close()
            raise
        way = Way(f"tcp://{self.place.host}:{self.place.port}", passage=self._passage)
        self._dealer = Dealer(self, self.place.peer, public_key, False, [way])
        await self._over

    def close(self) -> None:
        if self._dealer is not None:
            self._dealer.close()
        if self._passage is not None:
            self._passage.close()

    # --- what the dealer tells

    def received(self, link: Link, frames: list[bytes]) -> None:
        """Nothing is to be said over it: whoever does fills our memory."""
        self.close()
        self._ended(self)

    def dealer_ready(self, dealer: Dealer) -> None:
        self.seen = seen_in(dealer.capabilities)
        self._end()

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        self.close()
        self._end()
        self._ended(self)

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


@dataclass(frozen=True, slots=True)
class Met:
    """A peer's call of us, to be looked at itself, as it says where it leads."""

    place: Place
    inbound: Inbound

    @property
    def seen(self) -> str:
        return seen_in(self.inbound.capabilities)

    def close(self) -> None:
        """It is the peer's."""


def seen_in(capabilities: Sequence[str]) -> str:
    """Where a peer says in its Welcome that it sees us ("": nowhere that others could call)."""
    said = next((one.removeprefix(SEEN) for one in capabilities if one.startswith(SEEN)), "")
    with contextlib.suppress(ValueError):
        host, _ = parse_address(said)
        if is_ip(host) and may_name(Nearness.WORLD, said):
            return said
    return ""

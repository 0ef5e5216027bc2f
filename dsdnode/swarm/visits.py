"""Visits: a node is called by somebody whom it has hardly called itself, and sees whether its router lets him in.

Whoever is asked whether he reaches a node has been called by it, and some routers let in such hosts alone. So he has
another peer call it once, where he has found it himself: nobody is called at an address that is merely claimed. That
peer does not know whether this is true, and calls on his account.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from dsdnode.accounts import Credits
from dsdnode.addresses import Nearness, is_ip, may_name, network, network_of, parse_address
from dsdnode.errors import DsdError, PeerMisbehaved
from dsdnode.identity import curve_public_key
from dsdnode.net.port import OBSERVE
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.queries import Tasks
from dsdnode.swarm.relaying import own_networks
from dsdnode.wire.messages import Contact, Visit

PER_NETWORK = 1
"""A minute: for whom visits are asked for, and on whose word they are made. Names cost nothing, so networks count."""
PER_MINUTE = 10
"""In all."""


class Visits:
    def __init__(self, rpc: Rpc, tasks: Tasks, rng: random.Random) -> None:
        self._rpc = rpc
        self._tasks = tasks
        self._rng = rng
        self._asked, self._made = _Limit(), _Limit()
        rpc.on_notice(Visit, self._on_visit)

    def ask_for(self, now: float, peer: bytes, reached: Sequence[str]) -> None:
        """We have reached a peer at these addresses. If it is seen at one of them, a stranger is to call it there."""
        transport = self._rpc.transport
        source, known = transport.source_of(peer), transport.contact_of(peer)
        there = next((one for one in reached if _may_visit(one) and parse_address(one)[0] == source), None)
        if there is None or known is None or not transport.can(peer, OBSERVE):
            return
        visitor = self._choose(peer, source)
        if visitor is not None and self._asked.allow(now, source):
            try:
                self._rpc.notify(visitor, Visit(known.public_key, there))
            except DsdError:
                """It is gone, or full: whoever is asked next chooses another one."""

    def _choose(self, peer: bytes, source: str) -> bytes | None:
        """Of another network than both of us; a client if there is any, for nobody can have called one."""
        transport = self._rpc.transport
        near = {network(source), *own_networks(transport.contact.addresses)}
        found, clients = list[bytes](), list[bytes]()
        for one in transport.linked():
            host, known = transport.source_of(one), transport.contact_of(one)
            if one != peer and _is_public_v4(host) and network(host) not in near and transport.can(one, OBSERVE):
                found.append(one)
                if known is not None and not known.addresses:
                    clients.append(one)
        return self._rng.choice(clients or found) if found else None

    def _on_visit(self, peer: bytes, message: Visit, buffers: Sequence[bytes]) -> None:
        if not _may_visit(message.address):
            raise PeerMisbehaved("an address where nobody is to be visited")
        try:
            curve_public_key(message.public_key)
        except ValueError as error:
            raise PeerMisbehaved(f"a visit to nobody: {error}") from error
        transport = self._rpc.transport
        if self._made.allow(asyncio.get_running_loop().time(), transport.source_of(peer)):
            self._tasks.spawn(transport.visit(Contact(message.public_key, (message.address,)), peer))


class _Limit:
    def __init__(self) -> None:
        self._of_one = Credits(PER_NETWORK, PER_NETWORK / 60)
        self._of_all = Credits(PER_MINUTE, PER_MINUTE / 60)

    def allow(self, now: float, host: str) -> bool:
        return self._of_one.spend(network_of(host), now) and self._of_all.spend("", now)


def _may_visit(address: str) -> bool:
    return may_name(Nearness.WORLD, address) and _is_public_v4(parse_address(address)[0])


def _is_public_v4(host: str) -> bool:
    """What IPv6 lets in says nothing of IPv4, and the other way round; there nobody translates."""
    return is_ip(host) and ":" not in host and network(host) is not None

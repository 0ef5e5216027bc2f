"""A network that takes its time and can be cut, in memory: what is sent into a cut is gone, and nobody is told."""

from __future__ import annotations

import asyncio

from dsdnode.addresses import machine_of, network_of
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.net.memory import MemoryHub, MemoryTransport
from dsdnode.net.port import Priority
from dsdnode.wire.messages import Contact


class RoughHub(MemoryHub):
    def __init__(self, latency_s: float = 0.003, byte_s: float = 0.0) -> None:
        super().__init__()
        self.latency_s = latency_s
        self.byte_s = byte_s
        self.cuts: set[frozenset[bytes]] = set()

    def transport(self, contact: Contact) -> MemoryTransport:
        transport = self.transports[peer_id(contact.public_key)] = RoughTransport(self, contact)
        return transport


class RoughTransport(MemoryTransport):
    def __init__(self, hub: RoughHub, contact: Contact) -> None:
        super().__init__(hub, contact)
        self._rough = hub
        self._sent_s: dict[bytes, float] = {}
        """Until when the link to that peer is taken by what went before."""
        self._arrived_s: dict[bytes, float] = {}

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        target = self._hub.transports.get(peer)
        if target is None or self._id not in self._hub.transports:
            raise PeerUnavailable("nobody of that name is here")
        self.calls(peer)
        loop = asyncio.get_running_loop()
        latency_s = 0.0 if target is self else self._rough.latency_s
        self._sent_s[peer] = max(loop.time(), self._sent_s.get(peer, 0.0)) + self._rough.byte_s * sum(map(len, frames))
        # Later than the message before it by a hair: timers of one moment have no order.
        self._arrived_s[peer] = max(self._sent_s[peer] + latency_s, self._arrived_s.get(peer, 0.0) + 1e-6)
        loop.call_at(self._arrived_s[peer], self._arrive, peer, frames)

    def _arrive(self, peer: bytes, frames: list[bytes]) -> None:
        target = self._hub.transports.get(peer)
        if target is None or frozenset((self._id, peer)) in self._rough.cuts:
            return
        target.called_by(self.contact)
        target._inbox.put(self._id, frames, network_of(self.source), machine_of(self.source))

"""Whoever comes by one relay of ours, as that relay says: what is held against them is held against its word alone."""

from __future__ import annotations

import asyncio
from typing import Protocol

from dsdnode.net.relay.frames import Reserved
from dsdnode.net.zap import Gate
from dsdnode.wire.messages import Contact


class Behind:
    """Implements Callee (relay/agent.py) for the agent of one relay, before whoever does what follows."""

    def __init__(self, after: After, gate: Gate, relay: bytes) -> None:
        self._after, self._gate, self._relay = after, gate, relay
        self._loop = asyncio.get_running_loop()
        self.reserved, self.unreserved, self.parted = after.reserved, after.unreserved, after.parted

    def admits(self, host: str) -> bool:
        return self._gate.admits_circuit(self._loop.time(), self._relay, host)

    def spliced(self, port: int, host: str) -> None:
        self._gate.comes_by(port, self._relay, host)
        self._after.spliced(port, host, self._relay)


class After(Protocol):
    def reserved(self, relay: Contact, terms: Reserved) -> None: ...

    def unreserved(self, relay: Contact, why: str) -> None: ...

    def spliced(self, port: int, host: str, relay: bytes) -> None: ...

    def parted(self, port: int) -> None: ...

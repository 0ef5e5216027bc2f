"""The seam between the node and the network: what may carry messages, real (net/zmq.py) or simulated.

A transport delivers whole messages between verified peer ids, at most once, in order within one priority class, or not
at all. It never blocks the sender: a full queue drops the message and raises Overloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from dsdnode.wire.messages import Contact

ATTEMPT_TIMEOUT_S = 5.0
"""From dialling an address to its WELCOME."""
RETRY_S = 0.5
"""A peer that could not be reached is not dialled again sooner."""
HEARTBEAT_S, HEARTBEAT_TIMEOUT_S = 5.0, 15.0
"""A connection whose other end says nothing, not even in answer to a heartbeat, is gone after so long."""
MAX_DIALLED = 128
"""Connections of ours; the one that was used longest ago is closed for one more."""
MAX_TURN = 64
"""Messages of one source that are dealt with before the loop turns to others."""
SEGMENT_BYTES = 1448
"""What TCP puts into one packet of an Ethernet; each may be lost."""
MIN_RESEND_S = 0.2
"""A lost segment is sent again after two round trips, but never sooner: Linux's lower bound of the timer."""


class Priority(IntEnum):
    """Order in which a link sends; lower goes first. Verdicts, cancels and the DHT never wait behind hidden states."""

    CONTROL = 0
    VERIFY = 1
    DRAFT = 2
    BULK = 3


class Transport(Protocol):
    @property
    def contact(self) -> Contact:
        """Our own key and the addresses where we can be dialled (none: we cannot)."""

    def introduce(self, contact: Contact) -> None:
        """Remember where a peer can be dialled; nothing is sent."""

    def contact_of(self, peer: bytes) -> Contact | None:
        """What a peer said of itself in its HELLO (its key is verified), else what was introduced, else None."""

    def source_of(self, peer: bytes) -> str:
        """The IP address that a peer's connection comes from, or that we dialled; "" where that is not known. Nothing
        that it says of itself."""

    def refused_by(self, peer: bytes) -> bool:
        """Did the peer answer our last greeting with a no that is meant for good (another swarm key, say)?"""

    def trouble_with(self, peer: bytes) -> str:
        """Why a peer cannot be reached just now, in words; empty while there is a link to it, or nothing was tried."""

    def on_peer_lost(self, callback: Callable[[bytes, str], None]) -> None:
        """Have `callback(peer, why)` called when the last connection to a peer is gone, or none could be made.

        Messages still queued for it are dropped. It is a hint to look, not a proof of death; the next send dials again.
        """

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        """Queue one message, dialling if need be. Raises PeerUnavailable (no address, just failed) or Overloaded."""

    async def receive(self) -> tuple[bytes, list[bytes]]:
        """The next message of any peer, with the sender's verified id."""

    def ban(self, peer: bytes, duration_s: float) -> None:
        """Close the peer's links, and let it in no more for a while."""

    async def close(self) -> None: ...

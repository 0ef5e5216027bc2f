"""Which connections fill the memory with what is no message yet. libzmq does not say; TCP does, where it can be asked.

A message of endless frames never reaches us, but libzmq keeps what is there of it. So what a connection has received
and we have never seen as messages lies in our memory, and whoever sent it can be hung up on alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsdnode.addresses import network_of
from dsdnode.net.door import Door

MAX_UNSEEN_BYTES = 1 << 20
"""A handshake, and messages that are on their way."""
MAX_UNSEEN_BYTES_S = 256
"""Heartbeats of peers that send some, which libzmq answers by itself: for so long as the connection lives."""
_SEALED_BYTES, _SHORT_BYTES = 33, 255
"""CURVE adds to each frame; ZMTP's own header is 2 bytes for a short one, else 9."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """What one connection has filled."""

    door: Door
    network: str
    num_bytes: int


def sent_for(frames: Iterable[bytes]) -> int:
    """Bytes that a message takes on its connection."""
    num_bytes = 0
    for frame in frames:
        sealed = len(frame) + _SEALED_BYTES
        num_bytes += sealed + (2 if sealed <= _SHORT_BYTES else 9)
    return num_bytes


def look(door: Door, num_seen_bytes: int, age_s: float) -> Unseen:
    """Raises OSError where the system does not tell."""
    expected = num_seen_bytes + MAX_UNSEEN_BYTES + round(MAX_UNSEEN_BYTES_S * age_s)
    return Unseen(door, door.share(network_of(door.caller)), max(0, door.num_received_bytes() - expected))


def culprits(connections: Sequence[Unseen]) -> list[Unseen]:
    """Those that have filled something, of the network that has filled most."""
    filled: Counter[str] = Counter()
    for one in connections:
        filled[one.network] += one.num_bytes
    return [one for one in connections if one.num_bytes and one.network == filled.most_common(1)[0][0]]

"""How fast a node may send, all links together: what is not urgent waits, so that its home's line has room for others.

Pure. What is urgent (control) passes at once, and is paid for by the rest.
"""

from __future__ import annotations

from math import inf

from dsdnode.net.port import SEGMENT_BYTES
from dsdnode.net.relay.rates import Bucket

FRAME_BYTES = 42
"""What CURVE and ZMTP put round each frame."""
HEADER_BYTES = 40
"""Of IP and TCP, before each segment."""


class Meter:
    """Without `hold`: nothing ever waits."""

    def __init__(self) -> None:
        self._bucket: Bucket | None = None

    def hold(self, now: float, bytes_per_s: float) -> None:
        self._bucket = Bucket(now, bytes_per_s) if bytes_per_s < inf else None

    def passes(self, now: float) -> bool:
        """May more be sent that is not urgent?"""
        return self._bucket is None or self._bucket.left(now) > 0

    def took(self, now: float, frames: list[bytes]) -> None:
        """These were sent: so much went over the line."""
        if self._bucket is not None:
            num_bytes = sum(map(len, frames)) + FRAME_BYTES * len(frames)
            self.relayed(now, num_bytes * (SEGMENT_BYTES + HEADER_BYTES) // SEGMENT_BYTES)

    def relayed(self, now: float, num_bytes: int) -> None:
        if self._bucket is not None:
            self._bucket.take(now, num_bytes)

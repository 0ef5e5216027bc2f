"""What a link does to bytes: latency, jitter, bandwidth, loss. Pure: the time is an argument, so is the randomness."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from dsdnode.net.port import MIN_RESEND_S, SEGMENT_BYTES

MAX_RESENDS = 8


@dataclass(frozen=True, slots=True)
class LinkShape:
    """One way of a link. `jitter_s`: each chunk takes up to so much more or less; `bandwidth_mbit` 0: unlimited.

    `loss` is the share of segments that are lost: TCP hides a loss as a delay of everything behind it.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bandwidth_mbit: float = 0.0
    loss: float = 0.0


class DelayLine:
    """One direction of one connection: when what comes in at `now` goes out. Order is kept, as TCP keeps it."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._free_at_s = 0.0
        self._last_due_s = 0.0
        self.num_lost = 0

    def due_s(self, shape: LinkShape, now: float, size_bytes: int) -> float:
        """Serialised after what is on the wire already, then on its way, resent while it is lost; never overtaking."""
        sent_s = now
        if shape.bandwidth_mbit > 0:
            sent_s = max(now, self._free_at_s) + size_bytes * 8 / (shape.bandwidth_mbit * 1e6)
            self._free_at_s = sent_s
        travels_s = shape.latency_s
        if shape.jitter_s > 0:
            travels_s = max(0.0, travels_s + self._rng.uniform(-shape.jitter_s, shape.jitter_s))
        due_s = sent_s + travels_s + self._resent_s(shape, size_bytes)
        self._last_due_s = max(due_s, self._last_due_s)
        return self._last_due_s

    def _resent_s(self, shape: LinkShape, size_bytes: int) -> float:
        """The worst segment's delay; its timer doubles each time."""
        if shape.loss <= 0:
            return 0.0
        timer_s = max(MIN_RESEND_S, 4 * shape.latency_s)
        worst_s = 0.0
        for _ in range(-(-size_bytes // SEGMENT_BYTES)):
            num = 0
            while num < MAX_RESENDS and self._rng.random() < shape.loss:
                num += 1
            self.num_lost += num
            worst_s = max(worst_s, timer_s * (2**num - 1))
        return worst_s

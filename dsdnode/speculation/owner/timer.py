"""How long an owner waits for a verdict before it counts a pass as lost. Speculation section 4."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DOUBLINGS = 5


@dataclass(slots=True)
class RetransmissionTimer:
    """`pass_timeout_s` + `position_timeout_s` for each position in flight, doubled with each setback.

    A pipeline that is slower than that is not a dead one: at least twice the slowest pass of late is waited for.
    """

    pass_timeout_s: float
    position_timeout_s: float
    waiting_since_s: float = 0.0
    num_timeouts: int = 0
    """In a row on this route: what to do next."""
    num_answers: int = 0
    _num_setbacks: int = 0
    """Timeouts less verdicts, over all routes: each doubles the patience, or a slow pipeline is never heard."""
    _slow_pass_s: float = 0.0

    def ends_s(self, num_positions: int) -> float:
        """With so many positions in flight."""
        usual_s = min(2 * self._slow_pass_s, 8 * self.pass_timeout_s)
        patience_s = max(self.pass_timeout_s, usual_s) + self.position_timeout_s * num_positions
        return self.waiting_since_s + patience_s * 2.0 ** min(self._num_setbacks, MAX_DOUBLINGS)

    def answered(self, now: float, sent_s: float) -> None:
        self.waiting_since_s, self.num_timeouts = now, 0
        self.num_answers += 1
        self._num_setbacks = max(0, self._num_setbacks - 1)
        self._slow_pass_s = max(now - sent_s, 0.9 * self._slow_pass_s)

    def ran_out(self, now: float) -> int:
        """How often in a row, by now."""
        self.num_timeouts += 1
        self._num_setbacks += 1
        self.waiting_since_s = now
        return self.num_timeouts

    def begin_route(self) -> None:
        self.num_timeouts = 0

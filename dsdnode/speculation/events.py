"""One log a reply: feeds statistics, and later recordings, the simulator and bug reports. Speculation section 4."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MAX_EVENTS = 4096
MAX_OFFSETS = 64


@dataclass(frozen=True, slots=True)
class PassEvent:
    """One judged pass: of `num_drafted` tokens from `position` in `epoch` `num_accepted` stood; `num_committed` in all.

    `sent_s` and `judged_s` on the owner's clock; `stage_s`: the stages' own times; `window`, `mode`: its plan.
    """

    epoch: int
    position: int
    num_drafted: int
    num_accepted: int
    num_committed: int
    sent_s: float
    judged_s: float
    stage_s: tuple[float, ...]
    window: int
    mode: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """For `run --json`. `acceptance_length_mean` counts the own token; `by_position[i]`: (reached, accepted)."""

    prompt_tokens: int
    completion_tokens: int
    time_to_first_token_s: float | None
    tokens_per_second: float | None
    drafted: int
    accepted: int
    acceptance_rate: float | None
    acceptance_length_mean: float | None
    passes: int
    recoveries: int
    by_position: tuple[tuple[int, int], ...]


class EventLog:
    """Keeps the last MAX_EVENTS passes and exact totals of all of them."""

    def __init__(self, prompt_tokens: int) -> None:
        self.passes: deque[PassEvent] = deque(maxlen=MAX_EVENTS)
        self._prompt_tokens = prompt_tokens
        self._started_s: float | None = None
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._num_completed = 0
        self._num_first = 0
        self._num_drafted = 0
        self._num_accepted = 0
        self._num_passes = 0
        self._num_drafted_passes = 0
        self._num_recoveries = 0
        self._reached = [0] * MAX_OFFSETS
        self._stood = [0] * MAX_OFFSETS

    def start(self, now: float) -> None:
        self._started_s = now

    def recovered(self) -> None:
        """A new epoch for another reason than a rejection."""
        self._num_recoveries += 1

    def judged(self, event: PassEvent) -> None:
        self.passes.append(event)
        self._num_passes += 1
        self._num_drafted += event.num_drafted
        self._num_accepted += event.num_accepted
        self._num_drafted_passes += event.num_drafted > 0
        for offset in range(min(event.num_drafted, event.num_accepted + 1, MAX_OFFSETS)):
            self._reached[offset] += 1
            self._stood[offset] += offset < event.num_accepted
        self._emitted(event.judged_s, event.num_committed)

    def _emitted(self, now: float, num_tokens: int) -> None:
        self._num_completed += num_tokens
        self._last_s = now
        if self._first_s is None:
            self._first_s = now
            self._num_first = num_tokens

    def statistics(self) -> Statistics:
        """Totals so far. `tokens_per_second` is of the tokens after the first pass, over the time they took."""
        reached = [count for count in self._reached if count]
        return Statistics(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._num_completed,
            time_to_first_token_s=_minus(self._first_s, self._started_s),
            tokens_per_second=_ratio(self._num_completed - self._num_first, _minus(self._last_s, self._first_s)),
            drafted=self._num_drafted,
            accepted=self._num_accepted,
            acceptance_rate=_ratio(self._num_accepted, self._num_drafted),
            acceptance_length_mean=_ratio(self._num_accepted + self._num_drafted_passes, self._num_drafted_passes),
            passes=self._num_passes,
            recoveries=self._num_recoveries,
            by_position=tuple(zip(reached, self._stood, strict=False)),
        )


def _minus(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


def _ratio(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None

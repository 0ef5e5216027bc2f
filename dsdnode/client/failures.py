"""What came of asking the drafters for one reply: whom to ask again, and what to say when nobody is left. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dsdnode.client.request import Denied, Left, PendingReply
from dsdnode.errors import DsdError, NoPipeline, Overloaded

MAX_TRIES = 2
"""Of one drafter, without a token: a link may break under a drafter that lives."""
MAX_DENIALS = 8
"""So many drafters are believed who say that it cannot be done, whoever else there is. (Where every third lies, so many
liars in a row are one case in six thousand.)"""


@dataclass(slots=True)
class _Failure:
    """What came of asking a drafter last; `num`: in a row, without a token in between."""

    error: DsdError
    num: int

    @property
    def final(self) -> bool:
        return not isinstance(self.error, Overloaded) and self.num >= MAX_TRIES


class Failures:
    """Of one reply, by drafter."""

    def __init__(self) -> None:
        self._last: dict[bytes, _Failure] = {}

    def __contains__(self, drafter: bytes) -> bool:
        return drafter in self._last

    def __bool__(self) -> bool:
        return bool(self._last)

    def note(self, drafter: bytes, error: DsdError, *, progressed: bool) -> None:
        known = self._last.pop(drafter, None)
        num = 1 if known is None or progressed else known.num + 1
        self._last[drafter] = _Failure(error, MAX_TRIES if isinstance(error, Left | Denied) else num)

    def gone(self, drafter: bytes, error: DsdError) -> None:
        """It need not be asked again."""
        self._last[drafter] = _Failure(error, MAX_TRIES)

    def is_full(self, drafter: bytes) -> bool:
        return isinstance(self._last[drafter].error, Overloaded)

    def again(self, offered: Collection[bytes]) -> bytes | None:
        """Who of these may be asked once more: who was full, rather."""
        left = [drafter for drafter, failure in self._last.items() if drafter in offered and not failure.final]
        return min(left, key=lambda drafter: not self.is_full(drafter), default=None)

    @property
    def deniers(self) -> list[bytes]:
        return [drafter for drafter, failure in self._last.items() if isinstance(failure.error, Denied)]

    def denied(self) -> DsdError | None:
        """What the first of those said who say that it cannot be done."""
        errors = (failure.error for failure in self._last.values())
        return next((error.error for error in errors if isinstance(error, Denied)), None)

    def nobody_left(self, pending: PendingReply) -> DsdError:
        """What to raise."""
        if (denied := self.denied()) is not None:
            return denied
        if self._last:
            reasons = "; ".join(dict.fromkeys(str(failure.error) for failure in self._last.values()))
            return NoPipeline(f"no drafter is left for {pending.model.name} ({reasons})")
        return NoPipeline(
            f"no drafter with the tokenizer of {pending.model.name} in this swarm: `dsdnode start --role drafter "
            "--model-draft FILE --join ...` adds one"
        )

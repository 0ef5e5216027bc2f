"""What came of asking the drafters for one reply: whom to ask again, and whose words to raise. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.client.losses import Denied, Died, Left
from dsdnode.client.pace import MIN_TOKENS
from dsdnode.errors import DsdError, Overloaded, PeerMisbehaved
from dsdnode.net.rpc import LinkBroken

MAX_TRIES = 2
"""Of one drafter, without a token: a link may break under a drafter that lives."""
MAX_DENIALS = 8
"""So many drafters are believed who say that it cannot be done, whoever else there is. (Where every third lies, so many
liars in a row are one case in six thousand.)"""


@dataclass(slots=True)
class Failure:
    """What came of asking a drafter last; `num`: in a row, without a token in between. `away`: it does not even answer
    a ping. `beaten_by`: whoever was faster, and goes on."""

    error: DsdError
    num: int = 1
    away: bool = False
    beaten_by: bytes = b""

    @property
    def final(self) -> bool:
        return not self.full and self.num >= MAX_TRIES

    @property
    def again(self) -> bool:
        """It may be asked again at once."""
        return not self.full and not self.final

    @property
    def full(self) -> bool:
        return isinstance(self.error, Overloaded)


class Failures(dict[bytes, Failure]):
    """Of one reply, by drafter, in the order in which they failed last."""

    def __init__(self) -> None:
        super().__init__()
        self.givers: set[bytes] = set()
        """Those that gave tokens before they failed."""

    def note(self, drafter: bytes, error: DsdError, num_given: int) -> None:
        """`num_given`: tokens, since it was asked. Who is left again after a few of them could go on so for hours, and
        was not faster than another one."""
        known = self.pop(drafter, None)
        is_again = known is not None and isinstance(known.error, Left) and isinstance(error, Left)
        progressed = num_given >= MIN_TOKENS if is_again else num_given > 0
        num = 0 if known is None or progressed else known.num
        num += not isinstance(error, LinkBroken)  # it is there, by another link
        final = isinstance(error, Denied) or (isinstance(error, Left) and not num_given)
        self[drafter] = Failure(error, MAX_TRIES if final else num)
        if num_given:
            self.givers.add(drafter)
        if num_given < MIN_TOKENS:
            self._forgive(drafter)

    def slow(self, drafter: bytes, error: Left, beaten_by: bytes = b"") -> None:
        """Another one is asked in its place: it may be asked once more when nobody else is left."""
        known = self.pop(drafter, None)
        self[drafter] = Failure(error, 1 if known is None else known.num + 1, beaten_by=beaten_by)

    def _forgive(self, winner: bytes) -> None:
        """Those that it has beaten."""
        for failure in self.values():
            if failure.beaten_by == winner:
                failure.num, failure.beaten_by = failure.num - 1, b""

    def may_be_better(self, drafter: bytes) -> bool:
        """Than one that gives something: it was not asked yet, or was not at fault."""
        known = self.get(drafter)
        return known is None or not isinstance(known.error, Left | Denied | Died | PeerMisbehaved)

    def was_left(self, drafter: bytes) -> bool:
        """It gave too little, or nothing for too long."""
        known = self.get(drafter)
        return known is not None and isinstance(known.error, Left)

    @property
    def full(self) -> list[bytes]:
        return [drafter for drafter, failure in self.items() if failure.full]

    @property
    def deniers(self) -> list[bytes]:
        return [drafter for drafter, failure in self.items() if isinstance(failure.error, Denied)]

    @property
    def denied(self) -> DsdError | None:
        """What the first of those said who say that it cannot be done."""
        errors = (failure.error for failure in self.values())
        return next((error.error for error in errors if isinstance(error, Denied)), None)

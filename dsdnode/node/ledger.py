"""A record of what this machine gave, by day, in the data dir. `today` is an argument everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

import msgspec
import structlog

from dsdnode.errors import BadInput
from dsdnode.files import replacing

MAX_DAYS = 366
"""Told apart; what was before is one sum."""
MAX_BYTES = 256 * 1024
MONTH_DAYS = 30

log = structlog.get_logger(__name__)


class Given(msgspec.Struct, frozen=True):
    """`tokens`: positions that the engines here computed, of prompts, drafts and replies; `replies`: that this machine
    had a part in, for others; bytes that it sent and received, those it relayed too."""

    tokens: int = 0
    replies: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def plus(self, other: Given) -> Given:
        return Given(*(one + more for one, more in zip(_values(self), _values(other), strict=True)))

    def since(self, earlier: Given) -> Given:
        return Given(*(max(0, one - less) for one, less in zip(_values(self), _values(earlier), strict=True)))


class GivenInAll(msgspec.Struct, frozen=True):
    """On this day, on the last 30 (this one included), and since the record began."""

    today: Given
    month: Given
    all: Given


class _Kept(msgspec.Struct):
    days: dict[str, Given] = {}
    before: Given = Given()


class Ledger:
    """`read` it once; `add` what came since; `write` it now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._days: dict[str, Given] = {}
        self._before = Given()
        self._is_written = True

    def read(self) -> None:
        """A file that is not one of ours is passed over in words, and replaced."""
        try:
            if self._path.exists() and not self._path.is_file():
                raise ValueError("it is no file")  # a pipe would be waited for
            kept = msgspec.json.decode(self._path.read_bytes()[: MAX_BYTES + 1], type=_Kept)
            days = {date.fromisoformat(day).isoformat(): given for day, given in kept.days.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            log.warning("the record of what this machine gave cannot be read; a new one begins", reason=str(error))
            return
        self._days, self._before = days, kept.before

    def add(self, today: date, given: Given) -> None:
        if given == Given():
            return
        day = today.isoformat()
        self._days[day] = self._days.get(day, Given()).plus(given)
        while len(self._days) > MAX_DAYS:
            self._before = self._before.plus(self._days.pop(min(self._days)))
        self._is_written = False

    def write(self) -> None:
        """If there is anything new. A disk that is full costs the record, not the node."""
        if self._is_written:
            return
        try:
            with replacing(self._path) as file:
                file.write(msgspec.json.encode(_Kept(dict(sorted(self._days.items())), self._before)))
        except (OSError, BadInput) as error:
            log.warning("the record of what this machine gave cannot be written", reason=str(error))
        else:
            self._is_written = True

    def told(self, today: date) -> GivenInAll:
        first = (today - timedelta(days=MONTH_DAYS - 1)).isoformat()
        month = (given for day, given in self._days.items() if first <= day <= today.isoformat())
        everything = _sum((*self._days.values(), self._before))
        return GivenInAll(self._days.get(today.isoformat(), Given()), _sum(month), everything)


def _sum(several: Iterable[Given]) -> Given:
    total = Given()
    for given in several:
        total = total.plus(given)
    return total


def _values(given: Given) -> tuple[int, int, int, int]:
    return given.tokens, given.replies, given.sent_bytes, given.received_bytes

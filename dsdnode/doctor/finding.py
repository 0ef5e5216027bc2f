"""One thing that the doctor says."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Level(IntEnum):
    """Worst first."""

    BROKEN = 0
    """Something is of no use as it is, and the user can mend it."""
    DOUBT = 1
    """It may do harm, or it cannot be told."""
    FINE = 2


class Finding(msgspec.Struct, frozen=True):
    """`kind` stays the same from version to version, for programs; `step`: what to do next ("": nothing)."""

    level: Level
    kind: str
    says: str
    step: str = ""

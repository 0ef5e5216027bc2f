"""What a session at one stage is, and which events it hears then."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    """Of a session at one stage."""

    OPEN = "it appends, forwards or judges"
    LOST = "its worker died, and with it the cache: it waits, empty, to be opened again"
    CLOSING = "it is over, but a run is in flight, whose sequences are not free before its end"
    GONE = "it is forgotten"


NEXT: Final[Mapping[tuple[Phase, str], Phase]] = {
    (Phase.OPEN, "Open"): Phase.OPEN,
    (Phase.OPEN, "Block"): Phase.OPEN,
    (Phase.OPEN, "Closed"): Phase.OPEN,
    (Phase.OPEN, "Masks"): Phase.OPEN,
    (Phase.OPEN, "run over"): Phase.OPEN,
    (Phase.OPEN, "worker died"): Phase.LOST,
    (Phase.OPEN, "Close"): Phase.CLOSING,
    (Phase.OPEN, "lease over"): Phase.CLOSING,
    (Phase.LOST, "Open"): Phase.OPEN,
    (Phase.LOST, "Block"): Phase.LOST,
    (Phase.LOST, "Closed"): Phase.LOST,
    (Phase.LOST, "worker died"): Phase.LOST,
    (Phase.LOST, "Close"): Phase.CLOSING,
    (Phase.LOST, "lease over"): Phase.CLOSING,
    (Phase.CLOSING, "run over"): Phase.GONE,
    (Phase.CLOSING, "worker died"): Phase.GONE,
    (Phase.CLOSING, "Close"): Phase.CLOSING,
}
"""What is not here is not heard. (A session that is closing without a run in flight is gone at once.)"""

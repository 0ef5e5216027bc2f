"""What a reply's route is at, and where events lead from there."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    OPENING = "a pipeline is looked for, or being opened"
    RUNNING = "blocks go round the pipeline"
    OVER = "nothing more is sent"


NEXT: Final[Mapping[tuple[Phase, str], Phase]] = {
    (Phase.OPENING, "opened"): Phase.RUNNING,
    (Phase.OPENING, "route wanted"): Phase.OPENING,
    (Phase.OPENING, "end"): Phase.OVER,
    (Phase.RUNNING, "route wanted"): Phase.OPENING,
    (Phase.RUNNING, "end"): Phase.OVER,
}

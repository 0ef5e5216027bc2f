"""At which hours a machine serves. Pure: the time of day is an argument."""

from __future__ import annotations

from datetime import datetime

from dsdnode.config import Hours


def resting(hours: Hours | None, now: datetime) -> str:
    """Why it does not serve now, in words; "": it does. `now`: on the clock of its user's wall."""
    if hours is None:
        return ""
    start, end = hours
    minute = 60 * now.hour + now.minute
    is_open = start <= minute < end if start < end else minute >= start or minute < end
    return "" if is_open else f"paused for others until {told(start)} (--hours {told(start)}-{told(end)})"


def told(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"

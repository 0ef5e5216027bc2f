"""Every measurement there is, in the order of the page."""

from __future__ import annotations

from tests.measurements.measurement import Chapter, Measurement
from tests.measurements.simulated import DHT, EDGE, PREDICTED, THEORY
from tests.measurements.sound import BUGS, SOUND
from tests.measurements.speed import SPEED

CHAPTERS: tuple[Chapter, ...] = (SOUND, SPEED, PREDICTED, THEORY, DHT, EDGE, BUGS)
MEASUREMENTS: dict[str, Measurement] = {one.name: one for chapter in CHAPTERS for one in chapter.measurements}

"""A measurement as data: its name, what is run, and what of the output goes into the page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from tests.measurements.figures import Figures
from tests.measurements.reading import Output

INPUTS = {
    "gsm8k": "test prompts of GSM8K, JSON Lines",
    "humaneval": "prompts of HumanEval, JSON Lines",
    "gemma": "Gemma 3 270M in Q4_K_M (`python -m tests.engine.gemma` fetches it)",
}
"""Files that are not in this repository; commands name them as {gsm8k}."""
WORK = "work"
"""{work} in a command: the measurement's own folder, kept until it is known."""


@dataclass(frozen=True, slots=True)
class Step:
    """`label`: what it is called in the table, where a measurement has several."""

    command: str
    label: str = ""

    @property
    def shown(self) -> str:
        """As on the page, with the places of files in capitals."""
        return self.command.format_map({name: name.upper() for name in (*INPUTS, WORK)})

    @property
    def needs(self) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(self.command) if name} - {WORK}

    def words(self, files: Mapping[str, Path]) -> list[str]:
        return shlex.split(self.command.format_map({name: shlex.quote(str(path)) for name, path in files.items()}))


@dataclass(frozen=True, slots=True)
class Measurement:
    """`minutes`: about how long it takes on two quiet cores. `read` gets the output of each step."""

    name: str
    heading: str
    about: str
    steps: tuple[Step, ...]
    minutes: float
    read: Callable[[Sequence[Output]], Figures]

    @property
    def needs(self) -> set[str]:
        """Of INPUTS."""
        return {name for step in self.steps for name in step.needs}


@dataclass(frozen=True, slots=True)
class Chapter:
    title: str
    about: str
    measurements: tuple[Measurement, ...]

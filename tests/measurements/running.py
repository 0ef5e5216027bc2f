"""Runs measurements: each step in a process of its own, what it printed kept until the measurement is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.measurements.figures import Result
from tests.measurements.measurement import WORK, Measurement, Step
from tests.measurements.reading import Output, Unread

LONGEST_S = 7200.0
"""Of a measurement."""
LEAVE_WITHIN_S = 30.0
"""A command that took too long is told to end, and then killed."""
PROGRAMS = {
    "dsdnode": (sys.executable, "-m", "dsdnode.cli"),
    "python": (sys.executable,),
    "pytest": (sys.executable, "-m", "pytest"),
}
DOCUMENTS = (".", ":(exclude)docs", ":(exclude)*.md", ":(exclude)tests/bench/results")
"""What is not these decides the figures."""


class Failed(Exception):
    """A command did not do what it should; in words."""


@dataclass(frozen=True, slots=True)
class Version:
    """`commit`: the last one that changed more than documents, `date` its day. `changed`: files that no commit has."""

    commit: str
    date: str
    changed: tuple[str, ...]


def version(root: Path) -> Version:
    commit, date = _git(root, "log", "-1", "--format=%h %cs", "--", *DOCUMENTS).split()
    status = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *DOCUMENTS)
    return Version(commit, date, tuple(line[3:] for line in status.splitlines()))


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True, slots=True)
class Laboratory:
    """`work`: a folder of this commit's; `files`: those of INPUTS that there are."""

    root: Path
    work: Path
    version: Version
    files: Mapping[str, Path]
    tell: Callable[[str], None]

    def measure(self, wanted: Measurement) -> Result:
        """Steps that an earlier call has finished are not run again. Raises Failed."""
        folder = self.work / self.version.commit / wanted.name
        folder.mkdir(parents=True, exist_ok=True)
        files = {**self.files, WORK: folder}
        outputs: list[Output] = []
        for index, step in enumerate(wanted.steps):
            left_s = LONGEST_S - sum(output.seconds for output in outputs)
            outputs.append(self._run(step, step.words(files), folder / f"{index}.out", left_s))
        try:
            figures = wanted.read(outputs)
        except (Unread, LookupError, ValueError, TypeError) as error:
            raise Failed(f"its output cannot be read ({type(error).__name__}: {error}); it is in {folder}") from None
        seconds = round(sum(output.seconds for output in outputs), 1)
        commands = tuple(step.shown for step in wanted.steps)
        return Result(self.version.commit, self.version.date, commands, figures, seconds)

    def _run(self, step: Step, words: list[str], out: Path, left_s: float) -> Output:
        """`out` and, beside it, the command and its seconds."""
        note = out.with_suffix(".json")
        if note.exists():
            kept = json.loads(note.read_text())
            if kept["words"] == words:
                self.tell(f"  {step.shown}: known, {kept['seconds']:.0f} s")
                return Output(out.read_text(), kept["seconds"], step.label)
        self.tell(f"  {step.shown}")
        began_s = time.monotonic()
        with out.open("w") as file:
            _call(self.root, words, file.fileno(), left_s)
        seconds = round(time.monotonic() - began_s, 1)
        note.write_text(json.dumps({"words": words, "seconds": seconds}))
        return Output(out.read_text(), seconds, step.label)


def _call(root: Path, words: list[str], stdout: int, left_s: float) -> None:
    """Its stderr is ours. Raises Failed."""
    program, *rest = words
    search = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": search}
    with subprocess.Popen([*PROGRAMS[program], *rest], cwd=root, stdout=stdout, env=environment) as process:
        try:
            code = process.wait(left_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(LEAVE_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise Failed(f"it took longer than {LONGEST_S / 3600:g} hours") from None
    if code:
        raise Failed(f"exit code {code}")

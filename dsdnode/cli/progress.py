"""How far a long command is, on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import click

LINE_EVERY_S = 15.0


class LineProgress:
    """A line for each cell, and one every LINE_EVERY_S. A context, as BarProgress is."""

    def __init__(self) -> None:
        self._num_steps = self._num_done = 0
        self._began_s = self._told_s = time.monotonic()

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def begin(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def cell(self, text: str) -> None:
        self._tell(text)

    def step(self, text: str) -> None:
        self._num_done += 1
        if time.monotonic() - self._told_s >= LINE_EVERY_S:
            self._tell(text)

    def _tell(self, text: str) -> None:
        self._told_s = time.monotonic()
        click.echo(f"{self._told_s - self._began_s:6.0f} s  {self._num_done}/{self._num_steps}  {text}", err=True)


class BarProgress:
    """rich's, with the time that is left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar: Any = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None)
        self._cell = ""

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, num_steps: int) -> None:
        self._bar.update(self._task, total=num_steps)

    def cell(self, text: str) -> None:
        self._cell = text
        self._bar.update(self._task, description=text)

    def step(self, text: str) -> None:
        self._bar.update(self._task, advance=1, description=f"{self._cell} · {text}")

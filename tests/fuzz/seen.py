"""Which lines and branches of a parser its cases have been on: of the functions, classes and files that it names."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import coverage

from tests.fuzz.parser import Case, Parser
from tests.fuzz.run import Report, run


@dataclass(frozen=True, slots=True)
class Seen:
    """Of how many there are; `missing`: lines that no case was on, as file:line."""

    num_lines: int
    num_branches: int
    num_branches_taken: int
    missing: tuple[str, ...]

    @property
    def told(self) -> str:
        lines = f"lines {self.num_lines - len(self.missing)} of {self.num_lines}"
        return f"{lines}, branches {self.num_branches_taken} of {self.num_branches}"


def run_seen(parser: Parser, cases: Iterable[Case]) -> tuple[Report, Seen]:
    """What `run` says, and where the cases have been."""
    ranges = [_range(function) for target in parser.targets for function in _functions(target)]
    recorder = coverage.Coverage(data_file=None, branch=True, include=sorted({file for file, _, _ in ranges}))
    recorder.start()
    try:
        report = run(parser, cases, limit_s=20.0)
    finally:
        recorder.stop()
    return report, _seen(_told(recorder), ranges)


def _told(recorder: coverage.Coverage) -> dict[str, Any]:
    """By file; nothing where no case was on any line."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        try:
            recorder.json_report(outfile=file.name)
        except coverage.exceptions.NoDataError:
            return {}
        told: dict[str, Any] = json.loads(Path(file.name).read_text())["files"]
    return {str(Path(name).resolve()): seen for name, seen in told.items()}


def _seen(told: dict[str, Any], ranges: Iterable[tuple[str, int, int]]) -> Seen:
    lines, missing = set[tuple[str, int]](), set[tuple[str, int]]()
    branches, taken = set[tuple[str, int, int]](), set[tuple[str, int, int]]()
    for file, first, last in ranges:
        seen = told.get(str(Path(file).resolve()), {})
        run_on, not_on = seen.get("executed_lines", ()), seen.get("missing_lines", ())
        lines |= {(file, line) for line in (*run_on, *not_on) if first < line <= last}
        missing |= {(file, line) for line in not_on if first < line <= last}
        ways, ways_not = seen.get("executed_branches", ()), seen.get("missing_branches", ())
        taken |= {(file, start, end) for start, end in ways if first < start <= last}
        branches |= {(file, start, end) for start, end in (*ways, *ways_not) if first < start <= last}
    named = tuple(f"{Path(file).name}:{line}" for file, line in sorted(missing))
    return Seen(len(lines), len(branches), len(taken), named)


def _functions(target: Any) -> Iterator[FunctionType]:
    if inspect.isclass(target):
        for member in vars(target).values():
            member = getattr(member, "fget", getattr(member, "__func__", member))
            member = inspect.unwrap(member) if callable(member) else member
            # (What a dataclass is given is written nowhere.)
            if isinstance(member, FunctionType) and member.__code__.co_filename == inspect.getfile(target):
                yield member
    elif isinstance(target, ModuleType):
        for member in vars(target).values():
            known = inspect.isroutine(member) or inspect.isclass(member)
            if known and getattr(inspect.unwrap(member), "__module__", "") == target.__name__:
                yield from _functions(member)
    else:
        yield inspect.unwrap(target)


def _range(function: FunctionType) -> tuple[str, int, int]:
    """File, the line of `def`'s end and the last one: its body is between them."""
    source, first = inspect.getsourcelines(function)
    body = next(
        number for number, line in enumerate(source) if line.partition("  #")[0].rstrip().endswith((":", "..."))
    )
    return inspect.getfile(function), first + body, first + len(source) - 1

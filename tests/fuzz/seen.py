"""Which lines of a parser its cases have been on: of the functions that it names, not of whole files."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import coverage

from tests.fuzz.parser import Case, Parser
from tests.fuzz.run import Report, run


def run_seen(parser: Parser, cases: Iterable[Case]) -> tuple[Report, int, list[str]]:
    """What `run` says; how many lines there are to be on; those that no case was on, as file:line."""
    ranges = [_range(function) for target in parser.targets for function in _functions(target)]
    recorder = coverage.Coverage(data_file=None, include=sorted({file for file, _, _ in ranges}))
    recorder.start()
    try:
        report = run(parser, cases, limit_s=20.0)
    finally:
        recorder.stop()
    lines, missing = set(), set()
    for file, first, last in ranges:
        _, all_lines, _, not_seen, _ = recorder.analysis2(file)
        lines |= {(file, line) for line in all_lines if first < line <= last}
        missing |= {(file, line) for line in not_seen if first < line <= last}
    return report, len(lines), [f"{Path(file).name}:{line}" for file, line in sorted(missing)]


def _functions(target: Any) -> Iterator[FunctionType]:
    if inspect.isclass(target):
        for member in vars(target).values():
            member = getattr(member, "fget", member)
            if isinstance(member, FunctionType) and member.__module__ == target.__module__:
                yield member
    else:
        yield inspect.unwrap(target)


def _range(function: FunctionType) -> tuple[str, int, int]:
    """File, the line of `def`'s end and the last one: its body is between them."""
    source, first = inspect.getsourcelines(function)
    body = next(number for number, line in enumerate(source) if line.rstrip().endswith(":"))
    return inspect.getfile(function), first + body, first + len(source) - 1

"""Runs cases of one parser: counts, times and keeps what should not have happened."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from types import FrameType

from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser

LIMIT_S = 1.0
"""Of the processor, for a case: none should take a hundredth of it."""
MAX_FINDINGS = 50
"""Of one run: more of them say the same."""


class TooLong(BaseException):
    """Nobody shall catch it on its way."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`sign`: what findings of one cause have in common."""

    parser: str
    case: Case
    sign: str
    told: str

    def save(self, folder: Path) -> Path:
        """As a line of a corpus, with what was seen as comments."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.parser}-{sha256(self.sign.encode()).hexdigest()[:12]}.txt"
        comments = "".join(f"# {line}\n" for line in self.told.splitlines())
        path.write_text(f"{comments}{line_of(self.case)}\n", "utf-8", "backslashreplace")
        return path


@dataclass(slots=True)
class Report:
    num: int = 0
    num_fitting: int = 0
    num_accepted: int = 0
    num_slow: int = 0
    slowest_s: float = 0.0
    seconds: float = 0.0
    """Of the processor, the making of the cases among them."""
    findings: dict[str, Finding] = field(default_factory=dict)
    """By sign."""


def cases_of(parser: Parser, seed: int, num: int) -> Iterator[Case]:
    """The same for the same seed."""
    mutator = Mutator(Random(f"{parser.name} {seed}"))
    for _ in range(num):
        yield parser.make(mutator)


def run(parser: Parser, cases: Iterable[Case], limit_s: float = LIMIT_S) -> Report:
    report, fits = Report(), parser.fits
    began_s = time.process_time()
    with _watched(report, limit_s):
        for case in cases:
            report.num += 1
            report.num_fitting += fits is None or fits(case)
            before_s = time.process_time()
            try:
                _try(parser, case, report)
            except TooLong:
                report.num_slow += 1
                if not parser.slow:
                    _keep(report, Finding(parser.name, case, "too long", f"longer than {limit_s:g} s"))
            report.slowest_s = max(report.slowest_s, time.process_time() - before_s)
            if len(report.findings) >= MAX_FINDINGS:
                break
    report.seconds = time.process_time() - began_s
    return report


def _try(parser: Parser, case: Case, report: Report) -> None:
    try:
        parser.parse(case)
        report.num_accepted += 1
    except parser.documented:
        return
    except TooLong:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        sign = f"{type(error).__name__} {Path(place.filename).name}:{place.lineno}"
        _keep(report, Finding(parser.name, case, sign, "".join(traceback.format_exception(error, limit=-4))))


def _keep(report: Report, finding: Finding) -> None:
    report.findings.setdefault(finding.sign, finding)


@contextmanager
def _watched(report: Report, limit_s: float) -> Iterator[None]:
    """One timer for all cases: at each beat another one must be in progress than at the last."""
    seen = -1

    def beat(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if report.num == seen:
            seen = -1
            raise TooLong
        seen = report.num

    before = signal.signal(signal.SIGPROF, beat)
    signal.setitimer(signal.ITIMER_PROF, limit_s, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


# --- files


def line_of(case: Case) -> str:
    return " ".join(part.hex() or "-" for part in case)


def read_cases(path: Path) -> list[Case]:
    """A case a line, its parts in hex ("-": empty); what follows a # is for people."""
    lines = (line.partition("#")[0].split() for line in path.read_text("utf-8").splitlines())
    return [tuple(b"" if part == "-" else bytes.fromhex(part) for part in parts) for parts in lines if parts]

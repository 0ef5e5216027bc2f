"""A long run of all parsers, in stretches of one seed each, so that it can be ended and taken up again at any time.

Of each stretch a line is kept, in a file of its parser in the campaign's folder; seeds that are there are not played
again. All parsers go forward side by side, each in proportion to what is wanted of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.fuzz.parser import Parser
from tests.fuzz.run import Report, cases_of, run

STRETCH_CASES = 2000
"""Of one seed: some seconds of the slowest parser, and what is lost when a campaign is ended."""


WANTED, WANTED_LEAST = ((15_000, 600_000), (1_000, 100_000)), 20_000
"""Cases, of parsers that take more than so many a second: more than ten million in all."""


class Stretch(msgspec.Struct):
    """One line: what was seen of the cases of one seed."""

    seed: int
    num: int
    fitting: int
    accepted: int
    slow: int
    slowest_s: float
    seconds: float
    findings: list[str]

    @classmethod
    def of(cls, seed: int, report: Report) -> Stretch:
        return cls(
            seed, report.num, report.num_fitting, report.num_accepted, report.num_slow, report.slowest_s,
            report.seconds, list(report.findings),
        )  # fmt: skip


@dataclass(slots=True)
class Ledger:
    """What a campaign has seen of one parser."""

    parser: Parser
    path: Path
    num: int = 0
    fitting: int = 0
    accepted: int = 0
    slowest_s: float = 0.0
    seconds: float = 0.0
    next_seed: int = 0
    findings: dict[str, None] | None = None

    @classmethod
    def read(cls, parser: Parser, folder: Path) -> Ledger:
        ledger = cls(parser, folder / f"{parser.name}.jsonl", findings={})
        if ledger.path.exists():
            for line in ledger.path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # the last one may be half written
                    ledger._add(msgspec.json.decode(line, type=Stretch))
        return ledger

    def play(self, folder: Path) -> None:
        """One more stretch; what is found is kept as a file, too."""
        report = run(self.parser, cases_of(self.parser, self.next_seed, STRETCH_CASES))
        for finding in report.findings.values():
            print(f"FOUND {self.parser.name} {finding.sign}: {finding.save(folder)}", flush=True)
        stretch = Stretch.of(self.next_seed, report)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(stretch) + b"\n")
        self._add(stretch)

    def _add(self, stretch: Stretch) -> None:
        self.num += stretch.num
        self.fitting += stretch.fitting
        self.accepted += stretch.accepted
        self.seconds += stretch.seconds
        self.slowest_s = max(self.slowest_s, stretch.slowest_s)
        self.next_seed = max(self.next_seed, stretch.seed + 1)
        assert self.findings is not None
        self.findings |= dict.fromkeys(stretch.findings)

    @property
    def wanted(self) -> int:
        """Cases: fewer where one is a file, a template or a machine's game, and fewest where it is a whole host's."""
        rate = self.num / max(1e-9, self.seconds)
        return next((num for least, num in WANTED if rate > least), WANTED_LEAST)

    def row(self, coverage: str) -> str:
        first = "decoded" if self.parser.fits is None else f"{100 * self.fitting / max(1, self.num):.1f} %"
        rate, accepted = self.num / max(1e-9, self.seconds), 100 * self.accepted / max(1, self.num)
        return (
            f"{self.parser.name:16}{self.num:>12,}{rate:>10,.0f}{first:>10}{accepted:>8.1f} %"
            f"{1e3 * self.slowest_s:>10.1f}  {coverage:28}{len(self.findings or ()):>3}"
        )


HEADING = (
    f"{'parser':16}{'cases':>12}{'/s':>10}{'1st check':>10}{'accepted':>10}{'ms, most':>10}  {'coverage':25} found"
)


def campaign(parsers: Iterable[Parser], folder: Path, minutes: float) -> None:
    """Play until time is up, always on with whoever is farthest behind."""
    folder.mkdir(parents=True, exist_ok=True)
    ledgers = [Ledger.read(parser, folder) for parser in parsers]
    ends_s = time.monotonic() + 60 * minutes
    while time.monotonic() < ends_s:
        min(ledgers, key=lambda ledger: ledger.num / ledger.wanted).play(folder)


def table(parsers: Iterable[Parser], folder: Path, coverage: Callable[[Parser], str]) -> str:
    ledgers = [Ledger.read(parser, folder) for parser in parsers]
    total, found = sum(one.num for one in ledgers), sum(len(one.findings or ()) for one in ledgers)
    checked = [one for one in ledgers if one.parser.fits is not None]
    num, fitting = sum(one.num for one in checked), sum(one.fitting for one in checked)
    rows = [one.row(coverage(one.parser)) for one in ledgers]
    end = f"{total:,} cases, {found} findings; of {num:,} that are bytes {100 * fitting / max(1, num):.2f} % fit"
    return "\n".join((HEADING, *rows, end))

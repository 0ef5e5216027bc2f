"""Throws bytes that are nearly right at every parser of strangers' bytes.

    python -m tests.fuzz --cases 100000
    python -m tests.fuzz --parser record --cases 10000000 --seed 7
    python -m tests.fuzz --replay .fuzz/record-0123456789ab.txt
    python -m tests.fuzz --campaign .fuzz/night --minutes 60    # goes on where it was ended
    python -m tests.fuzz --table .fuzz/night

Of each parser a line: cases, cases a second, the share that passes its first check of lengths (90 % at least, or the
rest is not tried), the share that is accepted, the slowest case, the lines and branches of it that a sample was on.
Whatever but the documented exceptions leaves a parser, takes a second or asks for more than a gigabyte is a finding: a
file in .fuzz/ that `--replay` plays again, and exit code 1. When it is mended its line belongs into tests/fuzz/corpus/.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import warnings
from pathlib import Path

import psutil

from tests.fuzz import (
    calls,
    clients,
    dht,
    doors,
    drafters,
    engine,
    house,
    judged,
    machines,
    owners,
    relays,
    shards,
    text,
    weights,
    wire,
    words,
)
from tests.fuzz.campaign import campaign, table
from tests.fuzz.parser import Parser
from tests.fuzz.run import Report, cases_of, read_cases, run
from tests.fuzz.seen import run_seen

PARSERS: dict[str, Parser] = {
    one.name: one
    for room in (
        wire, weights, words, judged, calls, engine, text, dht, doors, house, relays, machines, owners, shards,
        drafters, clients,
    )
    for one in room.PARSERS
}  # fmt: skip
FOLDER = Path(".fuzz")
CORPUS = Path(__file__).parent / "corpus"
LEAST_SHARE = 0.9
SAMPLE, SAMPLE_GAMES = 3000, 300
"""Cases that are played once more to see which lines they are on; fewer where each is a whole game."""
MAX_MORE_BYTES = 1 << 30


def limit_memory() -> None:
    """What a length that was merely claimed would take is an error, not the end of the machine."""
    now_bytes = psutil.Process().memory_info().vms
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + MAX_MORE_BYTES, hard))


def line(parser: Parser, report: Report) -> str:
    fitting = f"{100 * report.num_fitting / report.num:5.1f} %" if parser.fits else "decoded"
    return (
        f"{parser.name:16}{report.num:>10,} cases {report.num / report.seconds:>8,.0f}/s  first check {fitting}  "
        f"accepted {100 * report.num_accepted / report.num:5.1f} %  slowest {1000 * report.slowest_s:6.1f} ms"
    )


def fuzz(parser: Parser, num: int, seed: int) -> bool:
    """Exit well? Prints what was seen."""
    seen = run_seen(parser, cases_of(parser, seed, min(num, sample(parser))))[1]
    report = run(parser, cases_of(parser, seed, num))
    print(line(parser, report), f" {seen.told}", flush=True)
    if seen.missing:
        print(f"  never on {', '.join(seen.missing)}")
    if report.num_slow:
        print(f"  {report.num_slow} took too long")
    for finding in report.findings.values():
        print(f"  FOUND {finding.sign}: {finding.save(FOLDER)}", flush=True)
    few = report.num_fitting < LEAST_SHARE * report.num
    if few:
        print(f"  fewer than {LEAST_SHARE:.0%} get past the first check: mend the generator")
    return not few and not report.findings


def replay(path: Path, name: str | None) -> bool:
    name = name or max((one for one in PARSERS if path.name.startswith(one)), key=len, default=None)
    if name is None:
        raise SystemExit(f"{path}: of which parser? (--parser)")
    report = run(PARSERS[name], read_cases(path))
    for finding in report.findings.values():
        print(finding.told)
    print(f"{report.num} cases of {name}: {len(report.findings)} findings")
    return not report.findings


def sample(parser: Parser) -> int:
    return SAMPLE_GAMES if parser.fits is None else SAMPLE


def covered(parser: Parser) -> str:
    """By the corpus, and a sample of what a campaign plays."""
    corpus = CORPUS / f"{parser.name}.txt"
    cases = [*(read_cases(corpus) if corpus.exists() else ()), *cases_of(parser, 0, sample(parser))]
    return run_seen(parser, cases)[1].told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="of each parser (100,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parser", choices=list(PARSERS), action="append", help="only this one (may be given again)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a finding, or a file of the corpus")
    parser.add_argument("--campaign", type=Path, metavar="FOLDER", help="all of them in turn, for --minutes")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="what a campaign has seen so far")
    options = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")  # of what Python thinks of templates
    limit_memory()
    if options.replay:
        return not replay(options.replay, options.parser[0] if options.parser else None)
    chosen = [PARSERS[name] for name in options.parser or PARSERS]
    if options.campaign:
        campaign(chosen, options.campaign, options.minutes)
        return 0
    if options.table:
        print(table(chosen, options.table, covered))
        return 0
    return not all([fuzz(one, options.cases, options.seed) for one in chosen])


if __name__ == "__main__":
    sys.exit(main())

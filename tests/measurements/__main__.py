"""Measures what docs/measurements.md tells, and writes that page.

    python -m tests.measurements list
    python -m tests.measurements run NAME ... [--gsm8k FILE] [--humaneval FILE]
    python -m tests.measurements run --all [--under MINUTES] [--gsm8k FILE] [--humaneval FILE]
    python -m tests.measurements write

`run` measures what is not yet known of the commit that is checked out, keeps it in docs/measurements.json, and goes on
where it was when it is called again. Changes must be committed first: a figure belongs to a commit. `write` makes the
page out of that file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.measurements.catalogue import MEASUREMENTS
from tests.measurements.figures import load, save
from tests.measurements.measurement import INPUTS, Measurement
from tests.measurements.page import page
from tests.measurements.running import Failed, Laboratory, version

ROOT = Path(__file__).resolve().parents[2]
KNOWN, PAGE = ROOT / "docs" / "measurements.json", ROOT / "docs" / "measurements.md"
FOLDER = ROOT / ".measurements"
"""What commands printed; not in the repository."""


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(wanted: Iterable[Measurement], laboratory: Laboratory, known: Path) -> int:
    """Exit code 1 if one of them failed; the others are measured."""
    results, tell = load(known), laboratory.tell
    commit = laboratory.version.commit
    todo = [one for one in wanted if one.name not in results or results[one.name].commit != commit]
    failed = 0
    for number, one in enumerate(todo, 1):
        tell(f"[{number} of {len(todo)}] {one.name}: about {one.minutes:g} min")
        try:
            results[one.name] = laboratory.measure(one)
        except Failed as error:
            failed += 1
            tell(f"  failed: {error}")
            continue
        save(known, results)
    tell(f"{len(todo) - failed} measured at {commit}, {failed} failed")
    return int(failed > 0)


def chosen(options: argparse.Namespace, parser: argparse.ArgumentParser, files: dict[str, Path]) -> list[Measurement]:
    """With --all those that can be run; who names one must give the files that it needs."""
    if bool(options.names) == options.all:
        parser.error("name measurements, or say --all")
    if unknown := [name for name in options.names if name not in MEASUREMENTS]:
        parser.error(f"no such measurement: {', '.join(unknown)}")
    if not options.all:
        for name in options.names:
            if lacking := MEASUREMENTS[name].needs - files.keys():
                parser.error(f"{name} needs {', '.join(f'--{one} FILE' for one in sorted(lacking))}")
        return [MEASUREMENTS[name] for name in options.names]
    able = []
    for one in MEASUREMENTS.values():
        if options.under is not None and one.minutes > options.under:
            continue
        if lacking := one.needs - files.keys():
            tell(f"{one.name}: left out, needs {', '.join(f'--{name} FILE' for name in sorted(lacking))}")
        else:
            able.append(one)
    return able


def listing() -> str:
    results, now = load(KNOWN), version(ROOT).commit
    lines = []
    for one in MEASUREMENTS.values():
        result = results.get(one.name)
        at = "not measured" if result is None else "known" if result.commit == now else f"of {result.commit}"
        needs = "".join(f" --{name}" for name in sorted(one.needs))
        lines.append(f"{one.name:16} {one.minutes:>4g} min  {at:14} {one.heading}{needs and f' ({needs.strip()})'}")
        lines += [f"{'':8}{step.shown}" for step in one.steps]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names, minutes, commands")
    running = commands.add_parser("run", help="measure what is not yet known of this commit")
    running.add_argument("names", nargs="*", metavar="NAME")
    running.add_argument("--all", action="store_true")
    running.add_argument("--under", type=float, metavar="MINUTES", help="with --all: those that take at most so long")
    for name, what in INPUTS.items():
        running.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    commands.add_parser("write", help="make the page out of what is known")
    options = parser.parse_args()
    if options.command == "list":
        print(listing())
    elif options.command == "write":
        PAGE.write_text(page(load(KNOWN)))
    else:
        files = {name: getattr(options, name).resolve() for name in INPUTS if getattr(options, name)}
        wanted, now = chosen(options, running, files), version(ROOT)
        if now.changed:
            parser.error(f"commit first, or put away: {', '.join(now.changed[:5])}")
        return run(wanted, Laboratory(ROOT, FOLDER, now, files, tell), KNOWN)
    return 0


if __name__ == "__main__":
    sys.exit(main())

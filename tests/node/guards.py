"""Lines of code that trust or memory hangs on, taken out one by one: `python -m tests.node.guards`.

Each is to be missed by the test that guards.txt names for it. Exit code 1 when one can be taken out and nobody notices.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.node.mutation import ROOT, run
from tests.node.mutations import MUTATIONS

TIMEOUT_S = 120.0
JOBS = 2
"""Guards taken out at once, each in a process of its own."""


@dataclass(frozen=True)
class Guard:
    """A line of guards.txt: what is taken out, what somebody loses then, and the test that sees it."""

    out: str
    lost: str
    test: str


def _read() -> dict[str, Guard]:
    lines = (ROOT / "tests" / "node" / "guards.txt").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {name: Guard(out, lost, test) for name, out, lost, test in rows}


GUARDS = _read()


def red_test(name: str) -> str | None:
    """The test that fails without this guard; None: none does, nobody notices. Raises RuntimeError: it did not run."""
    command = [sys.executable, "-m", "tests.node.guards", "--here", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    failed = [line.removeprefix("FAILED ") for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if failed:
        return failed[0].partition(" - ")[0]
    if done.returncode:
        raise RuntimeError(f"{name} did not run:\n{done.stdout}\n{done.stderr}")
    return None


def check(names: Iterable[str]) -> int:
    """Exit code."""
    status = 0
    names = list(names)
    with ThreadPoolExecutor(JOBS) as pool:
        for name, test in zip(names, pool.map(red_test, names), strict=True):
            print(f"GREEN {name}: {GUARDS[name].test}" if test is None else f"red {name}: {test}", flush=True)
            status |= test is None
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(MUTATIONS), metavar="NAME", help="this one alone")
    parser.add_argument("--here", choices=list(MUTATIONS), metavar="NAME", help="run its test in this very process")
    options = parser.parse_args()
    if options.here:
        return run(MUTATIONS[options.here], GUARDS[options.here].test)
    return check([options.only] if options.only else MUTATIONS)


if __name__ == "__main__":
    sys.exit(main())

"""Random schedules for the production session and stage machines: `python -m tests.speculation.schedules --seeds 2000`.

Of each kind so many: an owner that goes by rounds; one that streams and hedges, by plans that change at random; whole
conversations in one session. Exit code 1 when a reply was wrong or stuck, a stage leaked a sequence, or an engine was
called wrongly. With `--mutate NAME` one guard is taken out first (`--mutate all`: each in turn, until a seed is red),
and a run that stays green is the failure; a guard that another one stands behind (mutations.py) must turn its own
test red instead.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from .conversation import conversation
from .mutations import COVERED, MUTATIONS
from .toy import WrongEngineCall
from .world import World

KINDS: dict[str, Callable[[int], World]] = {
    "stream": partial(World, stream=True),
    "rounds": partial(World, stream=False),
    "conversation": conversation,
}

HERE = Path(__file__).parent
ONE_BY_ONE = tuple(HERE / f"test_{name}.py" for name in ("stage", "session", "stream", "guards"))


def violations_of(seed: int, kind: str) -> tuple[World, list[str]]:
    """Run one seed; what went wrong in it (nothing: [])."""
    world = KINDS[kind](seed)
    try:
        world.run()
    except WrongEngineCall as error:
        world.violations.append(f"engine: {error}")
    except Exception as error:
        world.violations.append(f"crash: {type(error).__name__} {error}")
    return world, world.violations


def red_seeds(seeds: Iterable[int], kind: str) -> dict[int, list[str]]:
    found = {}
    for seed in seeds:
        violations = violations_of(seed, kind)[1]
        if violations:
            found[seed] = violations
    return found


def first_red(seeds: Iterable[int], kinds: Iterable[str] = tuple(KINDS)) -> tuple[int, str, list[str]] | None:
    """The first seed that is red in one of the kinds."""
    for seed in seeds:
        for kind in kinds:
            violations = violations_of(seed, kind)[1]
            if violations:
                return seed, kind, violations
    return None


def _sorts(red: dict[int, list[str]]) -> str:
    sorts = Counter(text.split(":")[0].split(" at ")[0] for texts in red.values() for text in set(texts))
    return ", ".join(f"{sort} {count}" for sort, count in sorted(sorts.items())) or "none"


def _plain(first: int, num_seeds: int, kinds: tuple[str, ...]) -> int:
    status = 0
    for kind in kinds:
        totals: Counter[str] = Counter()
        red = {}
        for seed in range(first, first + num_seeds):
            world, violations = violations_of(seed, kind)
            totals["tokens"] += len(world.emitted)
            totals["routes"] += world.num_routes
            totals["nacks"] += world.num_nacks
            totals["resumed"] += world.num_resumed
            totals["reused"] += world.num_reused
            totals[f"ended {world.owner.finished}"] += 1
            if violations:
                red[seed] = violations
        print(f"{kind}: {num_seeds} schedules, {len(red)} red ({_sorts(red)}); {dict(totals)}", flush=True)
        for seed in list(red)[:5]:
            print(f"  seed {seed}: {red[seed]}; again: --kind {kind} --first {seed} --seeds 1")
        status |= bool(red)
    return status


def _mutated(names: Iterable[str], first: int, num_seeds: int, kinds: tuple[str, ...]) -> int:
    """Exit code 1 if nobody misses a guard: no schedule nor, when another stands behind it, its own test."""
    status = 0
    for name in names:
        with MUTATIONS[name].applied():
            red = None if name in COVERED else first_red(range(first, first + num_seeds), kinds)
            test = _failing_test() if name in COVERED else ""
        status |= red is None and not test
        if red is not None:
            print(f"red     {name}: {red[1]} {red[0]}: {red[2][0]}", flush=True)
        elif test:
            print(f"covered {name}: {COVERED[name]}; {test}", flush=True)
        else:
            print(f"GREEN   {name}", flush=True)
    return status


def _failing_test() -> str:
    """The first of the tests that hold the guards one by one to be red now; none: empty."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *map(str, ONE_BY_ONE)])
    failed = [line.partition(" - ")[0] for line in said.getvalue().splitlines() if line.startswith("FAILED")]
    return failed[0] if failed else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--mutate", choices=[*MUTATIONS, "all"])
    options = parser.parse_args()
    kinds = (options.kind,) if options.kind else tuple(KINDS)
    if options.mutate is None:
        return _plain(options.first, options.seeds, kinds)
    names = MUTATIONS if options.mutate == "all" else [options.mutate]
    return _mutated(names, options.first, options.seeds, kinds)


if __name__ == "__main__":
    sys.exit(main())

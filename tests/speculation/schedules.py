"""Random schedules for the production session and stage machines: `python -m tests.speculation.schedules --seeds 2000`.

Exit code 1 when a reply was wrong or stuck, a stage leaked a sequence, or an engine was called wrongly. With
`--mutate NAME` one guard is taken out first (`--mutate all`: each in turn), and a run that stays green is the failure.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable

from .mutations import MUTATIONS
from .toy import WrongEngineCall
from .world import World


def violations_of(seed: int, *, stream: bool) -> tuple[World, list[str]]:
    """Run one seed; what went wrong in it (nothing: [])."""
    world = World(seed, stream=stream)
    try:
        world.run()
    except WrongEngineCall as error:
        world.violations.append(f"engine: {error}")
    except Exception as error:
        world.violations.append(f"crash: {type(error).__name__} {error}")
    return world, world.violations


def red_seeds(seeds: Iterable[int], *, stream: bool) -> dict[int, list[str]]:
    found = {}
    for seed in seeds:
        violations = violations_of(seed, stream=stream)[1]
        if violations:
            found[seed] = violations
    return found


def _kinds(red: dict[int, list[str]]) -> str:
    kinds = Counter(text.split(":")[0].split(" at ")[0] for texts in red.values() for text in set(texts))
    return ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "none"


def _plain(first: int, num_seeds: int) -> int:
    status = 0
    for stream in (False, True):
        totals: Counter[str] = Counter()
        red = {}
        for seed in range(first, first + num_seeds):
            world, violations = violations_of(seed, stream=stream)
            totals["tokens"] += len(world.emitted)
            totals["routes"] += world.num_routes
            totals["nacks"] += world.num_nacks
            totals["resumed"] += world.num_resumed
            totals[f"ended {world.owner.finished}"] += 1
            if violations:
                red[seed] = violations
        owner = "streaming" if stream else "rounds"
        print(f"{owner}: {num_seeds} schedules, {len(red)} red ({_kinds(red)}); {dict(totals)}")
        for seed in list(red)[:5]:
            print(f"  seed {seed}: {red[seed]}; again: --first {seed} --seeds 1")
        status |= bool(red)
    return status


def _mutated(names: Iterable[str], first: int, num_seeds: int) -> int:
    status = 0
    for name in names:
        with MUTATIONS[name].applied():
            seeds = range(first, first + num_seeds)
            rounds, streams = (red_seeds(seeds, stream=stream) for stream in (False, True))
        killed = bool(rounds or streams)
        status |= not killed
        print(f"{'red  ' if killed else 'GREEN'} {name}: rounds {len(rounds)}: {_kinds(rounds)}", end="; ")
        print(f"stream {len(streams)}: {_kinds(streams)} of {num_seeds} each", flush=True)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mutate", choices=[*MUTATIONS, "all"])
    options = parser.parse_args()
    if options.mutate is None:
        return _plain(options.first, options.seeds)
    names = MUTATIONS if options.mutate == "all" else [options.mutate]
    return _mutated(names, options.first, options.seeds)


if __name__ == "__main__":
    sys.exit(main())

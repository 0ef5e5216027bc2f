"""Random schedules for the production session and stage machines: `python -m tests.speculation.schedules --seeds 2000`.

Of each kind so many: an owner that streams and hedges, by plans that change at random; one that goes by rounds; whole
conversations in one session; one that copies draft tokens; one that gets some with verdicts; networks that lose next to
nothing, or much and then nothing. Exit code 1 when a reply was wrong or stuck, a stage leaked a sequence, an engine was
called wrongly, or work was done for nothing (watch.py). With `--mutate NAME` one guard is taken out first (`--mutate
all`: each in turn, until a seed is red), and a run that stays green is the failure.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product

from .calm import Calm, Storm
from .conversation import conversation
from .copies import Copying
from .guessing import Guessing
from .mutations import MUTATIONS, SECOND_LINES
from .toy import WrongEngineCall
from .world import World

KINDS: dict[str, Callable[[int], World]] = {
    "stream": partial(World, stream=True),
    "rounds": partial(World, stream=False),
    "conversation": conversation,
    "calm": lambda seed: Calm(seed, stream=seed % 4 > 0),
    "copies": partial(Copying, stream=True),
    "storm": lambda seed: Storm(seed, stream=seed % 4 > 0),
    "guesses": lambda seed: Guessing(seed, stream=seed % 4 > 0),
}


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


def _sorts(red: dict[int, list[str]]) -> str:
    sorts = Counter(sort for texts in red.values() for sort in set(map(_sort, texts)))
    return ", ".join(f"{sort} {count}" for sort, count in sorted(sorts.items())) or "none"


def _sort(violation: str) -> str:
    return violation.split(":")[0].split(" at ")[0]


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


def first_sign(name: str, seeds: Iterable[int], kinds: tuple[str, ...] = tuple(KINDS)) -> tuple[str, int, str] | None:
    """Kind, seed and sort of what shows first that this guard is out.

    Of a second line of defence: with the first one out as well, and such as neither of them alone brings about there.
    """
    guards = (SECOND_LINES[name], name) if name in SECOND_LINES else (name,)
    for seed, kind in product(seeds, kinds):
        signs = sorts_without(guards, seed, kind)
        if signs and len(guards) > 1:
            alone = [sort for guard in guards for sort in sorts_without((guard,), seed, kind)]
            signs = [sort for sort in signs if sort not in alone]
        if signs:
            return kind, seed, signs[0]
    return None


def sorts_without(guards: Iterable[str], seed: int, kind: str) -> list[str]:
    """What sorts of things go wrong in one seed without these guards."""
    with contextlib.ExitStack() as stack:
        for name in guards:
            stack.enter_context(MUTATIONS[name].applied())
        return list(dict.fromkeys(map(_sort, violations_of(seed, kind)[1])))


def _mutated(names: Iterable[str], first: int, num_seeds: int, kinds: tuple[str, ...]) -> int:
    """Exit code 1 if a guard can be taken out and nobody notices."""
    status = 0
    for name in names:
        sign = first_sign(name, range(first, first + num_seeds), kinds)
        status |= sign is None
        says = MUTATIONS[name].says + (f" (and without {SECOND_LINES[name]})" if name in SECOND_LINES else "")
        found = "GREEN" if sign is None else f"{sign[0]} {sign[1]}: {sign[2]}"
        print(f"{name:16}{says:60}{found}", flush=True)
    return status


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

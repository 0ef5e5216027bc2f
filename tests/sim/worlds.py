"""Random worlds of whole production nodes, in virtual time: `python -m tests.sim.worlds --seeds 10000`.

Each seed draws a swarm (model, cuts, replicas, machines, links, clocks), replies (prompt, length, temperature, window
policy), troubles, in four of ten worlds a liar (liar.py), and in a quarter rogues (gang.py), of all kinds,
or of those that `--rogues` names; tests/sim/world.py says what is checked all along. Exit code 1 when
anything was wrong, lost, stuck, late or leaked; a red seed is printed with the command that replays it. With `--mutate
NAME` one guard is taken out first (tests/speculation/mutations.py, tests/sim/believing.py), and a run that stays green
is the failure.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial

from tests.speculation.mutations import MUTATIONS

from .believing import BELIEVING
from .misdeeds import MISDEEDS
from .world import Result, run_world

GUARDS = MUTATIONS | BELIEVING

CHUNK = 5
PROGRESS_S = 20.0


def results(
    first: int, num_seeds: int, mutate: str | None, num_processes: int, kinds: Sequence[str] | None = None
) -> Iterator[Result]:
    """Of all seeds, in order. `kinds`: of rogues, in every world."""
    seeds, live = range(first, first + num_seeds), partial(run_world, kinds=kinds)
    if num_processes == 1:
        with GUARDS[mutate].applied() if mutate else nullcontext():
            yield from map(live, seeds)
        return
    with multiprocessing.Pool(num_processes, _begin, (mutate,)) as pool:
        yield from pool.imap(live, seeds, CHUNK)


_for_good = ExitStack()
"""Holds what is taken out of a process of the pool; dropped, it would be put back."""


def _begin(mutate: str | None) -> None:
    gc.freeze()
    if mutate is not None:
        _for_good.enter_context(GUARDS[mutate].applied())


def survey(first: int, num_seeds: int, num_processes: int, kinds: Sequence[str] | None) -> int:
    started_s, said_s = time.monotonic(), time.monotonic()
    totals: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    rogues: Counter[str] = Counter()
    for number, result in enumerate(results(first, num_seeds, None, num_processes, kinds), 1):
        _add(totals, result)
        faults.update(result.faults)
        rogues.update(result.rogues)
        if result.violations:
            _replay(result, kinds)
            rogues.update(f"{kind} (red)" for kind in result.rogues)
        wrong.update({text.partition(":")[0] for text in result.violations})
        if time.monotonic() > said_s + PROGRESS_S:
            said_s = time.monotonic()
            print(f"{number} worlds, {sum(wrong.values())} red, {said_s - started_s:.0f} s", file=sys.stderr)
    spent_s = time.monotonic() - started_s
    print(f"{num_seeds} worlds in {spent_s:.0f} s: " + ", ".join(f"{wrong[kind]} {kind}" for kind in _kinds(wrong)))
    print("; ".join(f"{name} {value:,}" for name, value in totals.items()))
    print("faults: " + ", ".join(f"{name} {count:,}" for name, count in sorted(faults.items())))
    print("worlds with rogues: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(rogues.items())))
    return int(bool(wrong))


def _kinds(wrong: Counter[str]) -> list[str]:
    return list(dict.fromkeys(["wrong text", "lost", "stuck", "leak", *sorted(wrong)]))


def _add(totals: Counter[str], result: Result) -> None:
    totals["replies"] += result.num_replies
    totals["tokens"] += result.num_tokens
    totals["recoveries"] += result.num_recoveries
    totals["given up in words, then answered in peace"] += result.given_up
    totals["messages"] += result.messages
    totals["simulated seconds"] += round(result.simulated_s)


def _replay(result: Result, kinds: Sequence[str] | None) -> None:
    print(f"seed {result.seed}: {result.violations[:3]}" + (f" with {result.rogues}" if result.rogues else ""))
    with_ = "" if kinds is None else f" --rogues '{','.join(kinds)}'"
    print(f"  again: python -m tests.sim.worlds --first {result.seed} --seeds 1{with_}", flush=True)


def parse_rogues(text: str) -> tuple[str, ...]:
    kinds = tuple(MISDEEDS) if text == "all" else tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in MISDEEDS]:
        raise argparse.ArgumentTypeError(f"no such rogues: {', '.join(unknown)} (there are: {', '.join(MISDEEDS)})")
    return kinds


def mutated(names: list[str], first: int, num_seeds: int, num_processes: int) -> int:
    """Exit code 1 if one of these guards can be taken out and all worlds stay green."""
    status = 0
    for name in names:
        red = next((result for result in results(first, num_seeds, name, num_processes) if result.violations), None)
        status |= red is None
        said = f"GREEN {name}" if red is None else f"red   {name}: seed {red.seed}: {red.violations[0][:100]}"
        print(said, flush=True)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mutate", choices=[*GUARDS, "all"])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rogues", type=parse_rogues, help="kinds, by commas, or all: some of them in every world")
    options = parser.parse_args()
    num_processes = min(options.processes, options.seeds)
    if options.mutate is None:
        return survey(options.first, options.seeds, num_processes, options.rogues)
    names = list(GUARDS) if options.mutate == "all" else [options.mutate]
    return mutated(names, options.first, options.seeds, num_processes)


if __name__ == "__main__":
    sys.exit(main())

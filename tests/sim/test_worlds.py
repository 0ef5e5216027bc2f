"""Show: whole nodes in random worlds: the right text or a clean word, nothing stuck, nothing left behind.

Thousands by `python -m tests.sim.worlds`; a red seed by `python -m tests.sim.worlds --first SEED --seeds 1`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest

from tests.speculation.mutations import MUTATIONS

from .believing import BELIEVING
from .gang import KINDS
from .liar import is_alone, liars_dice
from .lies import SORTS
from .world import Result, run_world
from .worlds import results

pytestmark = pytest.mark.slow

NUM_SEEDS = 30
ROGUE_SEEDS = (7, 20, 22)
MUTANTS = ("digest", "closed", "engine-lost")
WITH_A_LIAR = sorted(filter(liars_dice, range(80)), key=is_alone, reverse=True)
"""Where it is alone first: there it may not even disturb."""


@cache
def world(seed: int) -> Result:
    return run_world(seed)


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_nothing_is_wrong_lost_stuck_or_left(seed: int) -> None:
    assert world(seed).violations == []


@pytest.mark.parametrize("seed", [7, WITH_A_LIAR[0]])
def test_same_seed_same_world(seed: int) -> None:
    assert run_world(seed) == world(seed)


def test_the_seeds_bring_every_kind_of_trouble() -> None:
    faults: Counter[str] = sum((world(seed).faults for seed in range(NUM_SEEDS)), Counter())
    kinds = {"message lost", "message twice", "message late", "link cut", "partition", "stage killed", "drafter killed"}
    kinds |= {"lane broken"}
    assert kinds | {"restart", "worker death", "draft worker death", "stage suspected", "overload"} <= faults.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_honest_people_are_served_beside_rogues_of_each_kind(kind: str) -> None:
    """Others, and all of them mixed: `python -m tests.sim.worlds --rogues all`."""
    results = [run_world(seed, (kind,)) for seed in ROGUE_SEEDS]
    assert [result.violations for result in results] == [[]] * len(ROGUE_SEEDS)
    faults = sum((result.faults for result in results), Counter())
    assert faults[f"rogue: {kind}"]
    assert any(fault.startswith("rogue: ") and fault != f"rogue: {kind}" for fault in faults), "they did nothing"


def test_rogues_are_a_third_at_most_and_the_same_each_time() -> None:
    result = run_world(ROGUE_SEEDS[0], KINDS)
    assert result == run_world(ROGUE_SEEDS[0], KINDS)
    assert 0 < result.num_rogues <= result.num_peers / 3
    assert any(world(seed).rogues for seed in range(NUM_SEEDS)), "none where none are asked for"


SHOWN_BY = {"digest": 4, "closed": 125, "engine-lost": 60, "anybodys-answer": 69, "anybodys-nack": 6}
"""A small world that shows it is played first; all others after it."""


def _worlds(seeds: Sequence[int], mutant: str) -> list[int]:
    first = seeds.index(SHOWN_BY.get(mutant, seeds[0]))
    return [*seeds[first:], *seeds[:first]]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_guard_taken_out_is_noticed(name: str) -> None:
    with MUTATIONS[name].applied():
        assert any(run_world(seed).violations for seed in _worlds(range(160), name))


def test_the_seeds_bring_every_sort_of_lie() -> None:
    faults: Counter[str] = sum((world(seed).faults for seed in range(NUM_SEEDS)), Counter())
    assert {f"lie: {sort}" for sort in SORTS} | {"liar", "liar banned"} <= faults.keys()
    assert any(world(seed).undisturbed for seed in range(NUM_SEEDS)), "none where it is alone"


@pytest.mark.parametrize(
    "name", ["anybodys-verdict", "any-stages-verdict", "anybodys-block", "anybodys-answer", "anybodys-nack"]
)
def test_whoever_believes_a_liar_is_noticed(name: str) -> None:
    """The others take more worlds: `python -m tests.sim.worlds --mutate all`."""
    with BELIEVING[name].applied():
        assert any(run_world(seed).violations for seed in _worlds(WITH_A_LIAR, name))


def test_what_is_taken_out_stays_out_in_every_process() -> None:
    """What `--mutate` says of several processes is what one would say."""
    reds = [result.seed for result in results(4, 4, "anybodys-verdict", 2) if result.violations]
    with BELIEVING["anybodys-verdict"].applied():
        assert reds == [seed for seed in range(4, 8) if run_world(seed).violations] != []

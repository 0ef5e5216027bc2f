"""Show: random schedules of loss, duplicates, reordering, re-routing and kills give the right text, or none is done.

A red seed is replayed by `python -m tests.speculation.schedules --first SEED --seeds 1`; thousands by `--seeds N`.
"""

from __future__ import annotations

import pytest

from .mutations import MUTATIONS
from .schedules import red_seeds, violations_of

NUM_SEEDS = 60
RARE = (
    "undecided",
    "floor-early",
    "new-epoch",
    "descendants+undecided",
    "patience",
    "route",
    "bump+route",
    "nack",
    "wait",
)
"""Red in a few of a thousand seeds: left to the command."""
COVERED_TWICE = (
    "descendants",
    "rewrite",
    "closing-again",
    "floor-frees",
    "in-place",
    "no-draw",
    "stage-route",
    "kept",
    "owner-epoch",
    "owner-route",
    "owner-epoch+route",
    "resend",
    "bump",
)
"""A second guard stands behind each: no schedule turns red; test_stage.py and test_session.py hold them one by one."""


@pytest.mark.parametrize("stream", [False, True], ids=["the production owner", "a streaming owner"])
def test_no_schedule_gives_a_wrong_text_or_none(stream: bool) -> None:
    assert red_seeds(range(NUM_SEEDS), stream=stream) == {}


@pytest.mark.parametrize("stream", [False, True])
def test_same_seed_same_run(stream: bool) -> None:
    def trace() -> tuple[list[int], int, int, float]:
        world, violations = violations_of(7, stream=stream)
        assert violations == []
        return world.emitted, world.num_routes, world.num_nacks, world.queue.now

    assert trace() == trace()


def _first_red(seeds: range) -> int | None:
    for seed in seeds:
        if any(violations_of(seed, stream=stream)[1] for stream in (False, True)):
            return seed
    return None


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in RARE + COVERED_TWICE])
def test_a_guard_taken_out_turns_the_schedules_red(name: str) -> None:
    with MUTATIONS[name].applied():
        assert _first_red(range(300)) is not None


def test_without_the_digest_check_texts_are_wrong() -> None:
    with MUTATIONS["digest"].applied():
        red = red_seeds(range(25), stream=True)
    assert any("wrong text" in violations for violations in red.values())

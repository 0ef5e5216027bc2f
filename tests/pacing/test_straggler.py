from __future__ import annotations

from dataclasses import replace

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.pacing.suspects import SLOW_QUIET_S, Straggler, StragglerWatch
from dsdnode.pacing.tuning import TUNING
from dsdnode.speculation.events import PassEvent

COSTS = PipelineCost(
    (
        CostLine(0.014, 0.006),
        CostLine(0.014, 0.006),
        CostLine(0.014, 0.006),
    ),
    0.04,
)


def passed(*stage_s: float, at_s: float = 0.0, num_positions: int = 3, queue: tuple[int, ...] = ()) -> PassEvent:
    return PassEvent(1, 0, num_positions, 3, 3, 4, at_s - 0.2, at_s, stage_s=stage_s, queue=queue)


USUAL = passed(0.032, 0.032, 0.032)
SLOW = passed(0.032, 0.16, 0.032)


def words(watch: StragglerWatch, *events: PassEvent) -> list[Straggler | None]:
    return [watch.on_verdict(replace(event, judged_s=float(n))) for n, event in enumerate(events)]


def begun() -> StragglerWatch:
    watch = StragglerWatch()
    watch.on_route(COSTS)
    return watch


def test_a_stage_five_times_slower_is_told_after_four_verdicts_and_once() -> None:
    said = words(begun(), USUAL, *[SLOW] * (TUNING.slow_verdicts + int(SLOW_QUIET_S) - 1))
    assert said[: TUNING.slow_verdicts] == [None] * TUNING.slow_verdicts
    assert said[TUNING.slow_verdicts] == Straggler(1, 5.0)
    assert said[TUNING.slow_verdicts + 1 :] == [None] * (int(SLOW_QUIET_S) - 1)
    assert words(begun(), USUAL, *[SLOW] * (TUNING.slow_verdicts + int(SLOW_QUIET_S)))[-1] == Straggler(1, 5.0)


def test_a_pass_counts_once() -> None:
    watch = begun()
    assert not any(watch.on_verdict(SLOW) for _ in range(10))


def test_a_hiccup_is_not_told() -> None:
    assert not any(words(begun(), *[SLOW, SLOW, SLOW, USUAL] * 5))


def test_who_is_slower_but_not_what_the_passes_wait_for() -> None:
    watch = StragglerWatch()
    watch.on_route(
        PipelineCost(
            (
                CostLine(0.002, 0.001),
                CostLine(0.1, 0.01),
            ),
            0.2,
        )
    )
    assert not any(words(watch, *[passed(0.02, 0.13)] * 10))


def test_a_stage_shared_with_others_is_not_to_blame() -> None:
    shared = passed(0.032, 0.4, 0.032, queue=(0, 1, 0))
    assert not any(words(begun(), *[shared] * 10))
    assert any(words(begun(), *[passed(0.032, 1.3, 0.032, queue=(0, 1, 0))] * 10))


def test_noise_of_a_quick_pair_is_no_straggler() -> None:
    watch = StragglerWatch()
    watch.on_route(
        PipelineCost(
            (
                CostLine(0.0003, 0.0002),
                CostLine(0.0003, 0.0002),
            ),
            0.0,
        )
    )
    assert not any(words(watch, *[passed(0.0009, 0.005)] * 10))


def test_prompts_and_other_pipelines_do_not_count() -> None:
    watch = begun()
    assert not any(words(watch, *[replace(SLOW, num_positions=200)] * 10))
    assert not any(words(watch, SLOW, SLOW, SLOW))
    watch.on_route(COSTS)
    assert not any(words(watch, SLOW, SLOW, SLOW))
    assert not any(words(watch, *[passed(0.032, 0.16)] * 10))  # late verdicts of a pipeline of two

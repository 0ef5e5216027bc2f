"""Will it be worth it to join, with which window, as what? Simulated answers to plain questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.errors import BadInput
from dsdnode.pacing.formulas import hedged_speed, plain_speed, rounds_speed, stream_speed
from dsdnode.sim.question import HANDLING_MS, Question, drafter, layers_for, record_of
from dsdnode.sim.report import Report
from dsdnode.sim.scenario import Group, Scenario
from dsdnode.sim.simulate import simulate
from dsdnode.sim.traces import read_traces
from dsdnode.sim.workers import workers

MODES = {
    "plain": ("fixed", 0),
    "rounds": ("throughput:rounds", 16),
    "stream": ("throughput:stream", 16),
    "hedged": ("throughput:hedged", 16),
}
"""Window policies, each kept to one way of speculating."""
DEFAULT = ("throughput", 16)
MAX_WINDOW = 16
MAX_BLOCK = 12
MAX_LATENCY_S = 0.5
"""One way. With more a newcomer's first question takes longer than it waits for an answer: nobody could join."""
MAX_REPLIES = 9
"""Of a recorded trace, its first."""
SEED = 1


@dataclass(frozen=True, slots=True)
class Option:
    """What this machine could do, and tokens per second of all users together if it did."""

    what: str
    tokens_per_second: float
    layers: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens per second of one reply, by mode; of `users` at once in all. `plan`: most tokens were made under it.

    `pays_from_ms`: the latency, one way, from which on speculation beats plain decoding, by the formulas (None: at no
    latency); `alone_to_ms`: up to which the swarm is faster than the user alone (None: not asked, or at no latency).
    """

    speeds: dict[str, float]
    default: float
    plan: str
    together: float
    pays_from_ms: float | None
    alone_to_ms: float | None
    options: tuple[Option, ...]


def answer(question: Question, jobs: int = 1, told: Callable[[str], None] = lambda text: None) -> Answer:
    """Simulate what is asked, in `jobs` processes; `told` hears what is done. Raises BadInput."""
    question = _informed(question)
    near_ms = _alone_near_ms(question)
    found = _simulate(dict(_scenarios(question, near_ms)), jobs, told)
    default = found["default"]
    plans = default.windows.tokens_by_plan
    options = [Option("as it is", _together(found.get(_AS_IT_IS, default)))]
    options += [Option(role, _together(found[role]), layers) for role, _, layers in _roles(question)]
    return Answer(
        speeds={mode: _speed(found[mode]) for mode in MODES},
        default=_speed(default),
        plan=max(plans, key=lambda name: (plans[name], name)) if plans else "",
        together=options[0].tokens_per_second,
        pays_from_ms=_first_ms(lambda s: _best(question, s) >= plain_speed(_costs(question, s))),
        alone_to_ms=_alone_to_ms(question.alone, _speed(found[_NO_LATENCY]), near_ms, _speed(found[_NEAR]))
        if question.alone
        else None,
        options=tuple(options),
    )


def num_runs(question: Question) -> int:
    """How often `told` will hear something."""
    return len(dict(_scenarios(question, MAX_LATENCY_S)))


def _informed(question: Question) -> Question:
    """A trace says itself how good the pair is, and how many replies there are."""
    if not question.pair.trace:
        return question
    trace = read_traces(Path(question.pair.trace))
    pair = replace(question.pair, acceptance=trace.acceptance_rate, second=trace.second_share)
    return replace(question, pair=pair, replies=min(len(trace.traces), MAX_REPLIES))


# --- what is simulated --------------------------------------------------------------------------------------------

_AS_IT_IS, _NO_LATENCY, _NEAR = "all users", "no latency", "the break-even"


def _scenarios(question: Question, near_ms: float) -> Iterator[tuple[str, Scenario]]:
    for mode, policy in {**MODES, "default": DEFAULT}.items():
        yield mode, question.scenario(policy)
    if question.users > 1:
        yield _AS_IT_IS, question.scenario(DEFAULT, (), question.users)
    for role, group, _ in _roles(question):
        yield role, question.scenario(DEFAULT, (group,), question.users)
    if question.alone:
        for name, latency_ms in ((_NO_LATENCY, 0.0), (_NEAR, near_ms)):
            links = replace(question.links, latency_ms=latency_ms, between={})
            yield name, replace(question, links=links).scenario(DEFAULT)


def _roles(question: Question) -> Iterator[tuple[str, Group, tuple[int, int] | None]]:
    """What this machine could be."""
    mine, home = question.mine, (question.home,)
    if mine.draft_ms is not None:
        yield "drafter", drafter(mine.draft_ms, home), None
    if mine.fixed_ms is not None:
        start, end = layers_for(question)
        share = (end - start) / question.pair.layers
        costs = mine.fixed_ms * share, mine.slope_ms * share
        shard = Group("shard", layers=f"{start}:{end}", fixed_ms=costs[0], position_ms=costs[1], regions=home)
        yield "shard", shard, (start, end)


def _simulate(scenarios: dict[str, Scenario], jobs: int, told: Callable[[str], None]) -> dict[str, Report]:
    found = {}
    if jobs == 1:
        for name, scenario in scenarios.items():
            found[name] = simulate(scenario, SEED)
            told(name)
        return found
    with workers(jobs) as pool:
        futures = {pool.submit(simulate, scenario, SEED): name for name, scenario in scenarios.items()}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            told(futures[future])
    return found


def _together(result: Report) -> float:
    return result.tokens_per_second or 0.0


def _speed(result: Report) -> float:
    if result.reply_tokens_per_second is None:
        raise BadInput(f"no reply came to its end there: {next(iter(result.errors), 'they are too short')}")
    return result.reply_tokens_per_second.p50


# --- by the formulas ----------------------------------------------------------------------------------------------


def _costs(question: Question, latency_s: float) -> PipelineCost:
    """One replica of each range, the usual one, with links of this latency."""
    stages: dict[tuple[int, int], CostLine] = {}
    for group in question.shards:
        for index in range(group.count):
            record = record_of(group, index, question.pair.layers)
            stages.setdefault((record.start, record.end), record.cost)
    payload_s = question.pair.state_bytes / (question.links.bandwidth_mbit * 125_000 or float("inf"))
    draft = CostLine(0.0, min(group.cost.at(1) for group in question.drafters))
    network_s = (len(stages) + 1) * (latency_s + HANDLING_MS / 1e3)
    return PipelineCost(tuple(stages.values()), network_s, draft, payload_s)


def _best(question: Question, latency_s: float) -> float:
    costs, alpha = _costs(question, latency_s), question.pair.acceptance
    rounds = max(rounds_speed(costs, alpha, window) for window in range(1, MAX_WINDOW + 1))
    streams = (stream_speed(costs, alpha, block) for block in range(1, MAX_BLOCK + 1))
    hedged = (hedged_speed(costs, alpha, block, question.pair.second) for block in range(1, MAX_BLOCK + 1))
    return max(rounds, *streams, *hedged)


def _first_ms(holds: Callable[[float], bool]) -> float | None:
    """The lowest latency from which on it holds; None: never."""
    return 0.0 if holds(0.0) else _bisect(holds, MAX_LATENCY_S, 0.0)


def _alone_near_ms(question: Question) -> float:
    """Where the break-even with the user's own machine should be."""
    alone = question.alone or 0.0
    found_ms = _bisect(lambda s: _best(question, s) >= alone, 0.0, MAX_LATENCY_S)
    return max(1.0, found_ms or 0.0)


def _alone_to_ms(alone: float, at_once: float, near_ms: float, near: float) -> float | None:
    """Time a token grows with the latency; `at_once` and `near`: speeds at none and at `near_ms`."""
    if at_once <= alone:
        return None
    return near_ms * (1 / alone - 1 / at_once) / max(1e-9, 1 / near - 1 / at_once)


def _bisect(holds: Callable[[float], bool], yes_s: float, no_s: float) -> float | None:
    """The boundary, in ms, between a latency at which it should hold and one at which it should not."""
    if holds(no_s):
        return 1e3 * no_s
    if not holds(yes_s):
        return None
    for _ in range(30):
        middle_s = (yes_s + no_s) / 2
        yes_s, no_s = (middle_s, no_s) if holds(middle_s) else (yes_s, middle_s)
    return 1e3 * yes_s

"""Will it be worth it to join, with which window, as what? Simulated answers to plain questions, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dsdnode.placement.layers import choose_layers
from dsdnode.sim.scenario import Group, Links, Load, Pair, Policies, Scenario, layers_of
from dsdnode.sim.simulate import simulate
from dsdnode.speculation.speeds import Costs, plain_speed, rounds_speed, stream_speed
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord

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
MAX_LATENCY_S = 10.0
CLEARLY = 0.97
"""Of two modes nearly as fast the simpler one is named."""
HANDLING_MS = 1.0
"""Of a message on a machine that is not busy (tests/sim/reality.py gauges it)."""
SETTLING_TOKENS = 40
"""A policy knows nothing at a reply's beginning."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine could be: ms a draft token; ms and ms a position of a stage with all layers."""

    draft_ms: float | None = None
    fixed_ms: float | None = None
    slope_ms: float = 0.0
    capacity_layers: int = 0
    """How many layers fit it; 0: a stage's share."""


@dataclass(frozen=True, slots=True)
class Question:
    """The swarm, without this machine. `alone`: tokens per second that the user gets without any swarm."""

    shards: tuple[Group, ...]
    drafters: tuple[Group, ...]
    links: Links
    pair: Pair
    users: int = 1
    reply_tokens: int = 160
    alone: float | None = None
    mine: Machine = field(default_factory=Machine)
    home: str = ""
    """Region of the user, and of this machine."""

    def scenario(self, policy: tuple[str, int], extra: tuple[Group, ...] = (), users: int = 1) -> Scenario:
        window, draft_max = policy
        return Scenario(
            peers=(*self.shards, *self.drafters, *extra),
            name="plan",
            links=self.links,
            pair=self.pair,
            load=Load(
                requests=max(4, 2 * users),
                users=users,
                prompt_tokens=64,
                reply_tokens=self.reply_tokens + SETTLING_TOKENS,
                regions=(self.home,),
            ),
            policies=Policies(window=window, draft_max=draft_max, wire="f16"),
        )


@dataclass(frozen=True, slots=True)
class Option:
    """What this machine could do, and tokens per second of all users together if it did."""

    what: str
    tokens_per_second: float
    layers: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens per second of one reply, by mode; of `users` at once in all. `plan`: most tokens were made under it.

    `pays_from_ms`, `pays_to_ms`: latencies, one way, between which speculation beats plain decoding by the formulas;
    `alone_to_ms`: up to which the swarm is faster than the user alone (None: not asked, or at no latency).
    """

    speeds: dict[str, float]
    default: float
    plan: str
    together: float
    pays_from_ms: float | None
    alone_to_ms: float | None
    options: tuple[Option, ...]


def answer(question: Question, told: Callable[[str], None] = lambda text: None) -> Answer:
    """Simulate what is asked; `told` hears what is being simulated. Raises BadInput."""
    speeds = {}
    for mode, policy in MODES.items():
        told(mode)
        speeds[mode] = _speed(_run(question.scenario(policy)))
    told("the default")
    result = _run(question.scenario(DEFAULT))
    plans = result["windows"]["tokens_by_plan"]
    options = tuple(_options(question, told))
    return Answer(
        speeds=speeds,
        default=_speed(result),
        plan=max(plans, key=lambda name: (plans[name], name)) if plans else "",
        together=options[0].tokens_per_second,
        pays_from_ms=_first_ms(lambda s: _best(question, s) >= plain_speed(_costs(question, s))),
        alone_to_ms=_last_ms(lambda s: _best(question, s) >= (question.alone or 0.0)) if question.alone else None,
        options=options,
    )


def _options(question: Question, told: Callable[[str], None]) -> Iterator[Option]:
    """As it is, then as each of what this machine could be."""
    mine = question.mine
    told(f"{question.users} at once")
    yield Option("as it is", _together(question, ()))
    if mine.draft_ms is not None:
        told("this machine as a drafter")
        yield Option("drafter", _together(question, (_drafter(question, mine.draft_ms),)))
    if mine.fixed_ms is not None:
        start, end = layers_for(question)
        told(f"this machine as a shard of layers {start}:{end}")
        share = (end - start) / question.pair.layers
        group = Group(
            "shard",
            layers=f"{start}:{end}",
            name="mine",
            fixed_ms=mine.fixed_ms * share,
            position_ms=mine.slope_ms * share,
            regions=(question.home,),
        )
        yield Option("shard", _together(question, (group,)), (start, end))


def _drafter(question: Question, draft_ms: float) -> Group:
    return Group("drafter", name="mine", fixed_ms=draft_ms, regions=(question.home,))


def layers_for(question: Question) -> tuple[int, int]:
    """Those that the swarm needs most, by the node's own rule (placement/layers.py)."""
    records = [
        record
        for group in question.shards
        for index in range(group.count)
        for record in [_record(group, index, question.pair.layers)]
    ]
    share = max(record.end - record.start for record in records)
    return choose_layers(records, question.pair.layers, question.mine.capacity_layers or share)


def _record(group: Group, index: int, num_layers: int) -> ProviderRecord:
    start, end = layers_of(group, index, num_layers)
    contact = Contact(bytes(32), ("tcp://192.0.2.1:1",))
    return ProviderRecord(
        public_key=contact.public_key, addresses=contact.addresses, role="shard", model_id="0" * 64,
        model_name="", start=start, end=end, num_layers=num_layers, tokenizer_hash="0" * 64, vocab_size=1, width=1,
        context_tokens=1, free_sessions=1, fixed_ms=group.fixed_ms, slope_ms=group.position_ms,
    )  # fmt: skip


def _run(scenario: Scenario) -> dict[str, Any]:
    return simulate(scenario, seed=1)


def _together(question: Question, extra: tuple[Group, ...]) -> float:
    return float(_run(question.scenario(DEFAULT, extra, question.users))["tokens_per_second"] or 0.0)


def _speed(result: dict[str, Any]) -> float:
    return float((result["reply_tokens_per_second"] or {}).get("p50", 0.0))


# --- by the formulas ----------------------------------------------------------------------------------------------


def _costs(question: Question, latency_s: float) -> Costs:
    """One replica of each range, the usual one, with links of this latency."""
    stages: dict[tuple[int, int], tuple[float, float]] = {}
    for group in question.shards:
        for index in range(group.count):
            record = _record(group, index, question.pair.layers)
            stages.setdefault((record.start, record.end), (group.fixed_ms / 1e3, group.position_ms / 1e3))
    payload_s = question.pair.state_bytes / (question.links.bandwidth_mbit * 125_000 or float("inf"))
    draft_s = min(group.fixed_ms + group.position_ms for group in question.drafters) / 1e3
    return Costs(tuple(stages.values()), (len(stages) + 1) * latency_s, draft_s, payload_s)


def _best(question: Question, latency_s: float) -> float:
    costs, alpha = _costs(question, latency_s), question.pair.acceptance
    rounds = max(rounds_speed(costs, alpha, window) for window in range(1, MAX_WINDOW + 1))
    return max(rounds, *(stream_speed(costs, alpha, block) for block in range(1, MAX_BLOCK + 1)))


def _first_ms(holds: Callable[[float], bool]) -> float | None:
    """The lowest latency from which it holds; None: never."""
    return 0.0 if holds(0.0) else _bisect(holds, MAX_LATENCY_S, 0.0)


def _last_ms(holds: Callable[[float], bool]) -> float | None:
    return None if not holds(0.0) else _bisect(holds, 0.0, MAX_LATENCY_S)


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


# --- in words -----------------------------------------------------------------------------------------------------


def words(question: Question, found: Answer) -> str:
    return "\n".join([*_about_speed(question, found), *_about_latency(question, found), *_about_role(question, found)])


def _about_speed(question: Question, found: Answer) -> list[str]:
    best = next(mode for mode, speed in found.speeds.items() if speed >= CLEARLY * max(found.speeds.values()))
    others = ", ".join(f"{mode} {speed:.1f}" for mode, speed in found.speeds.items())
    lines = [f"Expect {found.default:.1f} tokens a second in a reply ({others})."]
    if best == "plain":
        lines.append("Speculation gains nothing here: --draft-max 0 saves the drafter's work.")
        return lines
    mode, _, sizes = found.plan.partition(" ")
    block, _, window = sizes.partition("/")
    kept = {
        "rounds": f"rounds of {window} guesses",
        "stream": f"a stream of blocks of {block}, {window} guesses in flight",
        "hedged": f"a hedged stream of blocks of {block}, {window} guesses in flight",
    }.get(mode, "plain decoding")
    lines.append(f"Best mode: {best}. Leave --window at throughput: it works mostly with {kept}.")
    return lines


def _about_latency(question: Question, found: Answer) -> list[str]:
    if found.pays_from_ms is None:
        lines = ["With this draft model speculation pays at no latency."]
    elif found.pays_from_ms < 0.05:
        lines = ["Speculation beats plain decoding however fast the links are."]
    else:
        lines = [f"Speculation beats plain decoding from {found.pays_from_ms:.1f} ms one way on (break-even)."]
    if question.alone:
        if found.alone_to_ms is None:
            lines.append(f"Alone you make {question.alone:g} tokens a second: no swarm of these machines is faster.")
        else:
            lines.append(
                f"Alone you make {question.alone:g} tokens a second: the swarm is faster while its links stay under "
                f"{found.alone_to_ms:.0f} ms one way (break-even)."
            )
    return lines


def _about_role(question: Question, found: Answer) -> list[str]:
    base, *mine = found.options
    many = f"{question.users} replies at once" if question.users > 1 else "One reply after the other"
    lines = [f"{many}: {base.tokens_per_second:.1f} tokens a second in all."]
    for option in mine:
        gain = 100 * (option.tokens_per_second / base.tokens_per_second - 1) if base.tokens_per_second else 0.0
        name = f"a shard of layers {option.layers[0]}:{option.layers[1]}" if option.layers else "a drafter"
        lines.append(f"With this machine as {name}: {option.tokens_per_second:.1f} ({gain:+.0f} %).")
    if mine:
        lines.append(_advice(base, mine))
    return lines


def _advice(base: Option, mine: Sequence[Option]) -> str:
    best = max(mine, key=lambda option: option.tokens_per_second)
    if best.tokens_per_second < 1.02 * base.tokens_per_second:
        return "It adds no speed for so many users; it would still stand in when another peer leaves."
    if best.layers is None:
        return "It helps most as a drafter: dsdnode start --role drafter --join ..."
    return f"It helps most as a shard: dsdnode start --role shard --layers {best.layers[0]}:{best.layers[1]} --join ..."


def uniform(stages: int, fixed_ms: float, slope_ms: float, draft_ms: float, links: Links, pair: Pair) -> Question:
    """A swarm of equal stages, one replica each, and one drafter."""
    shards = Group("shard", stages, stages=stages, fixed_ms=fixed_ms, position_ms=slope_ms)
    return Question(
        (shards,), (Group("drafter", fixed_ms=draft_ms),), links, replace(pair, layers=max(pair.layers, stages))
    )

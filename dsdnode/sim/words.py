"""What plan.py found, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from dsdnode.sim.plan import MAX_LATENCY_S, Answer, Option
from dsdnode.sim.question import Question

CLEARLY = 0.97
"""Of two modes nearly as fast the simpler one is named."""
NOTABLY = 0.9
"""Where the default is slower than another policy by more than this, the other one is advised."""


def words(question: Question, found: Answer) -> str:
    lines = [*_about_speed(found), *_about_latency(question, found), *_about_role(question, found)]
    if question.crowded:
        lines.append("Several peers are at one address: if they share a machine's cores, expect less than this.")
    return "\n".join(lines)


def _best_mode(found: Answer) -> str:
    return next(mode for mode, speed in found.speeds.items() if speed >= CLEARLY * max(found.speeds.values()))


def _about_speed(found: Answer) -> list[str]:
    best = _best_mode(found)
    others = ", ".join(f"{mode} {speed:.1f}" for mode, speed in found.speeds.items())
    lines = [f"Expect {found.default:.1f} tokens a second in a reply ({others})."]
    if best == "plain":
        lines.append("Speculation gains nothing here: --draft-max 0 saves the drafter's work.")
    elif found.default < NOTABLY * found.speeds[best]:
        lines.append(f"Best mode: {best}, with --window throughput:{best}.")
    else:
        kept = _plan_in_words(found.plan)
        lines.append(f"Best mode: {best}. Leave --window at throughput: it works mostly with {kept}.")
    return lines


def _plan_in_words(plan: str) -> str:
    mode, _, sizes = plan.partition(" ")
    block, _, window = sizes.partition("/")
    return {
        "rounds": f"rounds of {window} draft tokens",
        "stream": f"a stream of blocks of {block}, {window} draft tokens in flight",
        "hedged": f"a hedged stream of blocks of {block}, {window} draft tokens in flight",
    }.get(mode, "plain decoding")


def _about_latency(question: Question, found: Answer) -> list[str]:
    lines = []
    if found.pays_from_ms is None:
        lines.append("With this draft model speculation pays at no latency.")
    elif found.pays_from_ms >= 0.05:
        lines.append(f"Speculation beats plain decoding from {found.pays_from_ms:.1f} ms one way on (break-even).")
    elif _best_mode(found) != "plain":
        lines.append("Speculation beats plain decoding however fast the links are.")
    if question.alone:
        lines.append(f"Alone you make {question.alone:g} tokens a second: {_against_alone(found.alone_to_ms)}.")
    return lines


def _against_alone(to_ms: float | None) -> str:
    if to_ms is None:
        return "no swarm of these machines is faster"
    if to_ms > 1e3 * MAX_LATENCY_S:
        return f"the swarm is faster even with links of {1e3 * MAX_LATENCY_S:.0f} ms one way"
    return f"the swarm is faster while its links stay under {to_ms:.0f} ms one way (break-even)"


def _about_role(question: Question, found: Answer) -> list[str]:
    base, *mine = found.options
    many = f"{question.users} replies at once" if question.users > 1 else "One reply after the other"
    lines = [f"{many}, with the waits for first tokens: {base.tokens_per_second:.1f} tokens a second in all."]
    for option in mine:
        gain = 100 * (option.tokens_per_second / base.tokens_per_second - 1) if base.tokens_per_second else 0.0
        name = f"a shard of layers {option.layers[0]}:{option.layers[1]}" if option.layers else "a drafter"
        lines.append(f"With this machine as {name}: {option.tokens_per_second:.1f} ({round(gain):+d} %).")
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

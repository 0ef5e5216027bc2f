"""Ways to generate that are compared, by name, and what each asks the drafter for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsdnode.config import parse_threshold
from dsdnode.errors import BadInput
from dsdnode.pacing.policies import PLANS, POLICIES, parse_window
from dsdnode.wire.numbers import parse_wire

PLAIN = "plain"
ALONE = "alone"
"""The whole model in one process here, token by token, without a swarm: what cutting it costs."""
MAX_ROUNDS = 64
_POLICIES = {"rounds-adaptive": "throughput:rounds", "stream": "throughput:stream", "hedged": "throughput"}
"""Short names of some; every other window policy is a scheme of its own name."""
KNOWN = (
    f"plain, alone, rounds-K, {', '.join(_POLICIES)}, relaxed-T, deferred-T, default, {', '.join(POLICIES)}, {PLANS}"
)
_ROUNDS = re.compile(r"rounds-(\d{1,2})")
_RELAXED = re.compile(r"(relaxed|deferred)-(0?\.\d+)")


@dataclass(frozen=True, slots=True)
class Scheme:
    """`draft_max` None, `window` and `wire` empty: the drafter's own choice, as for a user who says nothing."""

    name: str
    window: str = ""
    draft_max: int | None = None
    wire: str = ""
    threshold: float = 0.0
    deferred: bool = False

    @property
    def plain(self) -> bool:
        return self.draft_max == 0

    @property
    def alone(self) -> bool:
        return self.window == ALONE


def parse_schemes(names: str, wires: str) -> tuple[Scheme, ...]:
    """Comma-separated names, each in every type of hidden states: `stream@q8` where there are several. `plain`, which
    the others are compared with, is put first when it is not named. Raises BadInput."""
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise BadInput(f"--schemes names none; there are {KNOWN}")
    types = [parse_wire(one.strip()) for one in wires.split(",")]
    unique = list(dict.fromkeys([PLAIN, *listed] if PLAIN not in listed else listed))
    return tuple(
        _scheme(name, f"{name}@{wire}" if len(types) > 1 else name, wire)
        for name in unique
        for wire in dict.fromkeys(types)
    )


def _scheme(name: str, label: str, wire: str) -> Scheme:
    rounds, relaxed = _ROUNDS.fullmatch(name), _RELAXED.fullmatch(name)
    if name in (PLAIN, ALONE):
        return Scheme(label, ALONE if name == ALONE else "fixed", 0, wire)
    if name == "default":
        return Scheme(label, wire=wire)
    if rounds and 1 <= int(rounds[1]) <= MAX_ROUNDS:
        return Scheme(label, "fixed", int(rounds[1]), wire)
    if relaxed:
        threshold = parse_threshold(relaxed[2])
        return Scheme(label, "throughput", None, wire, threshold, deferred=relaxed[1] == "deferred")
    if name in _POLICIES:
        return Scheme(label, _POLICIES[name], None, wire)
    if name in POLICIES or ":" in name:
        return Scheme(label, parse_window(name), None, wire)
    raise BadInput(f"{name!r} is no scheme; there are {KNOWN} (K from 1 to {MAX_ROUNDS}, T as 0.3)")

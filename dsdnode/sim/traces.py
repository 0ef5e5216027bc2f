"""What a draft model gets right of a target's text, position by position: recorded from a real pair, or made up.

A trace file (`dsdnode bench --record`) is JSON Lines, one reply a line: `{"prompt_tokens": 57, "accepted": [1, 0, ...],
"confidence": [...], "entropy": [...], "second": [...]}`, the lists of one length. `accepted[i]`: given the right text
before it, the draft model's own choice of token i is the target's; `confidence`: its probability under the draft model;
`entropy`: the target's there (0 to 1); `second`: where it is wrong, its second choice would have been right.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec

from dsdnode.errors import BadInput
from dsdnode.files import reading

MAX_FILE_BYTES = 256 << 20
MAX_RECORDED_TOKENS = 1 << 17
"""As a scenario's."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Of one reply: `accepted[i]`, `confidence[i]`, `entropy[i]`, `second[i]` of its token i; of one length."""

    accepted: tuple[bool, ...]
    confidence: tuple[float, ...]
    entropy: tuple[float, ...]
    second: tuple[bool, ...]
    prompt_tokens: int = 0
    """How long the recorded prompt was; 0: not recorded."""

    def __len__(self) -> int:
        return len(self.accepted)


@dataclass(frozen=True, slots=True)
class SyntheticPair:
    """`acceptance`: share of positions where the draft is right. `spread`: 0, every position alike, to 1, nearly sure
    or nearly lost from one to the next; the draft's confidence knows it. `second`: share of wrong ones whose second
    choice is right."""

    acceptance: float = 0.8
    spread: float = 0.5
    second: float = 0.4

    def trace(self, num_tokens: int, rng: Random) -> Trace:
        """A Beta distribution of mean `acceptance` gives each position's chance, which is the draft's confidence."""
        chances = [self._chance(rng) for _ in range(num_tokens)]
        return Trace(
            accepted=tuple(rng.random() < chance for chance in chances),
            confidence=tuple(chances),
            entropy=tuple(1 - chance for chance in chances),
            second=tuple(rng.random() < self.second for _ in chances),
        )

    def _chance(self, rng: Random) -> float:
        if not 0 < self.acceptance < 1 or self.spread <= 0:
            return self.acceptance
        weight = max(0.05, 4 * (1 / self.spread - 1))
        return rng.betavariate(self.acceptance * weight, (1 - self.acceptance) * weight)


class RecordedPair:
    """Traces of a real pair; replies draw one each, and longer ones go on with another. `traces`: in their order."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self.traces = traces

    @property
    def acceptance_rate(self) -> float:
        """Share of the tokens that the draft model gets right, given the true ones before them."""
        return sum(map(sum, (trace.accepted for trace in self.traces))) / sum(map(len, self.traces))

    @property
    def second_share(self) -> float:
        """Of the others, how many are its second choice."""
        num_wrong = sum(len(trace) - sum(trace.accepted) for trace in self.traces)
        return sum(map(sum, (trace.second for trace in self.traces))) / num_wrong if num_wrong else 0.0

    def trace(self, num_tokens: int, rng: Random) -> Trace:
        first = rng.choice(self.traces)
        while len(first) < num_tokens:
            first = _join(first, rng.choice(self.traces))
        return first


Pair = SyntheticPair | RecordedPair


class _Line(msgspec.Struct, frozen=True):
    """What a line has to say; what else is in it is others'."""

    accepted: tuple[bool | int, ...]
    confidence: tuple[float, ...] | None = None
    entropy: tuple[float, ...] | None = None
    second: tuple[bool | int, ...] | None = None
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_RECORDED_TOKENS)] | None = None


def read_traces(path: Path) -> RecordedPair:
    """Raises BadInput."""
    try:
        with reading(path) as file:
            lines = file.read(MAX_FILE_BYTES).removeprefix(BOM_UTF8).splitlines()
    except OSError as error:
        raise BadInput(f"cannot read the trace {path}: {error.strerror or error}") from None
    except ValueError as error:  # of a scenario: a NUL in its path
        raise BadInput(f"cannot read the trace {str(path)!r}: {error}") from None
    traces = [_parse(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not any(len(trace) for trace in traces):
        raise BadInput(f"{path}: no recorded reply in it")
    return RecordedPair([trace for trace in traces if len(trace)])


def _parse(line: bytes, where: str) -> Trace:
    try:
        raw = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"{where} is no trace of a reply ({error})") from None
    accepted, num = tuple(map(bool, raw.accepted)), len(raw.accepted)
    confidence, entropy = tuple(raw.confidence or [0.5] * num), tuple(raw.entropy or [0.5] * num)
    second = tuple(map(bool, raw.second or [False] * num))
    if not num == len(confidence) == len(entropy) == len(second):
        raise BadInput(f"{where}: accepted, confidence, entropy and second are not of one length")
    return Trace(accepted, confidence, entropy, second, raw.prompt_tokens or 0)


def _join(one: Trace, other: Trace) -> Trace:
    return Trace(
        one.accepted + other.accepted,
        one.confidence + other.confidence,
        one.entropy + other.entropy,
        one.second + other.second,
    )

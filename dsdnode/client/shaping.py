"""How a request's penalties and biases are said on the wire, once they are in their ranges."""

from __future__ import annotations

from collections.abc import Mapping

from dsdnode.errors import BadInput
from dsdnode.wire.shaping import (
    LEAST_REPETITION,
    MAX_BIAS,
    MAX_BIASES,
    MAX_LAST_TOKENS,
    MAX_LOGPROBS,
    MAX_PENALTY,
    MOST_REPETITION,
    WireShaping,
)


def shaping_of(
    presence: float, frequency: float, repetition: float, last_tokens: int, bias: Mapping[int, float]
) -> WireShaping:
    """Raises BadInput, which names the field."""
    _check("presence_penalty", presence, -MAX_PENALTY, MAX_PENALTY)
    _check("frequency_penalty", frequency, -MAX_PENALTY, MAX_PENALTY)
    _check("repetition_penalty", repetition, LEAST_REPETITION, MOST_REPETITION)
    _check("repeat_last_n", last_tokens, -1, MAX_LAST_TOKENS)
    if len(bias) > MAX_BIASES:
        raise BadInput(f"logit_bias has {len(bias)} entries: {MAX_BIASES} at most")
    for token, value in bias.items():
        _check(f"logit_bias of token {token}", value, -MAX_BIAS, MAX_BIAS)
    return WireShaping(float(presence), float(frequency), float(repetition), last_tokens, tuple(bias.items()))


def check_logprobs(num: int) -> int:
    """Raises BadInput."""
    _check("logprobs", num, -1, MAX_LOGPROBS)
    return num


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise BadInput(f"{name} is a number from {low:g} to {high:g}, not {value:g}")

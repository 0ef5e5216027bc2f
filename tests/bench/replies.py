"""Replies as the laboratory would have measured them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dsdnode.bench.config import BenchConfig
from dsdnode.bench.measure import MeasuredReply
from dsdnode.bench.schemes import Scheme, parse_schemes
from dsdnode.client.client import ReplyStats

PLAIN, ROUNDS = parse_schemes("rounds-4", "f32")


def config(**changes: Any) -> BenchConfig:
    return BenchConfig(schemes=(PLAIN, ROUNDS), **changes)


def reply(
    scheme: Scheme, prompt: int, tokens: Sequence[int], per_second: float | None, text: str = "", **stats: Any
) -> MeasuredReply:
    """`per_second` after the first token, which came after 0.5 s; one arrival a token."""
    seconds = [0.5 + i / (per_second or 1.0) for i in range(len(tokens))]
    known = {
        "completion_tokens": len(tokens),
        "tokens_per_second": per_second,
        "time_to_first_token_s": 0.5,
        "passes": len(tokens),
    }
    arrivals = tuple((at_s, i + 1) for i, at_s in enumerate(seconds))
    return MeasuredReply(
        scheme, prompt, tuple(tokens), text, seconds[-1], arrivals, ReplyStats(**known | stats), 10, 400, 900
    )

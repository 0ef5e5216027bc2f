"""Sampling with keyed noise: the token drawn is a pure function of (seed, position, logits). Speculation section 5."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Greedy is the case temperature == 0. `top_k` 0, `top_p` 1, `min_p` 0 switch a filter off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

"""How small and how large hidden states may be before a model's layers make something of them that is not finite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.port import CacheSpoiled

Rows = NDArray[np.float32]
_LEAST_LIMIT, _MOST_LIMIT = 2, 38
"""Powers of ten: real models' states reach some 10^4, float32 ends at 3.4 x 10^38."""


def limits_of_states(decode: Callable[[Rows], None], width: int) -> tuple[float, float]:
    """The sizes of states, by powers of ten, below and from which they spoil the cache: 0 and inf: none does.
    `decode` raises CacheSpoiled.

    Most architectures norm what they are fed and carry anything. Some do not, and overflow their cache's halves;
    others (qwen2vl) divide by what is nothing, or comes to nothing when it is squared.
    """
    noise = np.random.default_rng(0).standard_normal(width)
    shapes = np.stack([np.ones_like(noise), np.sign(noise), noise])

    def spoils(exponent: float) -> bool:
        try:
            decode(np.clip(shapes * 10.0**exponent, -3.4e38, 3.4e38).astype(np.float32))
        except CacheSpoiled:
            return True
        return False

    least = 10.0 ** _bisect(spoils, 0, -_MOST_LIMIT) if spoils(-np.inf) else 0.0
    most = 10.0 ** _bisect(spoils, _LEAST_LIMIT, _MOST_LIMIT) if spoils(_MOST_LIMIT) else float("inf")
    return least, most


def _bisect(spoils: Callable[[float], bool], fits: int, fails: int) -> int:
    """Between an exponent that fits and one that fails, on the way there: the first that fails, or its neighbour."""
    while abs(fails - fits) > 1:
        middle = (fits + fails) // 2
        fits, fails = (fits, middle) if spoils(middle) else (middle, fails)
    return fits if fails < fits else fails

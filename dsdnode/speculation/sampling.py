"""Sampling with keyed noise: the token drawn is a pure function of (seed, position, logits). Speculation section 5.

Gumbel-max: `argmax(logit / temperature + gumbel(u))` follows the softmax when the u are uniform. Ours come from an
integer hash of (seed, position, token id): judge and drafter throw the same dice, and so does a replay. The hash:

    key   = splitmix64(splitmix64(seed) + position)            64 bits; k0 its low, k1 its high half
    word  = mix(lowbias32(token) ^ k0, k1)                     32 bits, one a token
    mix(x, k):  x ^= x >> 16;  x *= 0x7FEB352D;  x += k;  x ^= x >> 15;  x *= 0x846CA68B;  x ^= x >> 16
    lowbias32(x) = mix(x, 0)                                   (C. Wellons, "Prospecting for hash functions", 2018)
    u     = (word + 1/2) / 2^32                                so gumbel lies in [-3.14, 22.88]

Filters come first, in llama.cpp's order (top-k, top-p, min-p, each on the distribution at temperature 1), then the
temperature. Ties go to the lowest id everywhere. A logit that is not a number counts as minus infinity; where none is
finite nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsdnode.speculation.shaping import PLAIN, Shaping
from dsdnode.wire.logprobs import LEAST_LOGPROB
from dsdnode.wire.messages import MIN_TEMPERATURE

Logits = NDArray[np.float32]
Words = NDArray[np.uint32]
Ids = NDArray[np.intp]

_MASK64: Final = (1 << 64) - 1
_M1: Final = np.uint32(0x7FEB352D)
_M2: Final = np.uint32(0x846CA68B)
_STRIP: Final = 1 << 14
_SLACK: Final = np.float32(1.001)
_NEVER: Final = np.float32(-80)
_ROUNDING: Final = np.float32(2**-22)
"""The cheap test in float32 may let too many candidates through, never too few."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: greedily below MIN_TEMPERATURE. `top_k` 0, `top_p` 1, `min_p` 0: no filter. `shaping`: what
    was done to the logits before (shaping.py): `draw` takes them so."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    shaping: Shaping = PLAIN


def draw(logits: Logits, position: int, sampling: Sampling) -> int:
    """The token at `position`, given the logits [vocab_size] of the position before it."""
    logits, best = _clean(logits)
    if sampling.temperature < MIN_TEMPERATURE:
        return best
    return _contest(logits, position, sampling, best, (best,))[0]


def draw_two(logits: Logits, position: int, sampling: Sampling) -> tuple[int, int]:
    """`draw` and its runner-up: what the same noise would choose of the other tokens that the filters leave.

    Where they leave no other it is the most likely of all others. (A vocabulary of one has no other: its only token.)
    """
    logits, best = _clean(logits)
    second = _second_best(logits, best)
    if sampling.temperature < MIN_TEMPERATURE or logits[second] == -np.inf:
        return best, second
    ranking = _contest(logits, position, sampling, best, (best, second))
    if len(ranking) == 1:
        return ranking[0], second if ranking[0] == best else best
    return ranking[0], ranking[1]


def draw_block(logits: Logits, position: int, sampling: Sampling) -> NDArray[np.int32]:
    """The tokens at [position, position + n), given logits [n, vocab_size] of the positions just before each."""
    return np.array([draw(row, position + i, sampling) for i, row in enumerate(logits)], np.int32)


def probability(logits: Logits, token: int) -> float:
    """The probability of `token` under logits [vocab_size] at temperature 1, without filters."""
    return probabilities(logits, (token,))[0]


def probabilities(logits: Logits, tokens: Sequence[int]) -> tuple[float, ...]:
    """`probability` of each of `tokens`, for the price of one."""
    logits, best = _clean(logits)
    mass = _mass(logits, best)
    return tuple(float(np.exp(logits[token] - logits[best]) / mass) for token in tokens)


def most_likely(logits: Logits, count: int) -> tuple[Ids, NDArray[np.float64], float]:
    """The `count` most likely tokens, falling, with probabilities at temperature 1 without filters, and the entropy.

    The entropy is in nats over the logarithm of the vocabulary's size: 0 is certain, 1 uniform.
    """
    logits, best = _clean(logits)
    below = logits - logits[best]
    weights = np.exp(below)
    mass = float(weights.sum(dtype=np.float64))
    np.maximum(below, _NEVER, out=below)  # 0 * -inf
    entropy = np.log(mass) - float(np.dot(weights, below)) / mass
    ids = _largest(logits, count) if count < len(logits) else np.arange(len(logits))
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    return ids, weights[ids].astype(np.float64) / mass, float(entropy / np.log(max(2, len(logits))))


def log_probabilities(logits: Logits, tokens: Sequence[int] | Ids) -> NDArray[np.float32]:
    """Of each of `tokens` at temperature 1, without filters: logits less the logarithm of all weights' sum."""
    logits, best = _clean(logits)
    values = logits[np.asarray(tokens, np.intp)].astype(np.float64) - float(logits[best]) - np.log(_mass(logits, best))
    result: NDArray[np.float32] = np.maximum(values, LEAST_LOGPROB).astype(np.float32)
    return result


def noise(seed: int, position: int, tokens: Ids) -> Words:
    """The 32 random bits of each token id at `position`: uint32, as many as `tokens`."""
    return _noise_words(_noise_key(seed, position), tokens)


def _contest(logits: Logits, position: int, sampling: Sampling, best: int, known: tuple[int, ...]) -> list[int]:
    """The tokens with the largest totals (score + noise), falling: as many as `known`, or all that the filters leave.

    `known`: tokens as likely as any, that the others have to beat.
    """
    ids, values = _filter(logits, best, sampling)
    scale = np.float32(1 / sampling.temperature)
    key = _noise_key(sampling.seed, position)
    marks = np.array(known)
    reached = _gumbel(_noise_words(key, marks)) + (logits[marks] - logits[best]) * scale
    bound = np.nextafter(np.float32(reached.min()), np.float32(-np.inf))
    found: list[tuple[float, int]] = []
    for start in range(0, len(values), _STRIP):  # temporaries of one strip stay in the cache and off the page tables
        scores = (values[start : start + _STRIP] - logits[best]) * scale
        chosen = slice(start, start + len(scores)) if ids is None else ids[start : start + _STRIP]
        alive, totals = _alive(scores, _noise_words(key, chosen), bound)
        if len(alive) == 0:
            continue
        for index in np.argsort(-totals, kind="stable")[: len(known)].tolist():
            place = start + int(alive[index])
            found.append((-float(totals[index]), place if ids is None else int(ids[place])))
    found.sort()
    return [token for _, token in found[: len(known)]]


def _alive(scores: Logits, words: Words, bound: np.float32) -> tuple[Ids, NDArray[np.float64]]:
    """Indices and totals (score + noise) of all whose total can reach `bound`, and perhaps of a few that cannot."""
    # It can only if -log(u) <= exp(score - bound); as 1 - u < -log(u), few candidates are left for logarithms.
    rest = np.float32(1) - words.astype(np.float32) * np.float32(2**-32)
    with np.errstate(over="ignore"):
        alive = np.flatnonzero(rest <= np.exp(scores - bound) * _SLACK + _ROUNDING)
    return alive, scores[alive].astype(np.float64) + _gumbel(words[alive])


def _second_best(logits: Logits, best: int) -> int:
    """The lowest id of the largest but `best`; `best` itself where there is no other."""
    parts = ((0, logits[:best]), (best + 1, logits[best + 1 :]))
    others = [start + int(np.argmax(part)) for start, part in parts if len(part)]
    return max(others, key=lambda token: (logits[token], -token), default=best)


def _noise_key(seed: int, position: int) -> int:
    return _splitmix64((_splitmix64(seed) + position) & _MASK64)


def _noise_words(key: int, tokens: Ids | slice) -> Words:
    words = _scrambled(tokens)
    words ^= np.uint32(key & 0xFFFFFFFF)
    return _mix(words, np.uint32(key >> 32))


def _splitmix64(value: int) -> int:
    """Finaliser of SplitMix64 (Steele, Lea, Flood 2014) after one step of its counter."""
    z = (value + 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def _mix(words: Words, key: np.uint32) -> Words:
    """In place: an array at this size is hashed at memory speed only without temporaries."""
    shifted = np.empty_like(words)
    words ^= np.right_shift(words, np.uint32(16), out=shifted)
    words *= _M1
    words += key
    words ^= np.right_shift(words, np.uint32(15), out=shifted)
    words *= _M2
    words ^= np.right_shift(words, np.uint32(16), out=shifted)
    return words


def _scrambled(tokens: Ids | slice) -> Words:
    """lowbias32 of each id: the part of the hash that no key enters, so ranges of ids are remembered."""
    if isinstance(tokens, slice):
        return _scrambled_range(tokens.start, tokens.stop).copy()
    return _mix(tokens.astype(np.uint32), np.uint32(0))


@lru_cache(maxsize=64)
def _scrambled_range(start: int, stop: int) -> Words:
    return _mix(np.arange(start, stop, dtype=np.uint32), np.uint32(0))


def _gumbel(words: Words | np.uint32) -> NDArray[np.float64]:
    uniform = (np.asarray(words, np.float64) + 0.5) * 2.0**-32
    result: NDArray[np.float64] = -np.log(-np.log(uniform))
    return result


def _clean(logits: Logits) -> tuple[Logits, int]:
    """The same logits without anything infinite above or undefined, and the lowest id of the largest.

    Raises ArithmeticError when there is none: the first token of the vocabulary would be no draw.
    """
    best = int(np.argmax(logits))
    if not np.isfinite(logits[best]):  # argmax stops at a nan or at +inf
        logits = np.nan_to_num(logits, nan=-np.inf, posinf=3.4e38, neginf=-np.inf)
        best = int(np.argmax(logits))
        if logits[best] == -np.inf:
            raise ArithmeticError("no logit is finite: there is nothing to draw from")
    return logits, best


def _mass(logits: Logits, best: int) -> float:
    return float(np.exp(logits - logits[best]).sum(dtype=np.float64))


def _filter(logits: Logits, best: int, sampling: Sampling) -> tuple[Ids | None, Logits]:
    """Ids that may be drawn, ascending, and their logits; None stands for all of them."""
    ids: Ids | None = None
    if 0 < sampling.top_k < len(logits):
        ids = _largest(logits, sampling.top_k)
    if sampling.top_p < 1:
        ids = _nucleus(logits, best, ids, sampling.top_p)
    values = logits if ids is None else logits[ids]
    if sampling.min_p > 0:
        kept = np.flatnonzero(values >= logits[best] + np.float32(np.log(sampling.min_p)))
        ids = kept if ids is None else ids[kept]
        values = logits[ids]
    return ids, values


def _largest(logits: Logits, count: int) -> Ids:
    """The `count` largest, of equals the lowest ids; ascending."""
    edge = np.partition(logits, len(logits) - count)[len(logits) - count]
    above = np.flatnonzero(logits > edge)
    return np.sort(np.concatenate([above, np.flatnonzero(logits == edge)[: count - len(above)]]))


def _nucleus(logits: Logits, best: int, ids: Ids | None, top_p: float) -> Ids:
    """The fewest most likely of `ids` whose probabilities reach `top_p`; ascending. Only a top band is sorted."""
    values = logits if ids is None else logits[ids]
    weights = np.exp(values - logits[best]).astype(np.float64)
    goal = top_p * float(weights.sum())
    for width in (4.0, 8.0, 16.0, np.inf):
        band = np.flatnonzero(values >= logits[best] - np.float32(width))
        if width == np.inf or weights[band].sum() >= goal:
            break
    order = band[np.argsort(-values[band], kind="stable")]
    order = order[: int(np.searchsorted(np.cumsum(weights[order]), goal)) + 1]
    kept = np.sort(order)
    return kept if ids is None else ids[kept]

"""Alice judges and Bob drafts, each on their own machine: the dice they throw must be the same, and fair."""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dsdnode.speculation.sampling import (
    Sampling,
    draw,
    draw_block,
    draw_two,
    most_likely,
    noise,
    probabilities,
    probability,
)
from dsdnode.wire.messages import MIN_TEMPERATURE, WireSampling

NOISE_VECTORS = [  # (seed, position, token) -> word; any other implementation must give these
    ((0, 0, 0), 0xF8BF0824),
    ((0, 0, 1), 0x2381B9B6),
    ((0, 1, 0), 0xEAE4EA85),
    ((1, 0, 0), 0x3B458214),
    ((42, 1000, 151_935), 0xA412D4D4),
    ((2**63 - 1, 2**20, 2**24), 0xCEE3D1DA),
]


def splitmix64(value: int) -> int:
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@lru_cache(maxsize=4)
def reference_key(seed: int, position: int) -> int:
    return splitmix64((splitmix64(seed) + position) % 2**64)


def reference_noise(seed: int, position: int, token: int) -> int:
    """The hash as the module's docstring states it, on plain integers."""

    def mix(x: int, k: int) -> int:
        x ^= x >> 16
        x = (x * 0x7FEB352D + k) % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    key = reference_key(seed, position)
    return mix(mix(token, 0) ^ key % 2**32, key >> 32)


def reference_ranking(logits: np.ndarray, position: int, sampling: Sampling) -> list[int]:
    """Gumbel-max over every token that the filters leave, without any short cut: the two best."""
    order = _by_likelihood(logits)
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = [math.exp(float(logits[i]) - float(logits[order[0]])) for i in order]
    total, reached = sum(weights), 0.0
    kept: list[int] = []
    for token, weight in zip(order, weights, strict=True):
        if sampling.top_p < 1 and reached >= sampling.top_p * total and kept:
            break
        reached += weight
        kept.append(token)
    if sampling.min_p > 0:
        kept = [i for i in kept if logits[i] >= logits[order[0]] + np.float32(np.log(sampling.min_p))]
    best = np.float32(logits[order[0]])

    def score(token: int) -> float:
        u = (reference_noise(sampling.seed, position, token) + 0.5) / 2**32
        return float((logits[token] - best) * np.float32(1 / sampling.temperature)) - math.log(-math.log(u))

    return sorted(kept, key=lambda token: (-score(token), token))[:2]


def _by_likelihood(logits: np.ndarray) -> list[int]:
    values = logits.tolist()
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def reference_two(logits: np.ndarray, position: int, sampling: Sampling) -> tuple[int, int]:
    """What is drawn, and its runner-up."""
    ranking = reference_ranking(logits, position, sampling)
    if len(ranking) > 1:
        return ranking[0], ranking[1]
    return ranking[0], next((i for i in _by_likelihood(logits) if i != ranking[0]), ranking[0])


def test_noise_is_the_same_for_every_implementation() -> None:
    for (seed, position, token), word in NOISE_VECTORS:
        assert reference_noise(seed, position, token) == word
        assert noise(seed, position, np.array([token])).tolist() == [word]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.8, seed=7),
        Sampling(temperature=1.7, seed=8),
        Sampling(temperature=0.8, top_k=40, seed=9),
        Sampling(temperature=1.0, top_p=0.9, seed=10),
        Sampling(temperature=1.0, min_p=0.05, seed=11),
        Sampling(temperature=1.2, top_k=300, top_p=0.95, min_p=0.001, seed=12),
    ],
)
def test_short_cuts_never_change_a_draw(sampling: Sampling) -> None:
    rng = np.random.default_rng(3)
    for position in range(4):
        logits = (rng.standard_normal(17_000) * rng.uniform(0.1, 4)).astype(np.float32)
        logits[::97] = logits[5]  # ties, also at the filters' edges
        first, second = reference_two(logits, position, sampling)
        assert draw(logits, position, sampling) == first
        assert draw_two(logits, position, sampling) == (first, second)


FEW = st.lists(st.sampled_from([-np.inf, -3e4, -3.0, 0.0, 0.5, 2.0, 9.0]), min_size=2, max_size=20)


@given(FEW, st.integers(0, 2**63 - 1))
def test_short_cuts_never_change_a_draw_among_few(values: list[float], seed: int) -> None:
    logits = np.array([0.25, *values], np.float32)
    for sampling in (
        Sampling(1.0, seed=seed),
        Sampling(0.01, seed=seed),
        Sampling(0.7, top_k=3, top_p=0.8, min_p=0.1, seed=seed),
        Sampling(1.0, top_k=1, seed=seed),
    ):
        first, second = reference_two(logits, 17, sampling)
        assert draw(logits, 17, sampling) == first
        if np.isfinite(logits).sum() > 1:
            assert draw_two(logits, 17, sampling) == (first, second)


@pytest.mark.slow
@pytest.mark.parametrize("over_positions", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float, over_positions: bool) -> None:
    """Chi-square, 11 degrees of freedom: 31.3 is passed by chance once in 1,000; the seeds are fixed."""
    logits = np.random.default_rng(1).standard_normal(12).astype(np.float32) * 1.5
    expected = np.exp(logits / temperature)
    expected = 20_000 * expected / expected.sum()
    tokens = [
        draw(logits, i if over_positions else 5, Sampling(temperature, seed=99 if over_positions else i))
        for i in range(20_000)
    ]
    counts = np.bincount(tokens, minlength=12)
    assert float(((counts - expected) ** 2 / expected).sum()) < 31.3


@pytest.mark.slow
def test_neighbouring_positions_are_independent() -> None:
    logits = np.zeros(8, np.float32)
    tokens = draw_block(np.tile(logits, (20_001, 1)), 0, Sampling(1.0, seed=4))
    pairs = np.bincount(tokens[:-1] * 8 + tokens[1:], minlength=64)
    expected = 20_000 / 64
    assert float(((pairs - expected) ** 2 / expected).sum()) < 103.4  # 63 degrees of freedom, once in 1,000


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert draw(np.array([1, 5, 5, 5, 2], np.float32), 3, Sampling()) == 1


def test_block_draws_each_position_by_its_own_noise() -> None:
    logits = np.zeros((6, 1000), np.float32)
    sampling = Sampling(1.0, seed=5)
    tokens = draw_block(logits, 40, sampling)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [draw(logits[0], 40 + i, sampling) for i in range(6)]
    assert len(set(tokens.tolist())) > 1


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=3), Sampling(1.0, top_k=2, top_p=0.5, min_p=0.1)])
def test_garbage_logits_neither_raise_nor_win(sampling: Sampling) -> None:
    assert draw(np.array([np.nan, 1, np.nan, -np.inf], np.float32), 0, sampling) == 1
    assert draw(np.array([0, np.inf, 3], np.float32), 0, sampling) == 1
    for hopeless in (np.nan, -np.inf):
        for drawn in (draw, draw_two):
            with pytest.raises(ArithmeticError, match="nothing to draw from"):
                drawn(np.full(5, hopeless, np.float32), 0, sampling)
    assert draw_two(np.array([np.nan, 1, -np.inf, 0], np.float32), 0, sampling) in ((1, 3), (3, 1))
    assert draw_two(np.array([-np.inf, 1, -np.inf], np.float32), 0, sampling) == (1, 0)


def test_probability_is_the_softmax() -> None:
    logits = np.array([0, 1, 2], np.float32)
    assert probability(logits, 2) == pytest.approx(math.exp(2) / (1 + math.e + math.exp(2)), rel=1e-6)
    assert probabilities(logits, (2, 0)) == (probability(logits, 2), probability(logits, 0))


def test_greedy_runner_up_is_the_second_most_likely() -> None:
    """Of equals the lowest id, on either side of the first."""
    for values, want in (([1, 5, 5, 4], (1, 2)), ([4, 1, 5, 4], (2, 0)), ([7, 8], (1, 0)), ([3], (0, 0))):
        assert draw_two(np.array(values, np.float32), 3, Sampling()) == want


@pytest.mark.slow
def test_runners_up_follow_what_is_left_of_the_softmax() -> None:
    """Given the first, the second of two is as likely as if the first did not exist (Plackett-Luce)."""
    logits = np.array([2.0, 1.0, 0.0, -1.0], np.float32)
    pairs = [draw_two(logits, position, Sampling(1.0, seed=5)) for position in range(20_000)]
    seconds = np.bincount([second for first, second in pairs if first == 0], minlength=4)
    expected = np.exp([-np.inf, 1.0, 0.0, -1.0])
    expected = seconds.sum() * expected / expected.sum()
    assert seconds[0] == 0
    assert float(((seconds[1:] - expected[1:]) ** 2 / expected[1:]).sum()) < 13.8  # 2 degrees, once in 1,000


def test_most_likely_are_the_softmax_and_its_entropy() -> None:
    logits = np.array([0, -np.inf, 3, 1, 3], np.float32)
    ids, chances, entropy = most_likely(logits, 3)
    exact = np.exp(logits) / np.exp(logits).sum()
    assert ids.tolist() == [2, 4, 3]
    assert chances.tolist() == pytest.approx(exact[[2, 4, 3]].tolist())
    assert entropy == pytest.approx(-sum(p * math.log(p) for p in exact if p) / math.log(5))
    assert most_likely(np.zeros(9, np.float32), 2)[2] == pytest.approx(1.0)
    assert most_likely(np.array([0, 200], np.float32), 2)[2] == pytest.approx(0.0)


EDGES = [0.0, -0.0, 5e-324, 1e-45, 1e-40, 2.94e-39, 1e-38, 1e-5, 0.000999, MIN_TEMPERATURE, 1e-2, 1.0, 100.0]
WILD = st.floats(width=32) | st.sampled_from([0.0, -0.0, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan])


@given(
    st.sampled_from(EDGES) | st.floats(0, 100),
    st.lists(WILD, min_size=1, max_size=12),
    st.integers(0, 14),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1),
    st.integers(0, 2**63 - 1),
)
@example(1e-40, [1.0, 1.0, 0.0], 0, 1.0, 0.0, 0)
@example(MIN_TEMPERATURE, [3.4e38, -3.4e38], 2, 5e-324, 5e-324, 1)
def test_every_value_that_may_travel_draws_a_token(
    temperature: float, values: list[float], top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    """One poisoned request ended every judge, one after the other: no combination that passes the wire's types may
    raise, whatever a broken model says (if it says anything); and what is too small to pass is greedy."""
    logits, sampling = np.array(values, np.float32), Sampling(temperature, top_k, top_p, min_p, seed)
    assume(np.nanmax(logits, initial=-np.inf) > -np.inf)
    with np.errstate(all="ignore"):
        token, (first, second) = draw(logits, 7, sampling), draw_two(logits, 7, sampling)
    assert token == first and {token, second} <= set(range(len(logits)))
    try:
        msgspec.convert([temperature, top_k, top_p, min_p, seed], WireSampling, strict=True)
    except msgspec.ValidationError:
        assert 0 < temperature < MIN_TEMPERATURE
        assert token == draw(logits, 7, Sampling())


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 0.000999, -1e-9, 100.1, math.inf, math.nan, "1", None])
def test_no_other_temperature_travels(temperature: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([temperature], WireSampling, strict=True)

"""What is missing of a model, and who has how much of it."""

from __future__ import annotations

import itertools
import random

from dsdnode.placement.ranges import missing, num_hosts


def plainly_missing(parts: set[tuple[int, int]], num_layers: int) -> list[int]:
    """Layer by layer, with all of them in hand."""
    best: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]
    for position in range(1, num_layers + 1):
        num, num_steps, layers = best[position - 1]
        options = [(num + 1, num_steps + 1, (*layers, position - 1))]
        options += [(best[start][0], best[start][1] + 1, best[start][2]) for start, end in parts if end == position]
        best.append(min(options))
    return list(best[-1][2])


def test_what_is_missing_is_found_as_if_layer_by_layer() -> None:
    """Of models of any size, in no time: strangers invent them by the hundred."""
    rng = random.Random(1)
    for _ in range(500):
        num_layers = rng.randrange(1, 30)
        starts = [rng.randrange(num_layers) for _ in range(rng.randrange(9))]
        parts = {(start, rng.randrange(start + 1, num_layers + 1)) for start in starts}
        found = missing(parts, (0, num_layers))
        assert [layer for part in found for layer in range(*part)] == plainly_missing(parts, num_layers)
        assert all(one[1] < other[0] for one, other in itertools.pairwise(found)), "runs that touch are one"
        each = num_hosts(parts, num_layers)
        assert each == [sum(start <= layer < end for start, end in parts) for layer in range(num_layers)]
    for layer in range(1000):
        assert missing({(layer, layer + 1)}, (0, 4096))[-1] == (layer + 1, 4096)

"""How soon a first token usually comes in this swarm, by what its shards publish of themselves. Pure.

Who is asked first may be mute, and only time tells. Three seconds are right for a pipeline of homes, and ten times what
a fast swarm takes. What peers say of their own speed decides nothing here but how soon another drafter is asked beside
the first: networks have one voice each, and of these the middle one counts, so whoever boasts alone is not heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median_high

from dsdnode.cost import UNKNOWN, CostLine
from dsdnode.wire.records import ProviderRecord

ROUNDS = 6
"""Round trips of a reply's beginning beside those of its pass: it is asked for, shards are looked up and pinged, the
pipeline is opened."""
MANY, LEAST_S = 3.0, 0.3
"""So many times as long as usual is long, and so much more: lookups, a tokenizer, a machine that is busy. Of the swarms
of `python -m tests.sim.asides` no first token is later but where sixteen come at once to one that was idle."""


@dataclass(frozen=True, slots=True)
class UsualPass:
    """Through the whole model, in a network's middle."""

    cost: CostLine
    num_stages: int

    @classmethod
    def of(
        cls, shards: Iterable[ProviderRecord], num_layers: int, network_of: Callable[[ProviderRecord], str]
    ) -> UsualPass | None:
        """None: nobody has measured himself yet."""
        by_network: dict[str, list[ProviderRecord]] = {}
        for shard in shards:
            if shard.cost != UNKNOWN:
                by_network.setdefault(network_of(shard), []).append(shard)
        if not by_network:
            return None

        def usual(value: Callable[[ProviderRecord], float]) -> float:
            return median_high([median_high(map(value, shards)) for shards in by_network.values()])

        fixed_s = usual(lambda one: num_layers * one.cost.fixed_s * (1 + one.queue) / _size(one))
        slope_s = usual(lambda one: num_layers * one.cost.slope_s * (1 + one.queue) / _size(one))
        return cls(CostLine(fixed_s, slope_s), round(num_layers / usual(_size)) or 1)

    def late_s(self, num_positions: int, rtt_s: float) -> float:
        """A first token that has not come by then is late. `num_positions`: of the prompt."""
        first_s = self.cost.at(num_positions) + (ROUNDS + self.num_stages) * rtt_s
        return LEAST_S + MANY * first_s


def _size(shard: ProviderRecord) -> int:
    return shard.end - shard.start

"""Which part a newcomer takes: what nobody hosts, then what few host, then what is slow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dsdnode.cost import CostLine
from dsdnode.placement.parts import Means, Part, choose_part, still_serves
from dsdnode.placement.pipelines import View
from dsdnode.placement.ranges import Range
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord
from tests.placement.offers import bytes_of, shard, swarm

NEWCOMER = Contact(bytes([99]) * 32, ("tcp://127.0.0.1:99",))
LAYER = CostLine.of_ms(1, 0.1)


def part(
    shards: Sequence[ProviderRecord], capacity: int, *, drafts: bool = True, drafters: int = 1, layer: CostLine = LAYER
) -> Part:
    means = Means(NEWCOMER, capacity, drafts, layer)
    return choose_part(shards, drafters, means, View.of({bytes_of(99): 0.0}), lambda *_: True)


@pytest.mark.parametrize(
    ("hosted", "capacity", "layers", "why"),
    [
        ([(0, 4)], 8, (4, 8), "4 of 8 layers are hosted by nobody"),
        ([(0, 4), (6, 8)], 1, (4, 5), "2 of 8 layers are hosted by nobody"),
        ([(0, 4), (4, 8), (0, 4)], 4, (4, 8), "1 peer hosts them"),
        ([(0, 4), (4, 8)], 4, (0, 4), "1 peer hosts them"),
    ],
)
def test_layers_that_nobody_hosts_come_first_and_then_those_of_the_fewest(
    hosted: list[Range], capacity: int, layers: Range, why: str
) -> None:
    chosen = part(swarm(*hosted), capacity)
    assert chosen.layers == layers and why in chosen.why
    assert chosen.roles == ("drafter", "shard")
    assert part(swarm(*hosted), capacity, drafts=False).roles == ("shard",)


def test_a_machine_too_small_for_a_layer_drafts_if_it_can() -> None:
    assert part(swarm((0, 8)), 0).roles == ("drafter",)
    assert part(swarm((0, 8)), 0, drafts=False) == Part(())


def test_where_all_have_a_stand_in_the_slow_ones_get_a_faster_one() -> None:
    """Sam is as slow as sue, and the other layers have three fast hosts."""
    fast = [shard(who, 0, 4, fixed_ms=5) for who in (1, 2, 3)]
    slow = [shard(who, 4, 8, fixed_ms=200) for who in (4, 5, 6)]
    chosen = part([*fast, *slow], 4)
    assert chosen.layers == (4, 8) and "faster" in chosen.why
    alike = [shard(who, *span, fixed_ms=5) for who, span in enumerate([(0, 4), (4, 8)] * 3, start=1)]
    assert part(alike, 4).layers == (0, 4)
    assert part([*fast, *slow], 4, layer=CostLine.of_ms(500, 1)).layers == (0, 4), "who is slower helps nobody"


def test_what_is_on_the_disk_is_kept_while_it_serves_as_well() -> None:
    assert still_serves([], (4, 8))
    assert still_serves(swarm((0, 4)), (4, 8))
    assert still_serves(swarm((0, 4), (4, 8), (4, 8)), (4, 8))
    assert not still_serves(swarm((0, 4), (4, 8), (4, 8), (4, 8)), (4, 8))
    assert not still_serves(swarm((4, 8)), (4, 8)), "the others are missing"

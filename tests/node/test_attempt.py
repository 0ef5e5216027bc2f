"""Of a model with very many hosts dora asks some, and mallory's many names do not hide the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

from dsdnode.node.drafter.attempt import MAX_ASKED, some_of
from dsdnode.wire.records import ProviderRecord
from tests.placement.offers import replace, shard

DORA = b"dora"
NOBODY: Set[bytes] = frozenset()


def host(number: int, start: int, end: int, network: int) -> ProviderRecord:
    key, address = number.to_bytes(32, "big"), f"tcp://20.0.{network}.{number % 250 + 1}:4000"
    return replace(shard(1, start, end), public_key=key, addresses=(address,))


HERS = [host(number, 0, 8, 0) for number in range(1, 500)]
HONEST = [host(500 + number, *[(0, 4), (4, 8)][number % 2], 1 + number // 2) for number in range(20)]


def asked(records: list[ProviderRecord], answered: Set[bytes] = NOBODY, silent: Set[bytes] = NOBODY) -> set[bytes]:
    found = some_of(records, DORA, answered.__contains__, silent.__contains__)
    assert found == [record for record in records if record in found]
    return {record.peer_id for record in found}


def test_of_few_all_are_asked() -> None:
    assert len(asked(HONEST)) == len(HONEST)


def test_of_very_many_some_are_asked() -> None:
    assert len(asked([*HERS, *HONEST])) == MAX_ASKED


def test_a_network_full_of_names_hides_nobody() -> None:
    assert asked([*HERS, *HONEST]) >= {record.peer_id for record in HONEST}


def test_in_one_house_each_range_is_asked_for() -> None:
    """There are no networks to go by, and all but one offer the same layers."""
    house = [replace(record, addresses=("tcp://192.168.1.7:4000",)) for record in [*HERS, HONEST[0]]]
    assert HONEST[0].peer_id in asked(house)


def test_who_answered_before_comes_first_and_who_was_silent_last() -> None:
    known = {record.peer_id for record in HERS[100:130]}
    gone = {record.peer_id for record in HONEST}
    found = asked([*HERS, *HONEST], known, gone)
    assert found >= known and not found & gone
    assert asked(HONEST, silent=gone) == gone, "where there is room for them, too"


def test_each_drafter_asks_others() -> None:
    def seen(own: bytes) -> set[bytes]:
        return {one.peer_id for one in some_of(HERS, own, lambda peer: False, lambda peer: False)}

    often = Counter(peer for number in range(20) for peer in seen(b"%d" % number))
    assert len(often) > 6 * MAX_ASKED

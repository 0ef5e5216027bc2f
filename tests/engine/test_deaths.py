"""How long an engine rests after a death, and which deaths are its own fault."""

from __future__ import annotations

import pytest

from dsdnode.engine.deaths import (
    DEATH_WINDOW_S,
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    MAX_QUARANTINE_S,
    QUARANTINE_S,
    Deaths,
    Rest,
)

NOBODY: frozenset[bytes] = frozenset()


def of(*names: str) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names)


def after(*deaths: frozenset[bytes], every_s: float = 1.0) -> list[Rest]:
    log = Deaths()
    return [log.add(every_s * number, owners) for number, owners in enumerate(deaths)]


@pytest.mark.parametrize(
    ("deaths", "words"),
    [
        ([NOBODY] * 3, "while nothing ran"),
        ([of("alice"), of("bob"), of("carol")], "owners that have nothing in common"),
        ([of("alice", "bob"), NOBODY, of("carol")], "and while nothing ran (1)"),
        ([of("mallory"), NOBODY, of("mallory"), NOBODY], "and while nothing ran (2)"),
    ],
)
def test_what_no_owner_explains_is_a_quarantine(deaths: list[frozenset[bytes]], words: str) -> None:
    *before, last = after(*deaths)
    assert not any(rest.quarantine for rest in before)
    assert last.pause_s == QUARANTINE_S and words in last.quarantine and f"died {len(deaths)} times" in last.quarantine


@pytest.mark.parametrize(
    "deaths",
    [
        [of("mallory")] * 9,
        [of("alice", "mallory"), of("bob", "mallory"), of("carol", "mallory"), of("mallory")],
        [of("mallory"), of("mallory", "alice"), of("bob"), of("bob")],
        [NOBODY, NOBODY, of("mallory"), of("mallory")][1:],
    ],
)
def test_what_one_owner_s_work_explains_is_none(deaths: list[frozenset[bytes]]) -> None:
    assert not any(rest.quarantine for rest in after(*deaths))


def test_pauses_grow_with_recent_deaths_whosever_and_end_somewhere() -> None:
    pauses = [rest.pause_s for rest in after(*[of("mallory")] * 9)]
    assert pauses[:3] == [FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 16 * FIRST_PAUSE_S] and pauses[-1] == MAX_PAUSE_S
    seldom = after(*[NOBODY] * 9, every_s=DEATH_WINDOW_S)
    assert seldom == [Rest(FIRST_PAUSE_S)] * 9


def test_quarantines_grow_and_are_forgotten_after_a_good_time() -> None:
    log, now, pauses = Deaths(), 0.0, []
    for _ in range(7):
        rest = [log.add(now, NOBODY) for _ in range(3)][-1]
        assert rest.quarantine
        pauses.append(rest.pause_s)
        now += rest.pause_s
    assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    now += MAX_QUARANTINE_S
    assert [log.add(now, NOBODY) for _ in range(3)][-1].pause_s == QUARANTINE_S

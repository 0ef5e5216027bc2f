"""Acceptance, windows, digests: the parts that fit on a page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsdnode.speculation import digest
from dsdnode.speculation.acceptance import ExactRule, JudgeDraw
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.events import MAX_EVENTS, EventLog, PassEvent
from dsdnode.speculation.plan import Plan

TOKENS = st.lists(st.integers(0, 2**24), max_size=20)


@given(TOKENS, TOKENS)
def test_exact_accepts_the_common_prefix_and_no_more(draft: list[int], draws: list[int]) -> None:
    num = min(len(draft), len(draws))
    count = ExactRule().accept(7, draft[:num], [JudgeDraw(token) for token in draws[:num]]).count
    assert draft[:count] == draws[:count]
    assert count == num or draft[count] != draws[count]


def test_fixed_is_plain_at_0() -> None:
    assert FixedRounds(0).plan() == Plan("plain", 0, 0)
    assert FixedRounds(8).plan() == Plan("rounds", 8, 8)


@given(TOKENS, TOKENS)
def test_digests_say_whether_two_lines_are_the_same(mine: list[int], theirs: list[int]) -> None:
    start = digest.first(b"secret")
    ends = [digest.extend(b"secret", start, line)[-1:] for line in (mine, theirs)]
    assert (ends[0] == ends[1]) == (mine == theirs)


def test_a_digest_can_be_continued_and_needs_its_key() -> None:
    start = digest.first(b"alice")
    whole = digest.extend(b"alice", start, (1, 2, 3, 4))
    assert digest.extend(b"alice", whole[1], (3, 4)) == whole[2:]
    assert digest.extend(b"bob", start, (1, 2, 3, 4)) != whole
    assert digest.split(b"".join(whole)) == whole
    assert all(len(value) == digest.DIGEST_BYTES for value in whole)


def test_the_digest_never_changes() -> None:
    """Peers of different versions compare them."""
    start = digest.first(b"0123456789abcdef")
    assert start.hex() == "80a691ae29b097a5"
    assert digest.after(b"0123456789abcdef", start, 42).hex() == "f90cd5a2c395c524"


def test_the_log_is_bounded_and_its_totals_are_not() -> None:
    log = EventLog(5)
    assert log.statistics().acceptance_rate is None
    log.start(1.0)
    for i in range(MAX_EVENTS + 10):
        log.judged(PassEvent(1, i, 3, 2, 1, 2, 0.0, 2.0 + i, num_draft=2), num_sent=2)
    assert len(log.passes) == MAX_EVENTS
    figures = log.statistics()
    assert figures.passes == MAX_EVENTS + 10
    assert figures.acceptance_rate == 0.5
    assert (figures.time_to_first_token_s, figures.tokens_per_second) == (1.0, 2.0)

"""Relaxed acceptance: what carol, the judge, lets stand of alice's drafts although she would have said it otherwise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdnode.speculation.acceptance import (
    BUDGET,
    BUDGET_TOKENS,
    KEY_ENTROPY,
    KEY_GAP,
    MIN_DEFERRED_MATCHES,
    UNCERTAIN_ENTROPY,
    AcceptedPrefix,
    ExactRule,
    JudgeDraw,
    KeyTokens,
    RelaxedRule,
    key_tokens,
)
from dsdnode.speculation.stage.cache import Branch
from dsdnode.speculation.stage.judge import MAX_SEEN, Decision, Judge
from dsdnode.wire.messages import Block

pytestmark = pytest.mark.slow

CAT, DOG, EEL, SEVEN, FOX = 0, 1, 2, 7, 9
KEYS = frozenset({SEVEN})


def own(token: int = CAT, second: float = 0.35, entropy: float = 0.2, **top: float) -> JudgeDraw:
    """She favours a cat (0.4) before a dog (`second`) and an eel (0.05)."""
    return JudgeDraw(token, (CAT, DOG, EEL), (top.get("best", 0.4), second, 0.05), entropy)


def relaxed(threshold: float = 0.3, deferred: bool = False) -> RelaxedRule:
    return RelaxedRule(threshold, deferred=deferred, key_tokens=KEYS)


def test_what_is_nearly_as_likely_stands_and_is_named() -> None:
    assert relaxed().accept(20, [CAT, DOG, CAT], [own()] * 3) == AcceptedPrefix(3, (21,))


def test_what_is_not_nearly_as_likely_falls() -> None:
    assert relaxed().accept(20, [CAT, DOG, CAT], [own(second=0.27)] * 3) == AcceptedPrefix(1)
    assert relaxed().accept(20, [EEL], [own()]) == AcceptedPrefix(0)
    assert relaxed().accept(20, [FOX], [own()]) == AcceptedPrefix(0)  # not among her most likely, whatever that means
    assert relaxed(0.4).accept(20, [DOG], [own(second=0.27)]) == AcceptedPrefix(1, (20,))


def test_at_a_temperature_her_own_draw_need_not_be_her_favourite() -> None:
    assert relaxed().accept(20, [CAT], [own(token=EEL)]) == AcceptedPrefix(1, (20,))


@pytest.mark.parametrize(
    "mine",
    [own(entropy=KEY_ENTROPY / 2), own(best=0.9, second=0.9 - KEY_GAP - 0.01), JudgeDraw(DOG + 5)],
    ids=["she is sure", "a large gap", "nothing known"],
)
def test_key_positions_are_strict(mine: JudgeDraw) -> None:
    assert relaxed(0.99).accept(20, [DOG], [mine]) == AcceptedPrefix(0)


@pytest.mark.parametrize(("draft_token", "draw", "first"), [(SEVEN, CAT, CAT), (DOG, SEVEN, CAT), (DOG, CAT, SEVEN)])
def test_key_tokens_are_strict_whoever_says_them(draft_token: int, draw: int, first: int) -> None:
    mine = JudgeDraw(draw, (first, DOG, SEVEN, CAT), (0.3, 0.29, 0.28, 0.27), 0.2)
    assert relaxed().accept(20, [draft_token], [mine]) == AcceptedPrefix(0)


def test_deferred_excuses_a_mismatch_that_the_block_recovers_from() -> None:
    unsure = own(second=0.1, entropy=UNCERTAIN_ENTROPY)
    draft = [DOG] + [CAT] * MIN_DEFERRED_MATCHES
    mine = [unsure] + [own()] * MIN_DEFERRED_MATCHES
    assert relaxed(deferred=True).accept(20, draft, mine) == AcceptedPrefix(len(draft), (20,))
    assert relaxed(deferred=False).accept(20, draft, mine) == AcceptedPrefix(0)
    assert relaxed(deferred=True).accept(20, draft[:-1], mine[:-1]) == AcceptedPrefix(0)  # who knows what comes
    assert relaxed(deferred=True).accept(20, [*draft[:-1], EEL], mine) == AcceptedPrefix(0)
    surer = own(second=0.1, entropy=UNCERTAIN_ENTROPY - 0.01)
    assert relaxed(deferred=True).accept(20, draft, [surer, *mine[1:]]) == AcceptedPrefix(0)


def test_tau_shrinks_as_the_budget_is_used_and_comes_back() -> None:
    rule, mine = relaxed(0.5), own(second=0.21)
    price = math.log(0.4 / 0.21)
    stood = [rule.accept(position, [DOG], [mine]).count for position in range(BUDGET_TOKENS)]
    assert stood[0] == 1
    assert stood[-1] == 0
    assert sum(stood) * price <= BUDGET
    assert rule.accept(3 * BUDGET_TOKENS, [DOG], [mine]).count == 1


@given(
    st.floats(0.01, 0.99),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from([CAT, DOG, EEL]), st.floats(0.05, 0.4), st.floats(0, 1)), max_size=400),
)
def test_no_100_tokens_cost_more_than_the_budget(
    threshold: float, deferred: bool, rows: list[tuple[int, float, float]]
) -> None:
    rule = relaxed(threshold, deferred)
    prices = [0.0] * len(rows)
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        mine = [own(second=second, entropy=entropy) for _, second, entropy in part]
        for position in rule.accept(start, [draft_token for draft_token, _, _ in part], mine).relaxed:
            seen = mine[position - start]
            prices[position] = math.log(0.4 / seen.probabilities[seen.top.index(rows[position][0])])
    for start in range(len(prices)):
        assert sum(prices[start : start + BUDGET_TOKENS]) <= BUDGET + 1e-9


BLOCKS = st.lists(
    st.tuples(st.sampled_from([CAT, DOG, EEL]), st.sampled_from([CAT, DOG, EEL]), st.floats(0.05, 0.4)), min_size=1
)


@given(BLOCKS, st.booleans())
def test_threshold_0_is_exact(rows: list[tuple[int, int, float]], deferred: bool) -> None:
    draft, mine = [draft_token for draft_token, _, _ in rows], [own(draw, second, 0.5) for _, draw, second in rows]
    assert relaxed(0.0, deferred).accept(5, draft, mine) == ExactRule().accept(5, draft, mine)
    assert relaxed(0.0, deferred).is_hopeless(5, draft, mine[0]) == ExactRule().is_hopeless(5, draft, mine[0])


@given(BLOCKS, st.floats(0, 0.9), st.booleans())
def test_hopeless_is_never_said_of_what_stands(
    rows: list[tuple[int, int, float]], threshold: float, deferred: bool
) -> None:
    draft, mine = [draft_token for draft_token, _, _ in rows], [own(draw, second, 0.5) for _, draw, second in rows]
    rule = relaxed(threshold, deferred)
    hopeless = rule.is_hopeless(5, draft, mine[0])
    count = rule.accept(5, draft, mine).count
    assert not (hopeless and count)
    if not deferred:
        assert hopeless == (count == 0)


def block(position: int, num_given: int, num_draft: int) -> Block:
    return Block(b"0123456789abcdef", 0, 1, 0, 0, position, num_given, num_draft, 0)


def test_the_judge_keeps_what_the_next_block_is_judged_by() -> None:
    """A block of drafts alone is judged by the distribution behind the block before, and the verdict names both."""
    carol, line = Judge(relaxed()), Branch(1, 0, 0, 0, [])
    mine = [own()] * 3
    carol.keep_draws(line, block(0, 4, 2), (CAT, CAT, CAT), mine)
    assert carol.judge(line, block(0, 4, 2), (DOG, CAT)) == Decision(6, CAT, False, (4,))
    assert not carol.rejects(line, block(6, 0, 2), (DOG, CAT))
    assert carol.rejects(line, block(6, 0, 2), (EEL, CAT))
    carol.keep_draws(line, block(6, 0, 2), (CAT, CAT), mine[:2])
    assert carol.judge(line, block(6, 0, 2), (DOG, EEL)) == Decision(7, CAT, True, (4, 6))
    assert carol.again(line, block(6, 0, 2)) == Decision(7, CAT, False, (4, 6))


def test_what_the_judge_keeps_is_bounded() -> None:
    carol, line = Judge(relaxed()), Branch(1, 0, 0, 0, [])
    for position in range(0, 400, 4):
        carol.keep_draws(line, block(position, 4, 0), (CAT,), [own()])
    assert len(line.seen) <= MAX_SEEN


def test_digits_operators_code_layout_and_halves_of_characters_are_key_tokens() -> None:
    pieces = [b"", b"7", b" 12", b" +", b"x=", b"(", b"\n", b"    ", b"\xe2\x82", b"`", "٣".encode(), "×".encode()]
    plain = [b" the", b"cat", b",", b".", "é".encode(), b" don", b"'t", b" ", b"?", b"A"]
    keys = KeyTokens(key_tokens(pieces + plain))
    assert [token in keys for token in range(len(pieces))] == [True] * len(pieces)
    assert [token in keys for token in range(len(pieces), len(pieces + plain))] == [False] * len(plain)
    assert len(pieces + plain) in keys
    assert 10**6 in keys
    assert CAT in KeyTokens(b"")

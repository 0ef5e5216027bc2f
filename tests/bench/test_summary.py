"""Figures from replies whose speeds are known."""

from __future__ import annotations

import pytest

from dsdnode.bench import summary
from dsdnode.bench.measure import MeasuredCrowd
from dsdnode.bench.prompts import Prompt
from tests.bench.replies import PLAIN, ROUNDS, reply

PROMPTS = [Prompt("?", 59), Prompt("?"), Prompt("?", 7)]
PLAINS = {i: reply(PLAIN, i, range(10), speed) for i, speed in enumerate((10.0, 20.0, 10.0))}


def test_medians_are_over_prompts_and_ratios_prompt_by_prompt() -> None:
    replies = [reply(ROUNDS, i, range(10), speed) for i, speed in enumerate((20.0, 30.0, 50.0))]
    result = summary.result_of(replies, PLAINS, 60.0, [])
    assert (result.scheme, result.tokens_per_second, result.speedup) == ("rounds-4", 30.0, 2.0)
    assert (result.of_bound, result.time_to_first_token_s) == (0.5, 0.5)
    details = summary.details_of(replies, PLAINS, [], PROMPTS)
    assert details.speedup_quartiles == pytest.approx((1.75, 3.5))
    assert details.late_tokens_per_second == pytest.approx(30.0)
    assert (result.bytes_per_token, result.messages_per_token, details.link_bytes_per_token) == (40, 1, 90)


def test_acceptance_and_waste_are_of_all_draft_tokens_together() -> None:
    replies = [
        reply(ROUNDS, 0, range(10), 10.0, drafted=10, judged=8, accepted=6, passes=4, covered=1, relaxed=2),
        reply(ROUNDS, 1, range(10), 10.0, drafted=30, judged=12, accepted=10, passes=6, covered=0, relaxed=0),
    ]
    result = summary.result_of(replies, PLAINS, None, [])
    assert result.wasted_share == pytest.approx(0.6)
    assert (result.acceptance_rate, result.tokens_per_pass) == (0.8, 2.0)
    assert (result.bound_tokens_per_second, result.of_bound) == (None, None)
    details = summary.details_of(replies, PLAINS, [], PROMPTS)
    assert (details.covered_share, details.relaxed_share) == (0.25, 0.1)


def test_another_text_is_found_at_its_first_other_token() -> None:
    same = reply(ROUNDS, 0, range(10), 10.0)
    other = reply(ROUNDS, 1, [0, 1, 2, 9, 4], 10.0)
    short = reply(ROUNDS, 2, range(7), 10.0)
    assert summary.differing([same, other, short], PLAINS) == [(other, 3), (short, 7)]
    result = summary.result_of([same, other], PLAINS, None, [summary.NearTie(1, 3, (3, 9), 0.001)])
    assert (result.text_equal, result.near_ties[0].gap) == (False, 0.001)


def test_right_answers_count_where_they_are_known() -> None:
    replies = [reply(ROUNDS, i, range(10), 10.0, text="The answer is 59.") for i in range(3)]
    details = summary.details_of(replies, PLAINS, [], PROMPTS)
    assert (details.right, details.num_known) == (1, 2)


def test_a_crowd_against_the_same_replies_one_by_one() -> None:
    alone = [reply(ROUNDS, i, range(10), 10.0) for i in range(2)]  # 1.4 s each
    crowd = MeasuredCrowd(ROUNDS, 2, 2.0, (reply(ROUNDS, 0, range(10), 10.0), reply(ROUNDS, 1, range(10), 1.0)))
    (shown,) = summary.details_of(alone, PLAINS, [crowd], PROMPTS).sessions
    assert shown.total_tokens_per_second == 10.0
    assert shown.alone_tokens_per_second == pytest.approx(20 / 2.8)
    assert (shown.reply_s_p50, shown.reply_s_p99) == (9.5, 9.5)
    assert shown.fairness == pytest.approx((1 / 1.4 + 1 / 9.5) ** 2 / (2 * (1 / 1.4**2 + 1 / 9.5**2)))


def test_replies_too_short_to_have_a_speed_do_not_count() -> None:
    result = summary.result_of([reply(ROUNDS, 0, [1], None), reply(ROUNDS, 1, range(10), 40.0)], PLAINS, None, [])
    assert (result.tokens_per_second, result.speedup) == (40.0, 2.0)
    assert summary.result_of([reply(ROUNDS, 0, [1], None)], PLAINS, 9.0, []).of_bound is None

"""Draft tokens that alice copies from where her text stood before, without a draft model, and beside one."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from dsdnode.speculation.actions import Draft, SendBlock
from dsdnode.speculation.owner.ngrams import LEAST_MATCH, MAX_PLACES, TOKENS_A_MATCH, NgramIndex
from dsdnode.speculation.plan import Plan

from .alice import Alice, numbers
from .test_stream import Steady

SAID = (31, 32, 33, 34, 35, 36, 37, 38, 39)


def copied(line: Sequence[int], count: int = 64, drafted: tuple[int, ...] = (), least: int = LEAST_MATCH) -> list[int]:
    return [one.token for one in NgramIndex(line, least).copied(drafted, count)]


# --- what is proposed ---------------------------------------------------------------------------------------------


def test_what_followed_the_last_tokens_is_proposed_again() -> None:
    assert copied([*SAID, 1, 2, *SAID[:5]]) == [36, 37, 38, 39, 1, 2, 31, 32, 33, 34]


def test_four_tokens_that_agree_are_chance() -> None:
    assert copied([*SAID, 1, 2, *SAID[:4]]) == []
    assert copied([*SAID, 1, 2, *SAID[:4]], least=4) != []


def test_nothing_is_proposed_behind_what_was_never_said() -> None:
    assert copied(range(200)) == [] == copied([1, 2, 3])


def test_the_place_that_agrees_for_the_longest_way_wins_over_the_latest() -> None:
    long, short = (1, 2, *SAID[:5], 50), (9, 9, *SAID[:5], 60)
    assert copied([*long, *short, 1, 2, *SAID[:5]], 1) == [50]
    assert copied([*long, *short, 7, 7, *SAID[:5]], 1) == [60]


def test_a_longer_run_is_trusted_for_a_longer_way() -> None:
    line = [*range(100, 160), 1]
    for match in (5, 8, 12):
        assert len(copied([*line, *range(100, 100 + match)])) == TOKENS_A_MATCH * match
    assert copied([*line, *range(100, 105)], 3) == [105, 106, 107]


def test_a_text_that_goes_round_goes_on_going_round() -> None:
    assert copied([7, 8] * 6, 8) == [7, 8] * 4
    assert copied([5] * 12, 4) == [5] * 4


def test_drafted_tokens_are_part_of_the_end() -> None:
    assert copied([*SAID, 1, *SAID[:3]], 2, (34, 35)) == [36, 37]
    assert copied([*SAID, 1, *SAID[:3]], 2, (34, 99)) == []


def test_a_likelier_draft_token_is_behind_a_longer_match() -> None:
    few, many = (NgramIndex([*range(100), 1, *range(num)]).copied((), 4) for num in (5, 40))
    assert [one.probability for one in few] == sorted(one.probability for one in few)
    assert few[0].probability < many[0].probability < 1
    assert all(one.copied and one.second < 0 for one in (*few, *many))


def test_the_index_grows_with_the_line_and_is_bounded_by_it() -> None:
    rng = Random(1)
    line: list[int] = []
    index = NgramIndex(line)
    for _ in range(2000):
        line.append(rng.randrange(3))
        proposed = index.copied((), 6)
        assert [one.token for one in proposed] == copied(line, 6)
    assert sum(map(len, index._places.values())) <= MAX_PLACES * 3**LEAST_MATCH


# --- what alice does with it --------------------------------------------------------------------------------------


class Copying(Steady):
    """A plan for what alice drafts, another for what she copies."""

    may_copy = True

    def __init__(self, now: Plan, copying: Plan | None) -> None:
        super().__init__(now)
        self.copies, self.asked = copying, 0

    def copying(self, survival: Sequence[float]) -> Plan | None:
        assert survival[0] == 1 and list(survival) == sorted(survival, reverse=True)
        self.asked += 1
        return self.copies


PLAIN, ROUND, STREAM = Plan("plain", 0, 0), Plan("rounds", 4, 4, copied=True), Plan("stream", 2, 4, copied=True)
PROMPT = (*SAID, 1, *SAID[:4])


def alice(plan: Plan, copying: Plan | None, **config: Any) -> Alice:
    """Her prompt was judged: 35 follows, so that five tokens agree."""
    told = {"drafter": False, "least_match": LEAST_MATCH, "chunk_positions": 64, "max_positions": 200} | config
    one = Alice(PROMPT, **told)
    one.machine._window = Copying(plan, copying)
    one.start()
    one.verdict(len(PROMPT), SAID[4])
    return one


def blocks(one: Alice) -> list[SendBlock]:
    return [action for action in one.actions if isinstance(action, SendBlock)]


def test_a_round_goes_out_with_the_given_token_at_once() -> None:
    one = alice(PLAIN, ROUND)
    (sent,) = blocks(one)
    assert sent.tokens == (35, 36, 37, 38, 39) and sent.block.num_draft == 4
    one.verdict(len(PROMPT) + 5, 1)
    assert one.text == [35, 36, 37, 38, 39, 1]
    told = one.machine.log.statistics()
    assert (told.copied_judged, told.copied_accepted, told.accepted) == (4, 4, 4)


def test_what_was_wrong_is_dropped_and_the_correction_leaves() -> None:
    one = alice(PLAIN, ROUND)
    one.verdict(len(PROMPT) + 2, 77)
    assert one.text == [35, 36, 77]
    assert [numbers(sent) for sent in blocks(one)] == [numbers(blocks(one)[0])] and blocks(one)[0].tokens == (77,)
    told = one.machine.log.statistics()
    assert (told.copied_judged, told.copied_accepted) == (2, 1)


def test_a_stream_goes_on_before_the_verdicts() -> None:
    one = alice(PLAIN, STREAM)
    assert [sent.tokens for sent in blocks(one)] == [(35, 36, 37), (38, 39)]
    one.verdict(len(PROMPT) + 2, 37)
    assert [sent.tokens for sent in blocks(one)] == [(1, 31)]


def test_a_controller_that_will_not_have_it_is_asked_once_for_a_place() -> None:
    one = alice(PLAIN, None)
    assert [sent.tokens for sent in blocks(one)] == [(35,)]
    one.machine.on_link_broken(one.now)
    assert one.machine._window.asked == 1  # type: ignore[attr-defined]


def test_where_a_policy_never_copies_the_line_is_not_indexed() -> None:
    """A long line has many runs: their places would be looked up, and kept, for nobody."""
    one = Alice(PROMPT, drafter=False, least_match=LEAST_MATCH, chunk_positions=64, max_positions=200)
    one.start()
    one.verdict(len(PROMPT), SAID[4])
    assert one.machine._drafts._ngrams is not None and not one.machine._drafts._ngrams._places
    assert alice(PLAIN, ROUND).machine._drafts._ngrams._places


def test_without_the_setting_nothing_is_copied() -> None:
    one = alice(PLAIN, ROUND, least_match=0)
    assert [sent.tokens for sent in blocks(one)] == [(35,)]


def test_a_draft_model_that_is_right_more_often_goes_first() -> None:
    """Nine of ten of its own were right, and five tokens that agree promise six of ten."""
    one = alice(Plan("stream", 2, 4), ROUND, drafter=True)
    one.machine._drafts._drawn, one.machine._drafts._drawn_right = 20.0, 18.0
    one.machine._drafts._declined = b""
    assert one.machine._drafts.copies(one.machine._epochs.main, 4) == []  # type: ignore[arg-type]
    one.machine._drafts._drawn_right = 4.0
    one.machine._drafts._declined = b""
    assert len(one.machine._drafts.copies(one.machine._epochs.main, 4)) == 4  # type: ignore[arg-type]


def test_the_draft_engine_rests_while_copies_are_there() -> None:
    """What she asked for while the prompt was read comes to nothing."""
    one = alice(Plan("rounds", 3, 3), ROUND, drafter=True)
    one.draft(50, 51, 52)
    assert not [action for action in one.actions if isinstance(action, Draft)]
    one.verdict(len(PROMPT) + 2, 77)
    assert [action for action in one.actions if isinstance(action, Draft)]


def test_the_draft_engine_reads_the_prompt_while_the_pipeline_does() -> None:
    """Though the prompt's end is as its beginning, and what follows could be copied."""
    one = Alice((*SAID, *range(60, 90), *SAID[:5]), drafter=True, least_match=LEAST_MATCH, max_positions=200)
    one.machine._window = Copying(Plan("stream", 2, 4), ROUND)
    one.start()
    assert [action for action in one.actions if isinstance(action, Draft)]


def test_the_reply_s_end_is_not_passed() -> None:
    one = alice(PLAIN, ROUND, max_tokens=3)
    (sent,) = blocks(one)
    assert sent.tokens == (35, 36)
    one.verdict(len(PROMPT) + 2, 37)
    assert one.text == [35, 36, 37] and one.machine.finished == "length"

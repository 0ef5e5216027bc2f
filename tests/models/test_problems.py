"""The generator is seeded, its worked answers are right, and the checker reads final answers only."""

import operator
import random
import re

import pytest

from dsdnode.models.problems import draw, final_answer, is_right, problems

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
PINNED = ("Felix picked 48 nuts and ate 34. How many nuts does Felix have left?", 14)
MANY = list(problems(seed=5, count=3_000))


def test_a_seed_gives_the_same_problems_again() -> None:
    assert list(problems(seed=5, count=50)) == MANY[:50]
    assert list(problems(seed=6, count=50)) != MANY[:50]


def test_a_seed_is_pinned_so_that_measurements_stay_comparable() -> None:
    first = draw(random.Random(2026))
    assert (first.question, first.result) == PINNED


def test_every_step_is_right_and_the_last_one_is_the_answer() -> None:
    for problem in MANY:
        sums = SUM.findall(problem.answer)
        assert 1 <= len(sums) <= 3
        for left, sign, right, result in sums:
            assert OPERATIONS[sign](int(left), int(right)) == int(result), problem
            assert sign != "/" or int(left) % int(right) == 0
        assert int(sums[-1][3]) == problem.result
        assert is_right(problem.answer, problem)


def test_no_placeholder_is_left_and_numbers_stay_small() -> None:
    for problem in MANY:
        assert "{" not in problem.question + problem.answer
        assert problem.question.endswith("?")
        assert 0 < problem.result < 500


def test_problems_are_varied() -> None:
    assert len({problem.question for problem in MANY}) > 0.99 * len(MANY)
    assert len({problem.family for problem in MANY}) >= 25


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("3 + 4 = 7.\nThe answer is 7.", 7),
        ("The answer is 1,250.", 1250),
        ("the answer is $18", 18),
        ("The answer is -3.", -3),
        ("The answer is 5. No: the answer is 6.", 6),
        ("3 + 4 = 7.", None),
        ("", None),
    ],
)
def test_the_final_answer_is_read(reply: str, number: int | None) -> None:
    assert final_answer(reply) == number

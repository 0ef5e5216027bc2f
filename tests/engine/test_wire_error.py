"""What wire types do to the logits, on two short answers: the whole table is `python -m tests.engine.wire_error`."""

from __future__ import annotations

import numpy as np
import pytest

from dsdnode.models.problems import problems
from dsdnode.wire.messages import WIRE_TYPES
from tests.engine.wire_error import by_type, measure

pytestmark = pytest.mark.slow


def test_f32_is_the_whole_model_and_the_others_come_near_it() -> None:
    questions = [problem.question for problem in problems(seed=5, count=2)]
    errors = measure(questions, {wire: by_type(wire) for wire in WIRE_TYPES}, 12, in_float=True)
    largest = {wire: max(float(one.max()) for one in of.differences) for wire, of in errors.items()}
    mean = {wire: float(np.concatenate(of.differences).mean()) for wire, of in errors.items()}
    assert largest["f32"] == 0.0
    assert 0 < largest["f16"] < 0.1
    assert 10 * mean["f16"] < mean["q8"] < 0.1
    assert [of.num_bytes // of.num_positions for of in errors.values()] == [1920, 972, 522]
    assert not any(of.num_changed for of in errors.values())

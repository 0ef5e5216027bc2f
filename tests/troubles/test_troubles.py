"""What is told in seconds: what counts as a word of ours on a screen, and what is not as it should be.

The troubles themselves take minutes, real daemons and root: `python -m tests.troubles`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.troubles.__main__ import faults
from tests.troubles.cases import TROUBLES
from tests.troubles.scene import QUESTION, Seen, _text, _words
from tests.troubles.terminal import terminal

BROKEN = """Sara picks 6 * 12
[waiting for layers 4:8 (d17025629cf5 does not answer) of demo]
 = 72
error: layers 4:8 (d17025629cf5 does not answer): ask again later
"""
GOOD = Seen(
    6.0, "[waiting for layers 4:8]", 61.0, 4, "Sara picks", "Sara picks 6 * 12", "error: 4:8", "4:8 d17025629cf5"
)
PEERS = {"sue": "d17025629cf5"}


def test_words_of_ours_and_the_reply_are_told_apart() -> None:
    assert [line[:12] for line in _words(BROKEN)] == ["[waiting for", "error: layer"]
    assert _text(f"> {QUESTION}\n{BROKEN}") == "Sara picks 6 * 12 = 72"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"first_s": 16.0}, "no word in time"),
        ({"first_s": None}, "no word in time"),
        ({"end_s": None}, "it takes too long"),
        ({"end_s": 200.0}, "it takes too long"),
        ({"code": 0}, "exit 0, not 4"),
        ({"text": "Sara"}, "text is lost"),
        ({"screen": "4:\n8"}, "d17025629cf5 is not named"),
    ],
)
def test_what_is_not_as_it_should_be(change: dict[str, object], fault: str | None) -> None:
    seen = Seen(**{name: getattr(GOOD, name) for name in Seen.__slots__} | change)
    assert faults(TROUBLES["only host gone for good"], seen, PEERS) == ([fault] if fault else [])


def test_a_command_at_a_terminal_and_when_it_said_what(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with terminal(tmp_path, "run", "hello", "--join", "nonsense") as there:
        assert there.wait(30) == 2
        said_s = there.first_s(lambda screen: "error:" in screen)
        assert said_s is not None and began_s < said_s <= there.ended_s
        assert there.screen().startswith("error: --join")

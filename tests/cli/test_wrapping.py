"""A reply as it stands on alice's screen, however it came in pieces."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dsdnode.cli.wrapping import Wrapping

WIDTH = 20


def screen(written: str, width: int = WIDTH) -> list[str]:
    """What a terminal shows of it: it obeys the two orders that a word is taken back with, and cuts at its edge."""
    rows = [""]
    for part in re.findall(r"\x1b\[\d+D|\x1b\[K|.|\n", written):
        if part.endswith("D") and part.startswith("\x1b"):
            rows[-1] = rows[-1][: -int(part[2:-1])]
        elif part == "\n":
            rows.append("")
        elif not part.startswith("\x1b"):
            if len(rows[-1]) == width:
                rows.append("")
            rows[-1] += part
    return rows


def test_a_word_that_comes_in_two_pieces_is_not_cut_at_the_edge() -> None:
    wrap = Wrapping(WIDTH)
    written = wrap.feed("The quick brown fox ju") + wrap.feed("mps over it.\n") + wrap.feed("And ends.")
    assert [row.rstrip() for row in screen(written)] == ["The quick brown fox", "jumps over it.", "And ends."]


def test_what_fills_a_line_goes_on_below() -> None:
    assert screen(Wrapping(WIDTH).feed("x" * 45)) == ["x" * 20, "x" * 20, "x" * 5]


def test_wide_signs_take_two_cells() -> None:
    assert screen(Wrapping(8).feed("日本語 日本語"), 8)[0].rstrip() == "日本語"


@given(st.lists(st.text("ab c\n", max_size=30), max_size=8), st.integers(4, 30))
def test_no_sign_is_lost_and_no_word_is_cut_that_fits(pieces: list[str], width: int) -> None:
    wrap, text = Wrapping(width), "".join(pieces)
    rows = screen("".join(map(wrap.feed, pieces)), width)
    assert all(len(row) <= width for row in rows)
    assert "".join(rows).replace(" ", "") == text.replace("\n", "").replace(" ", "")
    if all(len(word) <= width for word in text.split()):
        assert " ".join(rows).split() == text.split()

"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsdnode.node.drafter.delivery import StopFilter

pieces = st.lists(st.text("ab\n", max_size=4), max_size=12)
stops = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@given(pieces, stops)
def test_what_is_shown_is_the_text_before_the_first_stop(parts: list[str], stop: list[str]) -> None:
    filter_ = StopFilter(stop)
    shown = ""
    for part in parts:
        shown += filter_.feed(part)
        if filter_.stopped:
            break
    shown += filter_.flush()
    text = "".join(parts)
    found = [text.find(one) for one in stop if one in text]
    assert filter_.stopped == bool(found)
    if not found:
        assert shown == text
    else:
        # A stop seen early may hide a longer one that began before it and ended later; nothing of a stop is shown.
        assert text.startswith(shown)
        assert not any(one in shown for one in stop)
        assert any(text[len(shown) :].startswith(one) for one in stop)


def test_half_a_stop_string_is_held_back_and_given_at_the_end() -> None:
    filter_ = StopFilter(["END"])
    assert filter_.feed("the E") == "the "
    assert filter_.feed("N") == ""
    assert filter_.flush() == "EN"

from __future__ import annotations

import io
import json

import click
import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from dsdnode.cli.main import cli
from dsdnode.cli.render import as_json, clean, fitted, links_word, named, span, stats_line, table, wrapped
from tests.cli.known import STATS


def test_a_strangers_text_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b]0;title\x07b\r\x9bc\u202ed\n\te") == "a�]0;title�b��c�d\n\te"


@pytest.mark.parametrize(
    "sign", ["\x00", "\x08", "\x0c", "\x7f", "\x85", "\x9d", "\u200e", "\u200f", "\u061c", "\u2069", "\udc9b"]
)
def test_nothing_that_a_terminal_obeys_is_left_and_json_loses_nothing(sign: str) -> None:
    text = f"wörld{sign} 😀\n"
    assert clean(text) == "wörld\N{REPLACEMENT CHARACTER} 😀\n"
    told = as_json({text: [text]})
    assert sign not in told and "wörld" in told
    assert json.loads(told) == {text: [text]}


def test_tables_align_and_show_gaps() -> None:
    text = table(("A", "LONG"), [("wide cell", None), ("x", 1.25), ("two\nlines", 1234.5)])
    assert text.splitlines() == ["A          LONG", "wide cell  -", "x          1.25", "two lines  1234"]


PEERS = [
    ("497d1c1df03d", "drafter", "dsdnode demo draft", 1.62, "tcp://127.0.0.1:45181 tcp://192.168.1.20:45181"),
    ("7ebd0b916e65", "shard", "dsdnode demo target", 0.55, "tcp://127.0.0.1:44471"),
]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_table_fits_its_terminal_and_cuts_no_address(width: int) -> None:
    text = table(("PEER", "ROLES", "MODEL", "RTT MS", "ADDRESSES"), PEERS, width)
    assert max(map(len, text.splitlines())) <= width
    for row in PEERS:
        assert all(word in text for one in row for word in str(one).split())


def test_what_stands_below_a_row_is_what_is_wide() -> None:
    """A lone figure there would be of no column."""
    text = table(("ENGINE OF", "MODEL", "CONTEXT", "MS A TOKEN"), [("drafter", "dsdnode demo draft", 8192, 0.11)], 30)
    assert "MS A TOKEN  0.11" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_prose_is_broken_between_words_and_what_fits_no_line_is_left_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = "error: no node is running here: start one with `dsdnode start`"
    assert fitted(words, Terminal()).split("\n") == [words[:37], words[38:]] and fitted(words, io.StringIO()) == words
    join = f"join         dsd://127.0.0.1:29170/{'ab' * 32}"
    assert fitted(join, Terminal(), indent=13) == join


SIGNS = ["漢字 " * 14, "漢字" * 40, "e\u0301t\u00e9 " * 30, "👍🏽 ok " * 12]


@pytest.mark.parametrize("words", SIGNS, ids=["two cells", "no blanks", "accents", "joined"])
def test_what_is_wide_is_broken_where_the_terminal_ends(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Cells count, not characters; what has no blank is left to the terminal, but in a column, where it would go."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout", Terminal())
    drawn = [wrapped(words), fitted(words), table(("A", "B"), [("a", words)], 40), named([("system", words)])]
    for text in drawn if " " in words else drawn[3:]:
        widths = [cell_len(line) for line in text.splitlines()]
        assert max(widths) <= 40 and len(widths) <= cell_len(words) // 20 + 1
        assert "".join(text.split()).endswith("".join(words.split()))


def test_what_has_a_name_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setattr("sys.stdout", Terminal())
    said = [("a", "one two three four"), ("", "and five"), ("a long name", "six"), ("b", "")]
    assert named(said).splitlines() == ["a            one two", "             three four", "             and five",
        "a long name  six", "b"]  # fmt: skip


@pytest.mark.parametrize("columns", [40, 80, 100])
@pytest.mark.parametrize("name", ["", "run", "start", "peers", "models"])
def test_help_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, name: str) -> None:
    """But for a flag's own names, which are not cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    command = cli.get_command(click.Context(cli), name) if name else cli
    assert command is not None
    context = click.Context(command, info_name=name or "dsdnode", max_content_width=110)
    lines = command.get_help(context).partition("Example")[0].splitlines()
    assert [line for line in lines if len(line) > columns and not line.startswith("  -")] == []
    if not name and columns == 80:
        assert "..." not in "\n".join(lines[1:]), "what a command is for is said in a line"


def test_spans() -> None:
    assert span([0, 4]) == "0:4"
    assert span(None) is None


def test_the_line_after_a_reply() -> None:
    line = "3 tok · 8.1 tok/s · first token 0.2 s · accepted 71 % (mean 3.6 a window)"
    assert stats_line(STATS) == line
    assert stats_line(STATS, plain_tokens_per_second=4.05) == line + " · 2.0x plain"
    assert stats_line(replace(STATS, recoveries=1)) == line + " · 1 recoveries"


def test_who_waited_reads_how_long_and_for_what() -> None:
    slow = replace(STATS, waited_s=40.4)
    assert " · first token 40.4 s (40.1 s of it waiting) · " in stats_line(slow)
    assert " · first token 40.4 s (40.1 s of it waiting for a place) · " in stats_line(replace(slow, was_full=True))
    computed = replace(STATS, time_to_first_token_s=21.0, waited_s=40.4, was_full=True)
    assert " · first token 40.4 s · " in stats_line(computed)
    assert " · first token 0.9 s · " in stats_line(replace(STATS, waited_s=0.9))


def test_nothing_is_claimed_that_was_not_measured() -> None:
    plain = replace(STATS, drafted=0, acceptance_rate=None, acceptance_length_mean=None)
    assert stats_line(plain, plain_tokens_per_second=4.0) == "3 tok · 8.1 tok/s · first token 0.2 s"
    one_token = replace(plain, completion_tokens=1, tokens_per_second=None)
    assert stats_line(one_token, plain_tokens_per_second=4.0) == "1 tok · first token 0.2 s"


def test_relaxed_tokens_are_counted_even_when_there_are_none() -> None:
    assert "relaxed" not in stats_line(STATS)
    assert stats_line(replace(STATS, threshold=0.3)).endswith("a window) · 0 relaxed (0.3)")


def test_an_estimated_plain_speed_gives_way_to_a_measured_one() -> None:
    estimated = replace(STATS, plain_tokens_per_second=2.7)
    assert stats_line(estimated).endswith("· 3.0x plain")
    assert stats_line(estimated, plain_tokens_per_second=4.05).endswith("· 2.0x plain")


def test_where_links_are_the_limit_it_says_what_can_be_done() -> None:
    limited = replace(STATS, links_share=0.6, wire="f32")
    assert "for 60 % of the time" in links_word(limited) and "--wire f16" in links_word(limited)
    assert links_word(replace(limited, links_share=0.1)) == links_word(STATS) == ""
    assert links_word(replace(limited, wire="f16")) == ""

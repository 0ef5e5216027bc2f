"""The page is what the committed figures say, and how figures look on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.measurements.__main__ import KNOWN, PAGE, listing
from tests.measurements.catalogue import CHAPTERS, MEASUREMENTS
from tests.measurements.figures import Cell, Figures, Result, load, save, table
from tests.measurements.measurement import INPUTS
from tests.measurements.page import WIDTH, folded, page, section
from tests.measurements.reading import text_of

LONGEST_MIN = 120


def test_the_committed_page_is_made_of_the_committed_figures() -> None:
    assert PAGE.read_text() == page(load(KNOWN)), "python -m tests.measurements write"


def test_every_figure_is_of_a_measurement_there_is() -> None:
    assert load(KNOWN).keys() <= MEASUREMENTS.keys()


def test_names_are_unique_and_times_are_bearable() -> None:
    assert len(MEASUREMENTS) == sum(len(chapter.measurements) for chapter in CHAPTERS)
    for one in MEASUREMENTS.values():
        assert 0 < one.minutes <= LONGEST_MIN
        assert one.needs <= INPUTS.keys()


def test_the_list_names_all_of_them() -> None:
    for name in MEASUREMENTS:
        assert f"\n{name} " in "\n" + listing()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (1000, "1,000"),
        (0.997, "0.997"),
        (38.12, "38.1"),
        (1234.5, "1,234"),
        ("90 %", "90 %"),
        (25.0, "25"),
    ],
)
def test_a_cell(value: Cell, text: str) -> None:
    assert text_of(value) == text


def test_a_long_command_is_folded_between_its_options() -> None:
    command = "dsdnode bench " + " ".join(f"--option-{i} {'x' * 20}" for i in range(9))
    lines = folded(command)
    assert len(lines) > 2
    assert all(len(line) <= WIDTH + 2 for line in lines)
    assert " ".join(line.removesuffix("\\").strip() for line in lines) == command
    assert folded("dsdnode version") == ["dsdnode version"]


def test_a_section_without_figures_says_how_to_get_them() -> None:
    lines = list(section(MEASUREMENTS["theory"], None))
    assert lines[-1] == "Not measured yet: `python -m tests.measurements run theory`."


def test_a_bar_in_a_cell_does_not_part_it() -> None:
    result = Result("abc1234", "2026-01-02", ("dsdnode version",), Figures((table("what | x", [["a|b", 1]]),)), 90.0)
    lines = list(section(MEASUREMENTS["theory"], result))
    assert "| a\\|b | 1 |" in lines
    assert lines[-1] == "`theory`: commit abc1234, 2026-01-02, 90 s."


def test_figures_come_back_as_they_were_kept(tmp_path: Path) -> None:
    figures = Figures((table("what | x | y", [["alice", 1, 0.123456], ["bob", None, 2.0]]),), ("well",), "$ dsdnode")
    results = {"one": Result("abc1234", "2026-01-02", ("dsdnode version",), figures, 1.5)}
    save(tmp_path / "known.json", results)
    assert load(tmp_path / "known.json") == results
    assert figures.tables[0].rows[0] == ("alice", 1, 0.1235), "four digits count"
    assert load(tmp_path / "nowhere.json") == {}

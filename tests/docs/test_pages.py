"""Pages: their links lead somewhere, they name what there is, they are short, and they are of no machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.names import missing
from tests.docs.pages import ROOT, Place, anchors, inline_code, links, pages

MAX_README_LINES = 200
MAX_WIDTH = 160
OF_A_MACHINE = re.compile(r"(?<![\w/.:~$>-])/(?:home|root|work|Users|mnt|farm)/\w*")
ELSEWHERE = re.compile(r"[a-z]+:")
"""https:, mailto:"""
HISTORY = "CHANGELOG.md"
"""It names what is no more."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def astray(page: Path) -> Iterator[str]:
    for link in links(page):
        if ELSEWHERE.match(link.text):
            continue
        path, _, anchor = link.text.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            yield f"{link}: no heading of {target.name} makes this anchor"


def of_a_machine(page: Path) -> Iterator[str]:
    for number, line in enumerate(page.read_text().splitlines(), 1):
        for match in OF_A_MACHINE.finditer(line):
            yield str(Place(page, number, match[0]))


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(astray(page)) == []


@pytest.mark.parametrize("page", pages(), ids=named)
def test_no_paths_of_a_machine(page: Path) -> None:
    assert list(of_a_machine(page)) == []


@pytest.mark.parametrize("page", pages(), ids=named)
def test_lines_are_short(page: Path) -> None:
    lines = enumerate(page.read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > MAX_WIDTH and not line.startswith("|")] == []


@pytest.mark.parametrize("page", [page for page in pages() if page.name != HISTORY], ids=named)
def test_what_is_named_is_there(page: Path) -> None:
    assert [f"{place}: {wrong}" for place in inline_code(page) if (wrong := missing(place))] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


# --- the rules catch what they should -----------------------------------------------------------------------------

GOOD = """
# A page

## Two words: `code`, and more

## A page

[here](#two-words-code-and-more), [again](#a-page-1), [there](other.md#begin), [out](https://example.org/home/x)
`[no link](nowhere.md)` `pacing/formulas.py` `formulas.py: stream_cycle` `cost.py:PipelineCost.pass_s` `speculation/`
`PipelineCost.draft` `tests/speculation/guards.txt` `pacing/*.py` `other.md` `CHANGELOG.md` `~/notes/` `dsdnode version`
"""
BAD = """
# A page

[nowhere](nowhere.md)
[no anchor](other.md#end)
`pacing/nowhere.py`
`pacing/formulas.py: nothing`
`cost.py: PipelineCost.nothing`
`PipelineCost.nothing`
`nowhere/`
`configs/nowhere.toml`
/home/alice/file and `/work/x`
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "other.md").write_text("# Begin\n")
    return tmp_path / "page.md"


def test_a_good_page(page: Path) -> None:
    page.write_text(GOOD)
    assert list(astray(page)) == []
    assert [wrong for place in inline_code(page) if (wrong := missing(place))] == []
    assert list(of_a_machine(page)) == []


def test_a_bad_page(page: Path) -> None:
    page.write_text(BAD)
    assert [wrong.partition(": ")[0] for wrong in astray(page)] == ["page.md:4", "page.md:5"]
    assert [place.line for place in inline_code(page) if missing(place)] == [6, 7, 8, 9, 10, 11]
    assert [wrong.partition(": ")[0] for wrong in of_a_machine(page)] == ["page.md:12", "page.md:12"]

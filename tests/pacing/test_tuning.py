"""The page of numbers is about the numbers that there are."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from dsdnode.pacing.tuning import TUNING, Tuning

PAGE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()


def test_every_number_stands_on_the_page_with_its_value() -> None:
    numbers = PAGE.partition("## The numbers")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.e-]+) \|", numbers, re.MULTILINE))
    assert told == {one.name: f"{getattr(TUNING, one.name):.4g}" for one in fields(Tuning)}

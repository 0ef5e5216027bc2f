"""A reply that is to have a date has a day that there is, as whoever reads it will look."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from dsdnode.engine.dates import with_calendar
from dsdnode.speculation.masks import allows
from dsdnode.wire.calls import PLAIN, CallRule
from dsdnode.wire.replies import Constraint
from tests.engine.test_call_grammar import Model
from tests.engine.test_grammars import END, ids, masks_of, schema

DATE = {"type": "string", "format": "date"}


def takes(constraint: Constraint, text: str) -> bool:
    masks = masks_of(constraint, ids(text))
    return len(masks) == len(text) + 1 and allows(masks[-1], END)


def is_day(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("year", [0, 4, 1900, 2000, 2023, 2024, 2100, 2400, 7218])
def test_the_29th_of_february_is_a_day_of_some_years(year: int) -> None:
    wanted = schema(DATE)
    for month, day in ((2, 28), (2, 29), (2, 30), (4, 30), (4, 31), (12, 31), (1, 0), (13, 1)):
        assert takes(wanted, f'"{year:04}-{month:02}-{day:02}"') == is_day(year, month, day)


@pytest.mark.parametrize(
    ("wanted", "form"),
    [
        ({"type": "object", "properties": {"format": DATE}, "required": ["format"]}, '{"format":"%s"}'),
        ({"type": "array", "items": {"anyOf": [{"type": "null"}, DATE]}}, '[null,"%s"]'),
        ({"$defs": {"enum": DATE}, "$ref": "#/$defs/enum"}, '"%s"'),
        (DATE | {"pattern": "^2"}, '"%s"'),
        (DATE | {"pattern": "^2", "allOf": [{"minLength": 3}]}, '"%s"'),
        ({"type": "string", "format": "date-time"}, '"%sT01:02:03Z"'),
    ],
)
def test_wherever_it_stands(wanted: Any, form: str) -> None:
    assert takes(schema(wanted), form % "2024-02-29")
    assert not takes(schema(wanted), form % "2023-02-29")


def test_a_value_is_what_it_is() -> None:
    for key in ("const", "enum"):
        assert with_calendar({key: [DATE]}) == {key: [DATE]}
    assert with_calendar(True) is True
    assert with_calendar(DATE | {"allOf": 7}) == DATE | {"allOf": 7, "pattern": with_calendar(DATE)["pattern"]}


def test_arguments_of_calls_have_such_days_too() -> None:
    parameters = {"type": "object", "properties": {"on": DATE}, "required": ["on"]}
    tools = [{"type": "function", "function": {"name": "book", "parameters": parameters}}]
    model = Model(PLAIN, CallRule(names=("book",), strict=("book",)), {}, tools)
    for year, is_there in ((2024, True), (2023, False)):
        call = json.dumps({"name": "book", "arguments": {"on": f"{year}-02-29"}})
        assert model.may_write(f"{PLAIN.open}\n{call}\n{PLAIN.close}") == is_there

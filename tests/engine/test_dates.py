"""A reply that is to have a date has a day that there is, and one of named numbers that one, as whoever reads it will
look."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pytest

from dsdnode.engine.dates import with_calendar
from dsdnode.errors import BadInput
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
        ({"type": "string", "format": "date-time"}, '"%sT23:59:59Z"'),
    ],
)
def test_wherever_it_stands(wanted: Any, form: str) -> None:
    assert takes(schema(wanted), form % "2024-02-29")
    assert not takes(schema(wanted), form % "2023-02-29")


@pytest.mark.parametrize(("kind", "before"), [("time", ""), ("date-time", "2024-12-31T")])
def test_a_minute_has_60_seconds(kind: str, before: str) -> None:
    wanted = schema({"type": "string", "format": kind})
    assert takes(wanted, f'"{before}23:59:59Z"') and not takes(wanted, f'"{before}23:59:60Z"')


EXACT = [9007199254740992, -5, 0, 0.1, 1e22, 1e-22, 987654321.054321, -73.98565400000001]
INEXACT = [9007199254740993, -1234567890123456789, 10**30, 123456789.12345679, 1e23, 2.5e-300]
"""Of most of these llguidance would write another number: ...0992, say, or one that ends in 768."""


@pytest.mark.parametrize("number", [*EXACT, *INEXACT])
def test_a_number_that_was_named_is_written_or_refused(number: float) -> None:
    parameters = {"type": "object", "properties": {"id": {"enum": [number]}}, "required": ["id"]}
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": parameters}}]
    text = str(number) if isinstance(number, int) else f"{Decimal(repr(number)):f}".removesuffix(".0")
    for key, value in (("const", {"id": [number]}), ("enum", [{"id": [number]}])):
        wanted = schema({"properties": {"at": {key: value}}, "required": ["at"], "default": INEXACT})
        if number in EXACT:
            assert takes(wanted, f'{{"at":{{"id":[{text}]}}}}')
        else:
            with pytest.raises(BadInput, match=r"JSON schema .*too many digits"):
                masks_of(wanted, [])
    if number in INEXACT:
        with pytest.raises(BadInput, match="too many digits"):
            Model(PLAIN, CallRule(names=("look_up",), strict=("look_up",)), {}, tools)


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

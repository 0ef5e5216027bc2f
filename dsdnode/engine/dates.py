"""What llguidance takes for valid by a JSON schema, and whoever reads the reply by the same schema would not: the 29th
of February in every year, the year 0, a 61st second in any minute, and other numbers than those that were named."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from dsdnode.errors import BadInput

_YEAR: Final = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR: Final = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_LONG, _SHORT = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_DAY: Final = f"(?:{_LONG}|{_SHORT}|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_DATE: Final = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME: Final = "[0-9]{2}:[0-9]{2}:[0-5]"
"""Most calendars know no leap seconds."""
PATTERNS: Final = {"date": f"^{_DATE}$", "time": f"^{_TIME}", "date-time": f"^{_DATE}T{_TIME}"}
NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""In a schema: schemas by names, which may be those of keywords."""
VALUES: Final = ("enum", "const")
"""In a schema: values, which may look like schemas."""
_MOST_DIGITS, _MOST_ZEROS = 1 << 53, 22
"""Of a number, without its point, and behind or before that: floats hold, and llguidance reads, these exactly."""


def with_calendar(schema: Any) -> Any:
    """The same JSON schema, whose dates must be days that there are. Raises RecursionError: it is too deep; BadInput: a
    number that it names cannot be held to."""
    if isinstance(schema, list):
        return [with_calendar(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return dated({key: _within(key, value) for key, value in schema.items()})


def _within(key: str, value: Any) -> Any:
    if key in NAMED and isinstance(value, dict):
        return {name: with_calendar(one) for name, one in value.items()}
    if key in VALUES:
        _check_numbers(value)
        return value
    return with_calendar(value)


def _check_numbers(value: Any) -> None:
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_numbers(one)
    check_number(value)


def check_number(value: Any) -> None:
    """Of `enum` or `const`. Raises BadInput: a number, in whose place a neighbour of it might be written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        _, digits, exponent = Decimal(repr(value)).as_tuple()
        is_held = isinstance(exponent, int) and abs(exponent) <= _MOST_ZEROS
        if not is_held or int("".join(map(str, digits))) > _MOST_DIGITS:
            raise BadInput(f"the value {str(value)[:64]} cannot be held to: it has too many digits")


def dated(schema: dict[str, Any]) -> dict[str, Any]:
    """Itself alone; not those within it."""
    kind = schema.get("format")
    if not isinstance(kind, str) or kind not in PATTERNS:
        return schema
    if "pattern" not in schema:
        return schema | {"pattern": PATTERNS[kind]}
    others = schema.get("allOf", [])
    return schema | {"allOf": [*others, {"pattern": PATTERNS[kind]}]} if isinstance(others, list) else schema

"""Days that are in the calendar, for JSON schemas: llguidance takes the 29th of February for a day of every year, and 0
for a year, and whoever reads the reply by the same schema would not."""

from __future__ import annotations

from typing import Any, Final

_YEAR: Final = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR: Final = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_LONG, _SHORT = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_DAY: Final = f"(?:{_LONG}|{_SHORT}|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_DATE: Final = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
PATTERNS: Final = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}T"}
NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""In a schema: schemas by names, which may be those of keywords."""
VALUES: Final = ("enum", "const")
"""In a schema: values, which may look like schemas."""


def with_calendar(schema: Any) -> Any:
    """The same JSON schema, whose dates must be days that there are. Raises RecursionError: it is too deep."""
    if isinstance(schema, list):
        return [with_calendar(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return dated({key: _within(key, value) for key, value in schema.items()})


def _within(key: str, value: Any) -> Any:
    if key in NAMED and isinstance(value, dict):
        return {name: with_calendar(one) for name, one in value.items()}
    return value if key in VALUES else with_calendar(value)


def dated(schema: dict[str, Any]) -> dict[str, Any]:
    """Itself alone; not those within it."""
    kind = schema.get("format")
    if not isinstance(kind, str) or kind not in PATTERNS:
        return schema
    if "pattern" not in schema:
        return schema | {"pattern": PATTERNS[kind]}
    others = schema.get("allOf", [])
    return schema | {"allOf": [*others, {"pattern": PATTERNS[kind]}]} if isinstance(others, list) else schema

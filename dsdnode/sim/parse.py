"""From a TOML table to frozen dataclasses: an unknown key is an error that says what was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dsdnode.config import MAX_BITS
from dsdnode.errors import BadInput

T = TypeVar("T")


def build(kind: type[T], table: Any, where: str) -> T:
    """`kind`, a dataclass, of a table: fields by their names, nested ones too. Raises BadInput, naming `where`."""
    if not isinstance(table, dict):
        raise BadInput(f"{where}: a table is expected")
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise BadInput(f"{where}: {unknown(key, names)}")
    values = {key: _value(hints[key], raw, f"{where}: {key}") for key, raw in table.items()}
    try:
        return kind(**values)
    except TypeError:
        missing = [f.name for f in dataclasses.fields(kind) if f.name not in values and _needed(f)]  # type: ignore[arg-type]
        raise BadInput(f"{where}: {', '.join(missing)} must be given") from None
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None


def unknown(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"unknown key {key!r}; " + (f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(names)}")


def _needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(kind: Any, raw: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(raw, int) and raw.bit_length() > MAX_BITS:
        raise BadInput(f"{where}: a number of {raw.bit_length()} bits is out of range")
    if origin in (Union, types.UnionType):
        return _first(arguments, raw, where)
    if origin is Literal:
        if raw not in arguments:
            raise BadInput(f"{where}: {raw!r} is not one of {', '.join(map(str, arguments))}")
        return raw
    if origin is tuple:
        return _tuple(arguments, raw, where)
    if origin is dict:
        if not isinstance(raw, dict):
            raise BadInput(f"{where}: a table is expected")
        return {str(key): _value(arguments[1], one, f"{where}.{key}") for key, one in raw.items()}
    if dataclasses.is_dataclass(kind):
        return build(kind, raw, where)  # type: ignore[arg-type]
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if not isinstance(raw, kind) or (kind is not bool and isinstance(raw, bool)):
        raise BadInput(f"{where}: {raw!r} is not {_said(kind)}")
    if isinstance(raw, float) and not math.isfinite(raw):
        raise BadInput(f"{where}: {raw!r} is not finite")
    return raw


def _first(kinds: tuple[Any, ...], raw: Any, where: str) -> Any:
    """Of a union: the first that fits; else the complaint of the last. (TOML cannot say None.)"""
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    for kind in kinds[:-1]:
        try:
            return _value(kind, raw, where)
        except BadInput:
            continue
    return _value(kinds[-1], raw, where)


def _tuple(kinds: tuple[Any, ...], raw: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise BadInput(f"{where}: a list is expected")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(raw)
    if len(raw) != len(kinds):
        raise BadInput(f"{where}: {len(kinds)} values are expected, not {len(raw)}")
    return tuple(_value(kind, one, f"{where}[{i}]") for i, (kind, one) in enumerate(zip(kinds, raw, strict=True)))


def _said(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, str(kind))

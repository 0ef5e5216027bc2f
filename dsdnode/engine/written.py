"""Text that knows which of its characters a chat template wrote, whatever the template does with it.

To a template a `Written` is a str like any other: all of its methods see the text as it is. Those that templates put
texts together and take them apart with carry on who wrote what. Whatever else is done gives a plain str: the same text,
of which the template wrote nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import Formatter
from typing import Any, SupportsIndex

_CONVERSION = re.compile(r"%(?:\((?P<key>[^()]*)\))?(?P<how>[^%a-zA-Z()]*)(?P<type>[%a-zA-Z])")


class Written(str):
    """`_own`: a byte for each character, 1 if the template wrote it. (A name that its sandbox does not give away.)"""

    __slots__ = ("_own",)
    _own: bytes

    def __new__(cls, text: str, own: bytes | None = None) -> Written:
        """Without `own`, the template wrote none of it."""
        written = super().__new__(cls, text)
        written._own = bytes(len(text)) if own is None else own
        return written

    @staticmethod
    def by_template(text: str) -> Written:
        return Written(text, b"\1" * len(text))

    @staticmethod
    def concat(parts: Iterable[Any]) -> Written:
        """The parts as texts, one after the other."""
        return _EMPTY.join([str(part) for part in parts])

    def own_runs(self) -> list[tuple[int, int]]:
        """[start, end) of each run of characters that the template wrote."""
        return [run.span() for run in re.finditer(b"\1+", self._own)]

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> Written:
        text = super().__getitem__(key)
        return Written(text, self._own[key] if isinstance(key, slice) else self._own[key.__index__() :][:1])

    def __add__(self, other: str) -> Written:
        if not isinstance(other, str) or hasattr(other, "__html__"):  # markup escapes what it is added to
            return NotImplemented
        return Written(super().__add__(other), self._own + _own_of(other))

    def __radd__(self, other: str) -> Written:
        if not isinstance(other, str):
            return NotImplemented
        return Written(str.__add__(other, self), _own_of(other) + self._own)

    def __mul__(self, count: SupportsIndex) -> Written:
        return Written(super().__mul__(count), self._own * count)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        text = super().__mod__(values)
        return self._filled(text, self._conversions(values))

    def join(self, parts: Iterable[str]) -> Written:
        parts = list(parts)
        return Written(super().join(parts), self._own.join(map(_own_of, parts)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().split(sep, maxsplit), None if sep is None else len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().rsplit(sep, maxsplit), None if sep is None else len(sep))

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._parts(super().splitlines(True), 0)
        return [line[: len(bare)] for line, bare in zip(lines, super().splitlines(keepends), strict=True)]

    def partition(self, sep: str) -> tuple[str, str, str]:
        before, found, after = self._parts(super().partition(sep), 0)
        return before, found, after

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        before, found, after = self._parts(super().rpartition(sep), 0)
        return before, found, after

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        if not old:
            return super().replace(old, new, count)
        return Written(new, _own_of(new)).join(self.split(old, count))

    def strip(self, chars: str | None = None) -> Written:
        start = len(self) - len(super().lstrip(chars))
        return self[start : start + len(super().strip(chars))]

    def lstrip(self, chars: str | None = None) -> Written:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> Written:
        return self[: len(super().rstrip(chars))]

    def removeprefix(self, prefix: str) -> Written:
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str) -> Written:
        return self[: len(super().removesuffix(suffix))]

    def upper(self) -> str:
        return self._changed(super().upper())

    def lower(self) -> str:
        return self._changed(super().lower())

    def capitalize(self) -> str:
        return self._changed(super().capitalize())

    def title(self) -> str:
        return self._changed(super().title())

    def filled(self, formatter: Formatter, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """As `formatter.vformat` of it."""
        text = formatter.vformat(self, args, kwargs)
        return self._filled(text, self._fields(formatter, args, kwargs))

    def _parts(self, parts: Sequence[str], gap: int | None) -> list[str]:
        """`parts` of it, one behind the other, `gap` characters between them; None: white space, however much."""
        found: list[str] = []
        at = 0
        for part in parts:
            start = self.find(part, at) if gap is None else at
            found.append(self[start : start + len(part)])
            at = start + len(part) + (gap or 0)
        return found

    def _changed(self, text: str) -> str:
        """Cases may take more characters (ß): then nobody knows which is which."""
        return Written(text, self._own) if len(text) == len(self) else text

    def _filled(self, text: str, parts: Iterable[str]) -> str:
        """`text`, which `parts` make up; plain if they do not, or somebody else wrote some of the pattern."""
        if 0 in self._own:
            return text
        written = Written.concat(parts)
        return written if written == text else text

    def _conversions(self, values: Any) -> Iterable[str]:
        rest = iter(values if isinstance(values, tuple) else (values,))
        at = 0
        for match in _CONVERSION.finditer(self):
            yield self[at : match.start()]
            at = match.end()
            if match["type"] == "%":
                yield self[match.end() - 1 : at]
                continue
            value = values[match["key"]] if match["key"] is not None else next(rest, "")
            plain = match["type"] == "s" and not match["how"] and isinstance(value, str)
            yield value if plain else str.__mod__("%" + match["how"] + match["type"], (value,))
        yield self[at:]

    def _fields(self, formatter: Formatter, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterable[str]:
        number = 0
        for literal, name, spec, conversion in formatter.parse(self):
            yield Written.by_template(literal)
            if name is None:
                continue
            if not name:
                name, number = str(number), number + 1
            value, _ = formatter.get_field(name, args, kwargs)
            how = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            yield value if isinstance(value, str) and not how else formatter.vformat("{0" + how + "}", (value,), {})


def _own_of(text: str) -> bytes:
    return text._own if isinstance(text, Written) else bytes(len(text))


_EMPTY = Written("")

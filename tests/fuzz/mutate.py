"""Mutations of what is right already: of values before they are packed, and of the packed bytes.

Most cases change one thing deep inside, so that they get past the first checks of lengths to what lies behind these.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

WHOLE = (
    0, 1, -1, 2, 8, 15, 16, 17, 63, 64, 65, 127, 128, 255, 256, 1023, 1024, 1025, 3600, 65535, 65536, 1 << 20,
    (1 << 20) + 1, 1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 40) + 1, (1 << 62),
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63),
)  # fmt: skip
"""Every limit of the wire, and of the types of msgpack and C, with what lies beside it."""
REAL = (
    0.0, -0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 5e-324, 1e-40, 1e-8, 9.99e-4, 1e-3, 100.0,
    3600.0, 65504.0, 86_400_000.0, 1e18, 3.4e38, 1e308, 1 - 2**-53,
)  # fmt: skip
WORDS = (
    "", "f32", "f16", "q8", "user", "system", "shard", "drafter", "x" * 96, "x" * 97, "x" * 513, "a" * 64, "A" * 64,
    "a" * 64 + "\n", "\x1b[31m", "\x9b", "\u202e", "\u200b", "\u061c", "é\u0301", "\ufdd0", "\U0010ffff", "tcp://127.0.0.1:1",
    "tcp://[::1]:65535", "tcp://[::ffff:1.2.3.4]:80", "tcp://a_b:1", "tcp://a.:1", "tcp://1.2.3.4:0", "\0",
)  # fmt: skip
BYTES = (b"", b"\0", b"\0" * 16, b"\xff" * 32, b"x" * 31, b"x" * 33, b"\xed\xa0\x80", b"\0" * 32, b"\1" + b"\0" * 31)
"""Among them the keys of Ed25519 that are no points, or points of low order."""
MARKS = bytes((0xC1, 0xDC, 0xDD, 0xDE, 0xDF, 0xDB, 0xC6, 0xC7, 0xC9, 0xD4, 0x90, 0x9F, 0x80, 0xCB, 0xFF, 0xC0, 0xC3))
"""Of msgpack: never used, lists, maps, strings, bytes, extensions, a float, nil, true."""
PLAIN_SHARE, TYPED_SHARE = 0.03, 0.8
DEPTH = 3
Change = Callable[["Mutator", Any], Any]


class Mutator:
    """Draws from `rng` alone: the same one gives the same cases."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1. (`randrange` takes four times as long.)"""
        return int(self.rng.random() * limit)

    def any_of(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.random() * len(items))]

    # --- values

    def changed(self, value: Any) -> Any:
        """A copy with one to four things in it that are not as they were; rarely as it was."""
        chance = self.rng.random()
        if chance < PLAIN_SHARE:
            return value
        value = self._within(value)
        while chance > 0.75:
            value = self._within(value)
            chance -= 0.09
        return value

    def packed(self, value: Any) -> bytes:
        """`changed`, as msgpack; now and then the bytes are changed as well."""
        try:
            data: bytes = msgpack.packb(self.changed(value))
        except (OverflowError, ValueError):  # what no msgpack can say
            data = msgpack.packb(value)
        return self.scratched(data) if self.rng.random() < 0.1 else data

    def _within(self, value: Any) -> Any:
        kind = type(value)
        if kind is dict and value:
            name = self.any_of(tuple(value))
            return {**value, name: self._within(value[name])} if self.rng.random() < 0.9 else {**value, "x": value}
        if (kind is not list and kind is not tuple) or not value:
            return self._leaf(value)
        place = self.below(len(value))
        if self.rng.random() < TYPED_SHARE:
            items = list(value)
            items[place] = self._within(value[place])
            return items
        return self._shape(list(value), place)

    def _shape(self, items: list[Any], place: int) -> list[Any]:
        """A list that is longer, shorter or in another order."""
        way = self.below(7)
        if way == 0:
            del items[place]
        elif way == 1:
            items.insert(place, self.anything())
        elif way == 2:
            items.insert(place, items[place])
        elif way == 3:
            other = self.below(len(items))
            items[place], items[other] = items[other], items[place]
        elif way == 4:
            items = items * self.any_of((2, 3, 16)) if len(items) < 64 else items[:place]
        elif way == 5:
            items = items[:place]
        else:
            items = [*items[:place], items[:place], *items[place + 1 :]]
        return items

    def _leaf(self, value: Any) -> Any:
        """Another value of the same type, mostly."""
        change = _OF_ITS_TYPE.get(type(value))
        return self.anything() if change is None or self.rng.random() > TYPED_SHARE else change(self, value)

    def anything(self, depth: int = 0) -> Any:
        way = self.below(8 if depth < DEPTH else 6)
        if way == 6:
            return [self.anything(depth + 1) for _ in range(self.below(4))]
        if way == 7:
            return {self.any_of(("a", "b", 1, b"x")): self.anything(depth + 1) for _ in range(self.below(3))}
        return self.any_of((WHOLE, REAL, WORDS, BYTES, (True, False, None), (0, 1, 2, 3))[way])

    # --- bytes

    def scratched(self, data: bytes) -> bytes:
        """One to three places changed, mostly without a change of the length."""
        raw = bytearray(data)
        for _ in range(self.any_of((1, 1, 2, 3))):
            way, place = self.below(10), self.below(len(raw) + 1)
            if way < 3 and raw:
                raw[place % len(raw)] ^= 1 << self.below(8)
            elif way < 5 and raw:
                raw[place % len(raw)] = self.any_of(MARKS)
            elif way < 7:
                raw[place : place + 4] = struct.pack("<I", self.any_of(WHOLE) & 0xFFFFFFFF)
            elif way == 7:
                raw[place : place + 8] = struct.pack("<Q", self.any_of(WHOLE) & ((1 << 64) - 1))
            elif way == 8:
                del raw[place : place + self.any_of((1, 2, 4, 8))]
            else:
                raw[place:place] = raw[: self.any_of((1, 4, 16))]
        return bytes(raw)

    def respelled(self, text: str, parts: Sequence[str]) -> str:
        """A text with one to three of its stretches doubled, left out, or replaced by one of `parts`."""
        for _ in range(self.any_of((1, 1, 2, 3))):
            place = self.below(len(text) + 1)
            end = place + self.any_of((0, 0, 1, 4, 16))
            text = text[:place] + self.any_of((*parts, "", text[place:end] * 2)) + text[end:]
        return text


def _number(mutator: Mutator, value: int) -> int:
    return int(mutator.any_of((value + 1, value - 1, value * 2, mutator.any_of(WHOLE), mutator.any_of(WHOLE))))


def _string(mutator: Mutator, value: str) -> str:
    way = mutator.below(4)
    if way == 0:
        return str(mutator.any_of(WORDS))
    place = mutator.below(len(value) + 1)
    if way == 1:
        return value[:place]
    return value[:place] + str(mutator.any_of(WORDS)) + value[place + way - 2 :]


def _buffer(mutator: Mutator, value: bytes) -> bytes:
    way = mutator.below(4)
    if way == 0 or not value:
        return bytes(mutator.any_of(BYTES))
    if way == 1:
        return value[: mutator.below(len(value) + 1)]
    place = mutator.below(len(value))
    return value[:place] + bytes([mutator.below(256)]) + value[place + 1 :] + value[: way - 2]


_OF_ITS_TYPE: dict[type, Change] = {
    bool: lambda mutator, value: not value,
    int: _number,
    float: lambda mutator, value: mutator.any_of(REAL),
    str: _string,
    bytes: _buffer,
}

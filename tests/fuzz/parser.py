"""One parser of strangers' bytes as data: how cases of it are made, what may leave it, which of its lines count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz.mutate import Mutator

Case = tuple[bytes, ...]
"""Frames, buffers; of a machine the seed of its events."""


@dataclass(frozen=True, slots=True)
class Parser:
    """`parse` raises one of `documented`, or AssertionError where what came out breaks a promise, or nothing.

    `fits`: does a case pass the first check of lengths? None: there is none, events come decoded. `targets`: the
    functions and classes whose lines are counted. `slow`: what takes too long is no finding, its process is watched.
    """

    name: str
    make: Callable[[Mutator], Case]
    parse: Callable[[Case], object]
    documented: tuple[type[Exception], ...]
    targets: tuple[object, ...]
    fits: Callable[[Case], bool] | None = None
    slow: bool = False

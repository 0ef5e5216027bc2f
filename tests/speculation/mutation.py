"""A guard of the protocol, taken out for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Mutation:
    """`patches`: (target, name, function of the original that gives the replacement)."""

    says: str
    patches: tuple[tuple[Any, str, Callable[[Any], Any]], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for target, name, change in self.patches:
                stack.enter_context(patch.object(target, name, change(getattr(target, name))))
            yield


def always(value: Any) -> Callable[[Any], Any]:
    return lambda original: lambda *_, **__: value


def constant(value: Any) -> Callable[[Any], Any]:
    return lambda original: value

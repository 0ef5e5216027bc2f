"""A guard of production code, taken out for as long as a process lives.

The module is compiled from its source with one fragment replaced, before anybody imports it. So whatever stands in a
file can be taken out, a line of a function as well as a limit, and everybody in the process gets the changed one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Rotten(Exception):
    """The code is not any more what a mutation takes it for: look for its guard, it may be gone."""


@dataclass(frozen=True)
class Mutation:
    """In `where` (`module:Class.function`, `module` alone for all of it) `was` stands once, and becomes `becomes`."""

    where: str
    was: str
    becomes: str

    @property
    def module(self) -> str:
        return self.where.partition(":")[0]

    @property
    def path(self) -> Path:
        return ROOT.joinpath(*self.module.split(".")).with_suffix(".py")

    def source(self) -> str:
        """The module's, without the guard. Raises Rotten."""
        lines = self.path.read_text().splitlines(keepends=True)
        first, end = self._span("".join(lines))
        inside = "".join(lines[first:end])
        if (num := inside.count(self.was)) != 1:
            raise Rotten(f"{self.where}: {self.was!r} stands there {num} times, not once")
        left = inside.replace(self.was, self.becomes)
        try:
            ast.parse(f"if True:\n{left}" if left[:1] == " " else left)  # (a method stands in a class)
        except SyntaxError as error:
            raise Rotten(f"{self.where}: what is left of it is no Python ({error})") from None
        return "".join(lines[:first]) + left + "".join(lines[end:])

    def _span(self, source: str) -> tuple[int, int]:
        """Lines [first, end) of the class or function."""
        node: ast.AST = _parsed(source)
        for name in filter(None, self.where.partition(":")[2].split(".")):
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = [one for one in ast.iter_child_nodes(node) if isinstance(one, kinds) and one.name == name]
            if not found:
                raise Rotten(f"{self.where}: there is no {name}")
            node = found[-1]  # of a property and its setter, the setter
        if isinstance(node, ast.Module):
            return 0, len(source.splitlines())
        assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        return node.lineno - 1, node.end_lineno or node.lineno

    def apply(self) -> None:
        """From now on, for as long as the process lives. Raises Rotten."""
        if self.module in sys.modules:
            raise Rotten(f"{self.module} was imported before its guard could be taken out")
        sys.meta_path.insert(0, _Finder(self.module, self.path, self.source()))


@lru_cache(maxsize=8)
def _parsed(source: str) -> ast.Module:
    """A file has many guards, which stand together in the tables."""
    return ast.parse(source)


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._changed = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._changed, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, module: str, path: Path, source: str) -> None:
        self._module, self._path, self._source = module, path, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        loader = _Loader(fullname, str(self._path), self._source)
        return spec_from_file_location(fullname, self._path, loader=loader)


def run(mutation: Mutation, test: str) -> int:
    """Of pytest: its exit code, and a line `FAILED ...` of the first test that is red."""
    mutation.apply()
    options = ("-x", "-rf", "--tb=no", "--timeout=60", "-p", "no:cacheprovider", "-p", "no:xdist")
    return int(pytest.main([*options, test]))

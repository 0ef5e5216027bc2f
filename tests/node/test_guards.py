"""Every guard of guards.txt can be taken out of the code as it is, and is missed; here by a handful of them.

All of them: `python -m tests.node.guards`.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.node import guards
from tests.node.guards import GUARDS, check, red_test
from tests.node.mutation import ROOT, Mutation, Rotten
from tests.node.mutations import GROUPS, MUTATIONS

HANDFUL = ("block-sender", "cancel-sender", "half-open", "earlier-life", "answer-sender")


def test_every_guard_has_a_line_and_every_line_a_guard() -> None:
    assert list(GUARDS) == list(MUTATIONS)
    assert len(MUTATIONS) == sum(map(len, GROUPS)), "a name stands twice"


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_code_is_still_what_the_mutation_takes_it_for(name: str) -> None:
    assert MUTATIONS[name].source() != MUTATIONS[name].path.read_text()


@pytest.mark.parametrize("name", GUARDS)
def test_somebody_loses_something_and_a_test_is_named(name: str) -> None:
    guard = GUARDS[name]
    assert guard.out and guard.lost
    path, _, test = guard.test.partition("::")
    assert test in _functions(path)


@cache
def _functions(path: str) -> list[str]:
    nodes = ast.parse((ROOT / path).read_text()).body
    return [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.slow
@pytest.mark.parametrize("name", HANDFUL)
def test_it_is_missed(name: str) -> None:
    found = red_test(name)
    assert found is not None and found.startswith(GUARDS[name].test)


def test_a_guard_that_nobody_misses_is_called_green(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bob has written a guard, and no test for it."""
    monkeypatch.setattr(guards, "red_test", lambda name: None if name == "strikes" else "a test")
    assert check(["strikes", "impostor"]) == 1
    assert capsys.readouterr().out.splitlines() == [f"GREEN strikes: {GUARDS['strikes'].test}", "red impostor: a test"]
    assert check(["impostor"]) == 0


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a package that is there for one test."""
    monkeypatch.setattr("tests.node.mutation.ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "bobs_door.py"
    path.write_text("class Door:\n    def opens(self, key):\n        return key == 'bob'\n\n\nkey = 'bob'\n")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return path


def test_what_has_been_taken_out_is_out_for_whoever_imports_it(module: Path) -> None:
    Mutation("bobs_door:Door.opens", "key == 'bob'", "True").apply()
    bobs_door = __import__("bobs_door")
    try:
        assert bobs_door.Door().opens("mallory")
        assert bobs_door.key == "bob"
        with pytest.raises(Rotten, match="imported before"):
            Mutation("bobs_door:Door.opens", "key == 'bob'", "True").apply()
    finally:
        del sys.modules["bobs_door"]


@pytest.mark.parametrize(
    ("where", "was", "becomes", "words"),
    [
        ("bobs_door:Door.opens", "key == 'alice'", "True", "stands there 0 times"),
        ("bobs_door", "'bob'", "True", "stands there 2 times"),
        ("bobs_door:Door.shuts", "key", "True", "there is no shuts"),
        ("bobs_door:Door.opens", "return key", "return )", "no Python"),
    ],
)
def test_a_guard_that_is_not_where_it_was_is_missed_loudly(
    module: Path, where: str, was: str, becomes: str, words: str
) -> None:
    with pytest.raises(Rotten, match=words):
        Mutation(where, was, becomes).source()

"""The house rules that a machine can check: floors, sizes, banned calls (README, the tree)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dsdnode"
FLOORS = {
    **dict.fromkeys(("__init__", "wire", "errors", "config", "identity", "models", "pictures"), 0),
    **dict.fromkeys(("dht", "speculation", "placement"), 1),
    **dict.fromkeys(("net", "engine"), 2),
    "node": 3,
    **dict.fromkeys(("gateway", "sim", "bench"), 4),
    "cli": 5,
}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_SCRIPT_LINES = 150
ONLY_IN = {"zmq": "net", "llama_cpp": "engine"}
"""Third-party modules that a single room may import."""
BANNED_CALLS = {("time", "time"), ("asyncio", "wait")}
RANDOM_CLASSES = {"Random", "SystemRandom"}
IMPURE = {"asyncio", "socket", "threading", "subprocess", "time", "zmq", "llama_cpp"}
"""Pure thinking (floor 1) knows no clock, no socket and no thread."""

FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    """`speculation` of dsdnode/speculation/controller.py, `config` of dsdnode/config.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything that is imported, wherever in the file; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_rooms(tree: ast.Module) -> set[str]:
    return {name.split(".")[1] for name in imports(tree) if name.startswith("dsdnode.")} & FLOORS.keys()


def calls(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """Uses of an attribute of a plain name: (`time`, `monotonic`, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr, node.lineno


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_floor_imports_only_floors_below(path: Path) -> None:
    room = room_of(path)
    floor = FLOORS[room]
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree_of(path))), "relative"
    for other in own_rooms(tree_of(path)) - {room}:
        assert FLOORS[other] < floor or floor == FLOORS[other] == 0, f"{room} (floor {floor}) imports {other}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_third_party_stays_in_its_room(path: Path) -> None:
    for name in imports(tree_of(path)):
        allowed = ONLY_IN.get(name.split(".")[0])
        assert allowed in (None, room_of(path)), f"{name} belongs to {allowed}/"
        assert name.split(".")[0] not in {"pickle", "torch"}
        assert FLOORS[room_of(path)] != 1 or name.split(".")[0] not in IMPURE, f"{name} is not for pure thinking"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_banned_is_called(path: Path) -> None:
    for module, attribute, line in calls(tree_of(path)):
        assert (module, attribute) not in BANNED_CALLS, f"line {line}: {module}.{attribute}"
        assert module != "random" or attribute in RANDOM_CLASSES, f"line {line}: global random numbers"
    for name in imports(tree_of(path)):
        assert tuple(name.rsplit(".", 1)) not in BANNED_CALLS, name
        assert not name.startswith("random.") or name.removeprefix("random.") in RANDOM_CLASSES, name


@pytest.mark.parametrize("path", [*FILES, *sorted(ROOT.glob("tests/**/*.py"))], ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name}: {length} lines"


def test_the_readme_s_house_names_every_file_and_no_other() -> None:
    """What stands in brackets there is comment."""
    house = (ROOT / "README.md").read_text().partition("## The house")[2].partition("configs/")[0]
    house = re.sub(r"\([^)]*\)", "", house).partition("```")[2]
    rooms = re.findall(r"dsdnode/(?:(\w+)/)? ([^/]+)(?= \d  |    )", house)
    folders = {path.parent for path in FILES}
    assert sorted(room for room, _ in rooms) == sorted("" if one == PACKAGE else one.name for one in folders)
    for room, text in rooms:
        names = re.findall(r"[a-z]\w*\*?", text)
        files = [path.stem for path in (PACKAGE / room).glob("[a-z]*.py")]
        assert [one for one in files if not any(fnmatch(one, name) for name in names)] == [], room
        assert [name for name in names if not any(fnmatch(one, name) for one in files)] == [], room


def test_scripts_are_thin() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".txt"]
    assert scripts
    for path in scripts:
        assert len(path.read_text().splitlines()) <= MAX_SCRIPT_LINES, path.name


def test_torch_is_for_training_alone() -> None:
    for path in [*ROOT.glob("scripts/*.py"), *ROOT.glob("tests/**/*.py")]:
        assert "torch" not in {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}, path


def test_the_rules_themselves_catch_what_they_should() -> None:
    tree = ast.parse("import time, random\nfrom dsdnode.node import node\ntime.time()\nrandom.choice([])\n")
    assert {("time", "time", 3), ("random", "choice", 4)} <= set(calls(tree))
    assert own_rooms(tree) == {"node"}
    assert own_rooms(ast.parse("from dsdnode import config")) == {"config"}

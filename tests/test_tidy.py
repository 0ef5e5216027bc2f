"""The house rules that a machine can check: floors, sizes, banned calls (README, the tree)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dsdnode"
FLOORS = {
    "cost": 0,
    "errors": 0,
    "identity": 1,
    "models": 1,
    "pictures": 1,
    "wire": 2,
    "config": 3,
    "dht": 4,
    "speculation": 4,
    "pacing": 5,
    "placement": 6,
    "net": 7,
    "engine": 7,
    "swarm": 8,
    "client": 9,
    "node": 9,
    "sim": 10,
    "bench": 10,
    "cli": 11,
    "__init__": 12,
}
"""A room imports what stands lower, and nothing beside it: so a client knows no node. (docs/architecture.md)"""
PURE = {"dht", "speculation", "pacing", "placement"}
"""They know no clock, no socket and no thread."""
APART = [
    ("speculation.owner", "speculation.stage"),
    ("speculation.stage", "speculation.owner"),
    ("node.drafter", "node.shard"),
    ("node.shard", "node.drafter"),
    ("node.batching", "node.drafter"),
    ("node.batching", "node.shard"),
]
"""Roles, and the two machines of a reply, know each other by the wire alone."""
PORT = {"speculation.controller", "speculation.events", "speculation.plan"}
"""What pacing, which decides the speed, may know of speculation, which decides the text."""
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_SCRIPT_LINES = 150
ONLY_IN = {"zmq": "net", "llama_cpp": "engine"}
"""Third-party modules that a single room may import."""
BANNED_CALLS = {("time", "time"), ("asyncio", "wait")}
RANDOM_CLASSES = {"Random", "SystemRandom"}
IMPURE = {"asyncio", "socket", "threading", "subprocess", "time", "zmq", "llama_cpp"}

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


def own_modules(tree: ast.Module) -> set[str]:
    """`speculation.plan` of `from dsdnode.speculation.plan import Plan`, `speculation` of it too."""
    return {name.removeprefix("dsdnode.") for name in imports(tree) if name.startswith("dsdnode.")}


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
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree_of(path))), "relative"
    for other in own_rooms(tree_of(path)) - {room}:
        assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_wall_between_text_and_speed(path: Path) -> None:
    """What decides which tokens are committed imports nothing that decides how fast, and knows of it by a port."""
    for module in own_modules(tree_of(path)):
        if room_of(path) == "speculation":
            assert module.split(".")[0] not in {"pacing", "placement"}, module
        if room_of(path) in {"pacing", "placement"} and module.startswith("speculation."):
            assert module in PORT or module.rpartition(".")[0] in PORT, f"{module} is behind the wall"


@pytest.mark.parametrize(("one", "other"), APART)
def test_roles_know_each_other_by_the_wire_alone(one: str, other: str) -> None:
    folder = PACKAGE.joinpath(*one.split("."))
    files = list(folder.rglob("*.py"))
    assert len(files) > 1, f"{one} is no room"
    for path in files:
        known = [module for module in own_modules(tree_of(path)) if f"{module}.".startswith(f"{other}.")]
        assert known == [], f"{name_of(path)} imports {known}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_third_party_stays_in_its_room(path: Path) -> None:
    for name in imports(tree_of(path)):
        allowed = ONLY_IN.get(name.split(".")[0])
        assert allowed in (None, room_of(path)), f"{name} belongs to {allowed}/"
        assert name.split(".")[0] not in {"pickle", "torch"}
        assert room_of(path) not in PURE or name.split(".")[0] not in IMPURE, f"{name} is not for pure thinking"


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


def constants(path: Path) -> Iterator[tuple[str, str]]:
    """Names in capitals that are given a literal value at the top of a file, with the value."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        pairs = zip(target.elts, value.elts, strict=True) if both else [(target, value)]  # type: ignore[attr-defined]
        for name, expression in pairs:
            if isinstance(name, ast.Name) and name.id.strip("_").isupper():
                with suppress(ValueError, TypeError, SyntaxError, NameError):
                    yield name.id.strip("_"), repr(eval(ast.unparse(expression), {"__builtins__": {}}))


def test_one_name_with_one_value_stands_in_one_file() -> None:
    """Twins drift: whoever needs it imports it from where its reason is told."""
    places: dict[tuple[str, str], list[str]] = {}
    for path in FILES:
        for constant in constants(path):
            places.setdefault(constant, []).append(name_of(path))
    assert {constant: files for constant, files in places.items() if len(files) > 1} == {}


def test_the_plan_of_the_house_names_every_file_and_no_other() -> None:
    """docs/architecture.md, the floors. What stands in brackets there is comment."""
    plan = (ROOT / "docs" / "architecture.md").read_text().partition("## The floors")[2].split("```")[1]
    rooms: dict[str, list[str]] = {}
    room = ""
    for line in re.sub(r"\([^)]*\)", lambda match: " " * len(match[0]), plan).splitlines():
        if found := re.match(r"(?: ?\d+)?\s{1,5}([a-z_]+(?:/[a-z_]+)*/|\.)\s{2,}", line):
            room, line = found[1].strip("./"), line[found.end() :]
            rooms.setdefault(room, [])
        if room in rooms:
            rooms[room] += re.findall(r"[a-z]\w*\*?", line)
    folders = {path.parent for path in FILES}
    assert sorted(rooms) == sorted("" if one == PACKAGE else str(one.relative_to(PACKAGE)) for one in folders)
    for room, names in rooms.items():
        files = [path.stem for path in (PACKAGE / room).glob("[a-z]*.py")]
        assert [one for one in files if not any(fnmatch(one, name) for name in names)] == [], room
        assert [name for name in names if not any(fnmatch(one, name) for one in files)] == [], room


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_that_are_named_are_there(path: Path) -> None:
    """In docstrings, comments and texts."""
    there = {one.name for folder in ("dsdnode", "tests", "scripts") for one in (ROOT / folder).rglob("*.py")}
    assert [name for name in re.findall(r"\b([a-z_0-9]+\.py)\b", path.read_text()) if name not in there] == []


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

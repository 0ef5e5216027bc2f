"""The house rules that a machine can check: floors, the wall, sizes, banned calls (docs/architecture.md).

A rule tells all that breaks it; BAD has a file of that kind for each, so that no rule is there in name only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import pytest

from tests.unordered import unordered

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dsdnode"
FLOORS = {
    "accounts": 0,
    "addresses": 0,
    "cost": 0,
    "errors": 0,
    "identity": 1,
    "models": 1,
    "files": 1,
    "pictures": 2,
    "wire": 2,
    "config": 3,
    "dht": 4,
    "speculation": 4,
    "pacing": 5,
    "placement": 6,
    "net": 7,
    "engine": 7,
    "swarm": 8,
    "weights": 8,
    "client": 9,
    "node": 9,
    "sim": 10,
    "bench": 10,
    "doctor": 10,
    "gateway": 10,
    "cli": 11,
    "__init__": 12,
    "__main__": 12,
}
"""A room imports what stands lower, and nothing beside it: so a client knows no node. (docs/architecture.md)"""
PURE = {"accounts", "dht", "speculation", "pacing", "placement"}
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
ONLY_IN = {
    "zmq": "net",
    "llama_cpp": "engine",
    "starlette": "gateway",
    "uvicorn": "gateway",
    "prometheus_client": "gateway",
}
"""Third-party modules that a single room may import."""
BANNED_CALLS = {("time", "time"), ("asyncio", "wait")}
RANDOM_CLASSES = {"Random", "SystemRandom"}
IMPURE = {"asyncio", "socket", "threading", "subprocess", "time", "zmq", "llama_cpp"}


@dataclass(frozen=True)
class Source:
    """A file of the package, or one made up to break a rule."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[str]:
        """Dotted names of everything that is imported, wherever in the file; `from a import b` gives a and a.b."""
        return list(_imports(self.nodes))

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def room(self) -> str:
        """`speculation` of dsdnode/speculation/controller.py, `config` of dsdnode/config.py."""
        return self.path.relative_to(PACKAGE).with_suffix("").parts[0]

    def lies_in(self, room: str) -> bool:
        """`speculation.owner`: any file below dsdnode/speculation/owner."""
        return PACKAGE.joinpath(*room.split(".")) in self.path.parents


def sources(*patterns: str) -> list[Source]:
    return [Source(path, path.read_text()) for pattern in patterns for path in sorted(ROOT.glob(pattern))]


HOUSE = sources("dsdnode/**/*.py")
TESTS = sources("tests/**/*.py")
Rule = Callable[[Source], Iterator[str]]


def _imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(source: Source) -> list[str]:
    """`speculation.plan` of `from dsdnode.speculation.plan import Plan`, `speculation.plan.Plan` too."""
    return sorted({name.removeprefix("dsdnode.") for name in source.imports if name.startswith("dsdnode.")})


def calls(source: Source) -> Iterator[tuple[str, str, int]]:
    """Uses of an attribute of a plain name: (`time`, `monotonic`, line)."""
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr, node.lineno


# --- rules of one file


def floors(source: Source) -> Iterator[str]:
    """A floor imports only floors below."""
    if any(isinstance(node, ast.ImportFrom) and node.level for node in source.nodes):
        yield "a relative import: say from where"
    own = FLOORS[source.room]
    for other in sorted({module.split(".")[0] for module in own_modules(source)} & FLOORS.keys() - {source.room}):
        if FLOORS[other] >= own:
            yield f"{source.room} (floor {own}) imports {other} (floor {FLOORS[other]})"


def wall(source: Source) -> Iterator[str]:
    """What decides which tokens are committed imports nothing that decides how fast, and is known to it by a port."""
    for module in own_modules(source):
        if source.room == "speculation" and module.split(".")[0] in {"pacing", "placement"}:
            yield f"{module} decides how fast: take it by a port"
        behind = module.startswith("speculation.") and not {module, module.rpartition(".")[0]} & PORT
        if source.room in {"pacing", "placement"} and behind:
            yield f"{module} is behind the wall"


def roles(source: Source) -> Iterator[str]:
    """Roles know each other by the wire alone."""
    for one, other in APART:
        if source.lies_in(one):
            known = [module for module in own_modules(source) if f"{module}.".startswith(f"{other}.")]
            yield from (f"{one} imports {module}" for module in known)


def guests(source: Source) -> Iterator[str]:
    """Third-party modules stay in their room, and pure thinking does without the world."""
    for name in source.imports:
        top = name.split(".")[0]
        if ONLY_IN.get(top, source.room) != source.room:
            yield f"{name} belongs to {ONLY_IN[top]}/"
        if top in {"pickle", "torch"}:
            yield f"{name} has no place in the package"
        if source.room in PURE and top in IMPURE:
            yield f"{name} is not for pure thinking"


def banned(source: Source) -> Iterator[str]:
    """No wall clock, no wait that forgets exceptions, no global random numbers."""
    for module, attribute, line in calls(source):
        if (module, attribute) in BANNED_CALLS:
            yield f"line {line}: {module}.{attribute}"
        if module == "random" and attribute not in RANDOM_CLASSES:
            yield f"line {line}: global random numbers"
    for name in source.imports:
        if tuple(name.rsplit(".", 1)) in BANNED_CALLS:
            yield name
        if name.startswith("random.") and name.removeprefix("random.") not in RANDOM_CLASSES:
            yield f"{name}: global random numbers"


def sets(source: Source) -> Iterator[str]:
    """The order of a set is another one in each process (tests/unordered.py)."""
    for line in unordered(source.tree):
        yield f"line {line}: goes through a set"


def sizes(source: Source) -> Iterator[str]:
    if len(source.text.splitlines()) > MAX_FILE_LINES:
        yield f"more than {MAX_FILE_LINES} lines"
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{node.name}: {length} lines"


NAMES = {path.name for folder in ("dsdnode", "tests", "scripts") for path in (ROOT / folder).rglob("*.py")}


def named_files(source: Source) -> Iterator[str]:
    """Files that are named in docstrings, comments and texts are there."""
    for name in re.findall(r"\b([a-z_0-9]+\.py)\b", source.text):
        if name not in NAMES:
            yield f"there is no {name}"


def broken(rule: Rule, files: list[Source]) -> list[str]:
    return [f"{source.name}: {what}" for source in files for what in rule(source)]


@pytest.mark.parametrize(
    "rule", [floors, wall, roles, guests, banned, sets, sizes, named_files], ids=lambda rule: rule.__name__
)
def test_the_house_keeps_its_rules(rule: Rule) -> None:
    assert broken(rule, HOUSE) == []


def test_tests_stay_small_too() -> None:
    assert broken(sizes, TESTS) == []


def test_scripts_are_thin() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".txt"]
    assert scripts
    assert [path.name for path in scripts if len(path.read_text().splitlines()) > MAX_SCRIPT_LINES] == []


def test_torch_is_for_training_alone() -> None:
    files = [*sources("scripts/*.py"), *TESTS]
    assert [one.name for one in files if "torch" in {name.split(".")[0] for name in one.imports}] == []


def test_every_room_that_is_kept_apart_is_one() -> None:
    assert [
        room for pair in APART for room in pair if len(list(PACKAGE.joinpath(*room.split(".")).glob("*.py"))) < 2
    ] == []


BAD: list[tuple[Rule, str, str]] = [
    (floors, "wire/noise.py", "from dsdnode.node.node import Node"),
    (floors, "client/short.py", "from dsdnode.node import options"),
    (floors, "dht/beside.py", "def f() -> None:\n    from dsdnode.speculation import plan"),
    (floors, "errors.py", "from dsdnode.cost import CostLine"),
    (floors, "net/near.py", "from .rpc import Rpc"),
    (wall, "speculation/owner/quick.py", "from dsdnode.pacing.tuning import TUNING"),
    (wall, "speculation/stage/near.py", "import dsdnode.placement.layers"),
    (wall, "pacing/peek.py", "from dsdnode.speculation.owner.session import SessionMachine"),
    (wall, "placement/peek.py", "from dsdnode.speculation import sampling"),
    (roles, "speculation/owner/peek.py", "from dsdnode.speculation.stage.cache import BranchCache"),
    (roles, "speculation/stage/peek.py", "from dsdnode.speculation.owner import epochs"),
    (roles, "node/drafter/peek.py", "from dsdnode.node.shard.host import StageHost"),
    (roles, "node/shard/peek.py", "import dsdnode.node.drafter.reply"),
    (roles, "node/batching/peek.py", "from dsdnode.node.shard import host"),
    (guests, "swarm/raw.py", "import zmq.asyncio"),
    (guests, "node/raw.py", "from llama_cpp import Llama"),
    (guests, "cli/raw.py", "from starlette.requests import Request"),
    (guests, "wire/raw.py", "import pickle"),
    (guests, "pacing/raw.py", "import time"),
    (banned, "net/late.py", "import time\ntime.time()"),
    (banned, "net/late.py", "from time import time"),
    (banned, "sim/dice.py", "import random\nrandom.choice([1])"),
    (banned, "sim/dice.py", "from random import choice"),
    (sets, "dht/odd.py", "def f(a: list[int]) -> list[int]:\n    return [one for one in set(a)]"),
    (
        sets,
        "dht/odd.py",
        "def f(a: set[int]) -> None:\n    for one in a.difference([1]):\n        print(one)",
    ),
    (sets, "dht/odd.py", "def f(a: list[int]) -> str:\n    b = {*a}\n    return ' '.join(map(str, b))"),
    (
        sets,
        "net/odd.py",
        "class A:\n    def f(self, a: list[int]) -> list[int]:\n        self.b = {*a}\n        return [*self.b]",
    ),
    (sizes, "cli/long.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (sizes, "cli/long.py", "async def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
    (named_files, "cli/old.py", '"""See nowhere.py."""'),
]


@pytest.mark.parametrize(("rule", "name", "text"), BAD, ids=lambda part: getattr(part, "__name__", str(part))[:40])
def test_a_rule_that_is_broken_says_so(rule: Rule, name: str, text: str) -> None:
    assert len(broken(rule, [Source(PACKAGE / name, text)])) >= 1


# --- rules of the whole


def constants(source: Source) -> Iterator[tuple[str, str]]:
    """Names in capitals that are given a literal value at the top of a file, with the value."""
    for node in source.tree.body:
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


def twins(files: list[Source]) -> dict[tuple[str, str], list[str]]:
    places: dict[tuple[str, str], list[str]] = {}
    for source in files:
        for constant in constants(source):
            places.setdefault(constant, []).append(source.name)
    return {constant: names for constant, names in places.items() if len(names) > 1}


def test_one_name_with_one_value_stands_in_one_file() -> None:
    """Twins drift: whoever needs it imports it from where its reason is told."""
    assert twins(HOUSE) == {}
    again = Source(PACKAGE / "net" / "again.py", "_MAX_RUN: int = 1 << 4")
    assert twins([again, Source(PACKAGE / "dht" / "once.py", "A, MAX_RUN = 1, 16")]) != {}


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
    folders = {source.path.parent for source in HOUSE}
    assert sorted(rooms) == sorted("" if one == PACKAGE else str(one.relative_to(PACKAGE)) for one in folders)
    for room, names in rooms.items():
        files = [path.stem for path in (PACKAGE / room).glob("[a-z]*.py")]
        assert [one for one in files if not any(fnmatch(one, name) for name in names)] == [], room
        assert [name for name in names if not any(fnmatch(one, name) for one in files)] == [], room

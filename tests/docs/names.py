"""Files, functions and classes that pages name in `code`, and whether they are there.

`room/file.py`, `file.py`                 below the root, dsdnode/, tests/ or scripts/; without a room: in any
`room/file.py: name`, `file.py: A.b`      and what is defined in it; the blank may be left out
`Class.member`                            of any class of dsdnode/ or tests/
`room/`, `room/*.py`, `configs/x.toml`    folders, patterns and other files with a folder
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.docs.pages import ROOT, Place

ROOTS = (ROOT, ROOT / "dsdnode", ROOT / "tests", ROOT / "scripts")
SUFFIXES = "py|md|toml|txt|json|jsonl|svg|gguf|service|sh|cfg|ini|log|key|safetensors|html|js"
_IN_A_FILE = re.compile(r"([\w./-]+\.py)(?:: ?([A-Za-z_][\w.]*)(?:\(\))?)?")
_MEMBER = re.compile(rf"([A-Z]\w*)\.(?!(?:{SUFFIXES})$)([A-Za-z_]\w*)(?:\(\))?")
_OTHER = re.compile(rf"(?![.~/]|dsdnode/\d)[\w.*-]+(?:/[\w.*-]+)*(?:/|/[\w.*-]+\.(?:{SUFFIXES}))")

"""But for the DHT's keys, dsdnode/1/models/..."""


def missing(place: Place) -> str | None:
    """What is not there of what is named; None: all is, or nothing is named."""
    in_a_file, member = _IN_A_FILE.fullmatch(place.text), _MEMBER.fullmatch(place.text)
    if in_a_file is not None:
        files, name = list(_files(in_a_file[1], place.page)), in_a_file[2]
        if not files:
            return f"there is no file {in_a_file[1]}"
        if name and not any(name in defined_in(file) for file in files):
            return f"{in_a_file[1]} defines no {name}"
    elif member is not None:
        if place.text.removesuffix("()") not in members():
            return f"no class {member[1]} has a member {member[2]}"
    elif _OTHER.fullmatch(place.text) and not any(
        next(root.glob(place.text.rstrip("/")), None) for root in (*ROOTS, place.page.parent)
    ):
        return f"there is no {place.text}"
    return None


def _files(name: str, page: Path) -> Iterator[Path]:
    if "/" not in name:
        yield from (path for path in _all_files() if path.name == name)
    yield from (path for root in (*ROOTS, page.parent) if (path := root / name).is_file())


@cache
def _all_files() -> tuple[Path, ...]:
    return tuple(path for folder in ("dsdnode", "tests", "scripts") for path in sorted((ROOT / folder).rglob("*.py")))


@cache
def defined_in(file: Path) -> frozenset[str]:
    """Names at the top of a file; and of classes there `Class.member`."""
    return frozenset(_defined(ast.parse(file.read_text()).body))


@cache
def members() -> frozenset[str]:
    return frozenset(name for file in _all_files() for name in defined_in(file) if "." in name)


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}.{name}" for name in (*_defined(node.body), *_set_on_self(node)))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
        elif isinstance(node, ast.If | ast.Try):
            yield from _defined(node.body)


def _set_on_self(node: ast.ClassDef) -> Iterator[str]:
    stored = (one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store))
    yield from (one.attr for one in stored if isinstance(one.value, ast.Name) and one.value.id == "self")

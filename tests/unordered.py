"""Where the order of a set would matter: it is another one in each process, and a simulation would be another one, too.

What is known to be a set: displays, comprehensions, `set()` and `frozenset()`, what is made of these by operators and
their methods, and names and attributes of `self` that such a thing is assigned to, or that are annotated so. What does
not depend on the order may take them: other sets, `sorted`, `any`, `all`, `sum`, `min`, `max`, `len`.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence

FREE = {"all", "any", "frozenset", "len", "max", "min", "set", "sorted", "sum",
        "difference", "difference_update", "intersection", "isdisjoint", "issubset", "issuperset", "union"}  # fmt: skip
ORDERED = {"enumerate", "extend", "filter", "fromkeys", "gather", "iter", "join", "list", "map", "next", "tuple", "zip"}
OF_SETS = {"copy", "difference", "intersection", "symmetric_difference", "union"}
MAKE = {"set", "frozenset"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def unordered(tree: ast.AST) -> Iterator[int]:
    """Lines that go through a set."""
    own = {name for name in _sets_in(list(ast.walk(tree)), ()) if name.startswith("self.")}
    for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
        nodes = list(ast.walk(function))
        names = _sets_in(nodes, own)
        if not (names or any(isinstance(node, ast.Set | ast.SetComp) or _called(node) in MAKE for node in nodes)):
            continue
        free = {one for node in nodes if _called(node) in FREE for one in _arguments(node)}
        for node in nodes:
            if node not in free and any(_is_set(one, names) for one in _gone_through(node)):
                yield node.lineno  # type: ignore[attr-defined]


def _gone_through(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.For() | ast.AsyncFor():
            return [node.iter]
        case ast.ListComp() | ast.DictComp() | ast.GeneratorExp():
            return [one.iter for one in node.generators]
        case ast.Starred():
            return [node.value]
        case ast.Call() if _called(node) in ORDERED:
            return _arguments(node)
    return []


def _called(node: ast.AST) -> str:
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
    return ""


def _arguments(node: ast.AST) -> list[ast.expr]:
    return node.args if isinstance(node, ast.Call) else []


def _sets_in(nodes: Sequence[ast.AST], known: Collection[str]) -> set[str]:
    """Names, and `self.` and a name."""
    names = set(known)
    for node in nodes:
        match node:
            case ast.arg(arg=name, annotation=annotation) if _says_set(annotation):
                names.add(name)
            case ast.AnnAssign(target=target, annotation=annotation) if _says_set(annotation):
                names.add(ast.unparse(target))
            case ast.Assign(targets=targets, value=value) if _is_set(value, names):
                names.update(map(ast.unparse, targets))
    return names


def _says_set(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation).startswith(("set[", "frozenset["))


def _is_set(node: ast.expr, names: Collection[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp() | ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.BinOp(left=left, op=ast.Sub() | ast.BitAnd() | ast.BitOr() | ast.BitXor(), right=right):
            return _is_set(left, names) or _is_set(right, names)
        case ast.IfExp(body=left, orelse=right):
            return _is_set(left, names) or _is_set(right, names)
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in OF_SETS:
            return _is_set(value, names)
        case ast.Name() | ast.Attribute():
            return ast.unparse(node) in names
    return False

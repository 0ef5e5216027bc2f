"""The project's pages, and what is in them: commands, code, headings, links; each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SHELL = ("", "sh", "bash", "console", "shell", "text")
"""Fenced blocks in which lines may be commands."""
_FENCE = re.compile(r"^\s*(```+|~~~+)\s*(\w*)")
_INLINE = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Place:
    """Something written on a page."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        name = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{name}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Block:
    """Between fences; `line` is of its first line."""

    language: str
    line: int
    lines: tuple[str, ...]


def pages() -> list[Path]:
    named = [ROOT / name for name in NAMED]
    return [path for path in named if path.exists()] + sorted((ROOT / "docs").glob("*.md"))


@cache
def parted(page: Path) -> tuple[str, tuple[Block, ...]]:
    """The text with its fenced blocks blank (lines keep their numbers), and the blocks."""
    prose: list[str] = []
    blocks: list[Block] = []
    fence, language, begun, inside = "", "", 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        match = _FENCE.match(line)
        if not fence:
            if match is not None:
                fence, language, begun, inside = match[1], match[2], number + 1, []
            prose.append("" if match is not None else line)
        else:
            if match is not None and match[1].startswith(fence):
                blocks.append(Block(language, begun, tuple(inside)))
                fence = ""
            inside.append(line)
            prose.append("")
    assert not fence, f"{page}: a fence that does not end"
    return "\n".join(prose), tuple(blocks)


def inline_code(page: Path) -> Iterator[Place]:
    """On one line, without the bars that a table wants masked."""
    prose, _ = parted(page)
    for match in _INLINE.finditer(prose):
        line = prose.count("\n", 0, match.start()) + 1
        yield Place(page, line, " ".join(match[2].replace("\\|", "|").split()))


def typed_lines(page: Path) -> Iterator[Place]:
    """What may be a command in fenced blocks. Where a block shows a prompt, its other lines are what was answered."""
    for block in parted(page)[1]:
        if block.language in SHELL:
            prompted = any(line.startswith("$ ") for line in block.lines)
            whole, begun = "", 0
            for number, line in enumerate(block.lines, block.line):
                if not whole and prompted and not line.startswith("$ "):
                    continue
                whole, begun = whole + line.removeprefix("$ ").strip(), begun or number
                if whole.endswith("\\"):
                    whole = whole[:-1].rstrip() + " "
                    continue
                yield Place(page, begun, whole)
                whole, begun = "", 0


def links(page: Path) -> Iterator[Place]:
    prose, _ = parted(page)
    bare = _INLINE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), prose)
    for match in _LINK.finditer(bare):
        yield Place(page, bare.count("\n", 0, match.start()) + 1, match[1])


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    found: list[str] = []
    for heading in _HEADING.findall(parted(page)[0]):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        num = sum(one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found)
        found.append(f"{slug}-{num}" if num else slug)
    return frozenset(found)

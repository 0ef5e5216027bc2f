"""Commands on pages, and whether the real command line takes them. Nothing is run.

Pages do not write commands as a shell wants them. The rules, all of them:

    a|b           one or the other: both are tried
    [--option X]  may be left out: it is tried
    ...           some more words, or a value: without it and with it, one of the two must be taken
    N, MS, PORT   (NUMBERS) a number
    KEY, FILE     any other word in capitals stands for itself, also where only certain words may stand
    X=1 command   what is set in front does not count
    a && b, a | b both are commands; what follows > or < is not, nor what follows #
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import click

from dsdnode.cli.main import cli
from dsdnode.cli.options import Invocation
from tests.docs.pages import ROOT, Place

STARTS = ("dsdnode ", "python -m tests.", "python scripts/", "./scripts/", "scripts/", "pytest ")
LABELS = re.compile(
    r"dsdnode (hello|welcome|provider record|swarm (key|name)|beacon( tag)?|model|manifest|relay (reserve|accept)) "
    r"\d+(\\n)?"
)
"""Bytes that are signed or hashed (docs/protocol.md)."""
NUMBERS = {"N", "T", "MS", "MINUTES", "SECONDS", "TOKENS", "PORT", "SEED"}
PARTED = {"|", "||", "&&", ";", "&"}
REDIRECTED = {">", ">>", "<", "2>", "2>&1"}
SOMETHING = "..."


@dataclass(frozen=True, slots=True)
class Command:
    """`variants`: the ways to read it, of each all alternatives must be taken. `lenient`: it may lack arguments."""

    place: Place
    variants: tuple[tuple[tuple[str, ...], ...], ...]
    lenient: bool


def commands(place: Place, *, inline: bool) -> Iterator[Command]:
    """`inline`: in a sentence, where a command is also named without what it needs."""
    if LABELS.fullmatch(place.text):
        return
    for words in _parted(place.text):
        text = " ".join(words)
        if text.startswith(STARTS):
            alternatives = [list(map(_number, one)) for one in product(*map(_alternatives, words))]
            ways = [tuple(word for word in one if word != SOMETHING) for one in alternatives]
            variants = {tuple(ways), tuple(map(tuple, alternatives))}
            told = words[3:] if words[0] == "python" else words
            is_name = inline and not any(word.startswith("-") for word in told)
            yield Command(place, tuple(sorted(variants)), is_name or SOMETHING in words)


def _parted(text: str) -> Iterator[list[str]]:
    """The commands of a line, in words."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return  # a lone quotation mark: prose
    command: list[str] = []
    skip = False
    for word in [*words, ";"]:
        if word in PARTED or word.endswith(";"):
            yield [*command, *filter(None, [word.rstrip(";|&")])]
            command, skip = [], False
        elif word in REDIRECTED:
            skip = True
        elif not skip and (command or not re.match(r"\w+=", word)):
            command.append(word)


def _alternatives(word: str) -> list[str]:
    if re.match(r"\[[-A-Z\w]", word):
        word = word[1:]
    if "[" not in word:
        word = word.rstrip("]")
    return word.split("|") if re.fullmatch(r"[\w./:@-]+(\|[\w./:@-]+)+", word) else [word]


def _number(word: str) -> str:
    return "1" if word in NUMBERS else word


# --- is it taken? -------------------------------------------------------------------------------------------------


def refusals(found: Sequence[Command]) -> list[tuple[Place, str]]:
    """Of each command that is not taken: where it stands and what is wrong with it."""
    asked = {(words, command.lenient) for command in found for ways in command.variants for words in ways}
    modules = sorted(one for one in asked if one[0][:2] == ("python", "-m"))
    known: dict[tuple[tuple[str, ...], bool], str | None] = {
        one: refusal(*one) for one in asked if one[0][:2] != ("python", "-m")
    }
    known.update(zip(modules, module_refusals([(words[2:], lenient) for words, lenient in modules]), strict=True))
    refused = []
    for command in found:
        reasons = [
            next((reason for words in ways if (reason := known[words, command.lenient])), None)
            for ways in command.variants
        ]
        if reasons[0] and all(reasons):
            refused.append((command.place, reasons[0]))
    return refused


def refusal(words: Sequence[str], lenient: bool) -> str | None:
    """Of all but modules of the tests; of pytest only that its files are there."""
    if words[0] == "dsdnode":
        return dsdnode_refusal(words[1:], lenient)
    if words[0] == "pytest":
        lost = [word for word in words if "/" in word and not (ROOT / word.partition("::")[0]).exists()]
        return f"there is no {lost[0]}" if lost else None
    script = words[1] if words[0] == "python" else words[0]
    path = ROOT / script.removeprefix("./")
    if not path.exists():
        return f"there is no {script}"
    if path.is_file() and not path.suffix and not os.access(path, os.X_OK):
        return f"{script} is not executable"
    return dsdnode_refusal(["demo", *words[1:]], lenient) if path == ROOT / "scripts" / "demo" else None


def dsdnode_refusal(words: Sequence[str], lenient: bool) -> str | None:
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group):
        if not rest or rest[0] in ("-h", "--help"):
            return None
        name = rest.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            return f"no such command: {name}"
        command = found
    try:
        command.make_context(command.name, rest, obj=Invocation())
    except click.exceptions.Exit:
        return None
    except click.MissingParameter as error:
        return None if lenient else error.format_message()
    except click.UsageError as error:
        return error.format_message()
    return None


def module_refusals(asked: Sequence[tuple[Sequence[str], bool]]) -> list[str | None]:
    """Each asked for by a module's name, words and leniency; in another process, for some set up logs before they
    look at their words."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.modules"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: list[str | None] = json.loads(done.stdout.splitlines()[-1])
    return told

"""Would modules that are run with `python -m` take these words? Asked on stdin, told on stdout, both as JSON.

Each module's main is called; the moment it has looked at its words it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

PLACEHOLDER = re.compile(r"invalid choice: '[A-Z]+'")


class Taken(BaseException):
    """Nobody shall catch it."""


class Refused(Exception):
    pass


def refusal(name: str, words: Sequence[str], lenient: bool) -> str | None:
    module = _runnable(name)
    if module is None:
        return f"there is no module {name}"
    parse = argparse.ArgumentParser.parse_args

    def parse_then_stop(parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parse(parser, list(words))
        raise Taken

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise Refused(message)

    with (
        patch.object(argparse.ArgumentParser, "parse_args", parse_then_stop),
        patch.object(argparse.ArgumentParser, "error", refuse),
    ):
        try:
            done = module.main(*([list(words)] if inspect.signature(module.main).parameters else []))
            if asyncio.iscoroutine(done):
                asyncio.run(done)
        except (Taken, SystemExit):
            return None
        except Refused as error:
            is_short = str(error).startswith("the following arguments are required")
            return None if PLACEHOLDER.search(str(error)) or (is_short and lenient) else str(error)
    raise AssertionError(f"{name} never looks at its words")


def _runnable(name: str) -> Any:
    """The module, or a package's __main__, if it has a main that looks at its words."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None or "parse_args(" not in Path(spec.origin).read_text():
        return None
    return importlib.import_module(name)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps([refusal(words[0], words[1:], lenient) for words, lenient in asked]))

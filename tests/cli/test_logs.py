from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from dsdnode.cli import logs
from dsdnode.errors import DsdError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def back_to_normal() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def said(level: str, style: str, stream: io.StringIO) -> str:
    logs.set_up(level, style, stream)
    structlog.get_logger("alice").info("block sent", num_positions=9)
    logging.getLogger("library").warning("careful with %s", "that")
    structlog.get_logger("alice").debug("too much")
    return stream.getvalue()


def test_json_is_one_object_a_line_whoever_speaks() -> None:
    ours, theirs = [json.loads(line) for line in said("info", "json", io.StringIO()).splitlines()]
    assert (ours["event"], ours["num_positions"], ours["level"]) == ("block sent", 9, "info")
    assert (theirs["event"], theirs["level"]) == ("careful with that", "warning")


def test_auto_is_pretty_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert said("info", "auto", io.StringIO()).startswith("{")
    assert "\x1b[" in said("info", "auto", Terminal())
    assert "\x1b[" not in said("info", "pretty", io.StringIO())


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = said("info", "auto", Terminal())
    assert "block sent" in text
    assert "\x1b[" not in text


def test_levels() -> None:
    assert "block sent" not in said("warning", "json", io.StringIO())
    assert "too much" in said("debug", "json", io.StringIO())


@pytest.mark.parametrize("style", ["pretty", "json"])
def test_a_stranger_s_words_cannot_steer_the_terminal_that_shows_the_log(style: str) -> None:
    stream, words = Terminal(), "\x1b]0;title\x07\x9b31m\u202e"
    logs.set_up("info", style, stream)
    structlog.get_logger("alice").info(
        f"ban {words}", reason=words, peers=[words, {words: words}], error=ValueError(words)
    )
    logging.getLogger("library").warning("careful with %s", words)
    try:
        raise DsdError(words)
    except DsdError:
        structlog.get_logger("alice").exception("a bug")
    said = stream.getvalue()
    assert "title" in said and "careful with" in said and "a bug" in said
    assert not set(words) & set(re.sub(r"\x1b\[[0-9;]*m", "", said)) - set("]0;title31m"), said


@pytest.mark.parametrize("style", ["pretty", "json"])
def test_a_log_holds_no_prompt_and_no_key_that_a_variable_held(style: str) -> None:
    stream, prompt = Terminal(), "-".join(("open", "sesame"))
    logs.set_up("info", style, stream)
    try:
        raise DsdError(f"{len(prompt)} characters")
    except DsdError:
        structlog.get_logger("alice").exception("bug in a reply")
    said = stream.getvalue()
    assert "11 characters" in said and "Traceback" in said
    assert "open-sesame" not in re.sub(r"\x1b\[[0-9;]*m", "", said)

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator

import httpx
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


@pytest.mark.parametrize("level", ["debug", "info"])
def test_an_address_that_is_as_good_as_a_key_is_not_logged(level: str) -> None:
    """A hub leads to addresses with a signature in them, and the library that follows logs each."""
    stream = io.StringIO()
    logs.set_up(level, "json", stream)
    with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200))) as client:
        client.get("https://store.example/model.gguf?X-Signature=opensesame")
    assert "opensesame" not in stream.getvalue()


def test_of_one_event_so_many_lines_a_minute_whatever_strangers_make_of_it() -> None:
    clock = [0.0]
    sieve = logs.Sieve(lambda: clock[0])

    def lines(event: str, num: int) -> list[dict[str, object]]:
        through: list[dict[str, object]] = []
        for number in range(num):
            with contextlib.suppress(structlog.DropEvent):
                through.append(dict(sieve(None, "info", {"event": event, "reason": f"mallory's {number}"})))
        return through

    assert len(lines("greeting refused", 1000)) == logs.MAX_LINES
    assert len(lines("reply failed", 1)) == 1, "others are heard all the same"
    clock[0] = 59.0
    assert lines("greeting refused", 10) == []
    clock[0] = 60.0
    first, *others = lines("greeting refused", 1000)
    assert first["left_out"] == 1010 - logs.MAX_LINES and len(others) == logs.MAX_LINES - 1
    clock[0] = 200.0
    assert lines("reply failed", 1) == [{"event": "reply failed", "reason": "mallory's 0"}]


def test_a_flood_of_refusals_leaves_few_lines() -> None:
    stream = io.StringIO()
    logs.set_up("debug", "json", stream)
    for number in range(500):
        structlog.get_logger("alice").info("peer misbehaved", peer=f"{number}")
    assert len(stream.getvalue().splitlines()) == logs.MAX_LINES

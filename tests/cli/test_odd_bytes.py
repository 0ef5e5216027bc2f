"""Arguments, variables and lines that are not UTF-8, as a terminal of another encoding sends them: no bug of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from dsdnode.cli.main import cli
from dsdnode.cli.settings import SETTINGS, Setting
from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.client.request import PendingReply
from dsdnode.errors import BadInput
from dsdnode.files import shown
from dsdnode.swarm.catalogue import Model
from tests.cli.conftest import JOIN, Result, Swarm
from tests.cli.known import STATS

Call = Callable[..., Result]
ODD = tuple(os.fsdecode(one) for one in (b"caf\xe9", b"\xff\xfehi", b"8\xe2\x82", b"dsd://h\xf6st:1/x"))
EMPTY = ("--layers", "4:4")
FAILS = {"start": EMPTY, "doctor": EMPTY, "demo": ("--seed", "x"), "bench": ("--shards", "0"), "plan": ("--users", "0")}
"""Else they would begin something."""
MODELS = ("model", "model_draft")
"""What looks like an address is none of their paths."""
PATHS = (*MODELS, "data_dir", "identity")
"""They may have any bytes."""


def parameters(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """A command line for each parameter of each command that takes a value; the value is to be added."""
    for name in group.list_commands(context := click.Context(group)):
        command = group.get_command(context, name)
        here = (*path, name)
        if isinstance(command, click.Group):
            yield from parameters(command, here)
            continue
        for one in command.params:
            if isinstance(one, click.Argument):
                yield here
            elif isinstance(one, click.Option) and not one.is_flag and one.nargs == 1:
                yield (*here, *FAILS.get(name, ()), one.opts[-1])


TALKS = [words for words in sorted(parameters(cli)) if words[0] in ("run", "chat")]
OTHERS = [words for words in sorted(parameters(cli)) if words[0] not in ("run", "chat")]


@pytest.mark.parametrize("words", TALKS, ids=" ".join)
def test_every_option_and_argument_of_those_who_ask(call: Call, swarm: Swarm, words: tuple[str, ...]) -> None:
    for odd in ODD:
        swarm.replies = [[Piece((1,), "hello", 0), Finished("stop", STATS)]]
        check(call(*words, odd, "--join", JOIN, *(("hello",) if words[0] == "run" and len(words) > 1 else ())))
        assert not any(odd in str(request) for request in swarm.requests)


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_every_option_and_argument_of_all_others(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(home)
    for odd in ODD:
        check(call(*words, odd))


HOMELESS = ("~nosuchuser9/x", "@~nosuchuser9/x")


@pytest.mark.parametrize("words", [*TALKS, *(one for one in OTHERS if one[0] != "serve")], ids=" ".join)
def test_a_home_of_nobody(
    call: Call, swarm: Swarm, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Where it is a path or not (`serve` would begin with some): it is said, if anything is wrong with it."""
    monkeypatch.chdir(home)
    for said in HOMELESS:
        swarm.replies = [[Piece((1,), "hello", 0), Finished("stop", STATS)]]
        talks = ("--join", JOIN, *(("hello",) if words[0] == "run" and len(words) > 1 else ()))
        check(call(*words, said, *(talks if words in TALKS else ())))


@pytest.mark.parametrize(
    "words",
    [
        ("run", "hi", "--json-schema", "@~nosuchuser9/x"),
        ("run", "hi", "--allow", "@~nosuchuser9/x"),
        ("run", "hi", "--swarm-key", "@~nosuchuser9/x"),
        ("run", "hi", "--data-dir", "~nosuchuser9/x"),
        ("service", "install", "--api-key", "@~nosuchuser9/x"),
        ("models", "add", "~nosuchuser9/x"),
    ],
    ids=" ".join,
)
def test_whose_home_is_not_here_is_named(call: Call, swarm: Swarm, words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.code == 2 and "there is no home folder ~nosuchuser9 here" in result.err


def check(result: Result) -> None:
    assert result.code in (0, 2, 3, 5), result.err
    assert "is a bug" not in result.err and "Traceback" not in result.err and "too long" not in result.err


@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.key != "join"], ids=lambda one: one.key)
def test_every_variable(call: Call, monkeypatch: pytest.MonkeyPatch, setting: Setting) -> None:
    for odd in ODD:
        monkeypatch.setenv(f"DSDNODE_{setting.key.upper()}", odd)
        result = call("config", "show", "--json")
        if setting.key in PATHS and not (setting.key in MODELS and "://" in odd):
            assert json.loads(result.out)[setting.key]["value"] == shown(Path(odd))
        else:
            assert (result.code, f"DSDNODE_{setting.key.upper()}: " in result.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "caf\udce9"), "the prompt is not UTF-8 text: the byte 0xe9 after 'caf'"),
        (("run", "hi", "--stop", "\udc80"), "stop is not UTF-8 text: the byte 0x80"),
        (("run", "hi", "-m", "\udcff"), "model is not UTF-8 text: the byte 0xff"),
        (("chat", "--system", "\udce9"), "--system is not UTF-8 text: the byte 0xe9"),
        (("demo", "--prompt", "\udce9"), "the prompt is not UTF-8 text: the byte 0xe9"),
        (("start", "--name", "\udce9"), "--name: this is not UTF-8 text: the byte 0xe9"),
        (("start", "--swarm-key", "\udce9"), "--swarm-key: this is not UTF-8 text: the byte 0xe9"),
        (("start", "--advertise", "h\udcf6st:1"), "--advertise: this is not UTF-8 text: the byte 0xf6 after 'h'"),
        (("sim", "plan", "--trace", "\udce9"), "cannot read"),
    ],
)
def test_it_is_told_what_is_odd(call: Call, words: tuple[str, ...], says: str) -> None:
    result = call(*words)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert "is a bug" not in result.err


async def test_a_library_s_user_is_told_too() -> None:
    """What cannot travel is not "too long"."""
    model = Model("ab" * 32, "demo", 8, 64, 512, "cd" * 32, 4096, (), 1, "")
    for asked in (
        {"prompt": "\ud800"},
        {"messages": [{"role": "user", "content": "\udfff"}]},
        {"prompt": "x", "stop": ["\udce9"]},
    ):
        with pytest.raises(BadInput, match="not Unicode text"):
            PendingReply(GenerateRequest(**asked), model).begin()


@pytest.mark.parametrize("asked", [{"prompt_tokens": [2**99]}, {"prompt_tokens": [-1]}, {"prompt": "x", "seed": 2**99}])
async def test_numbers_of_any_size_are_refused_in_words(asked: dict[str, Any]) -> None:
    model = Model("ab" * 32, "demo", 8, 64, 512, "cd" * 32, 4096, (), 1, "")
    with pytest.raises(BadInput, match=r"cannot be asked|token ids below 512"):
        PendingReply(GenerateRequest(**asked), model).begin()


@pytest.mark.parametrize(
    ("said", "num_answers", "says"),
    [
        (b"hello\nna\xefve\n", 1, "line 2 of standard input is not UTF-8 text: the byte 0xef"),
        ("hello\n".encode("utf-16"), 0, "line 1 of standard input is not UTF-8 text: the byte 0xff"),
        (b"hello\n\xe2\x82", 1, "line 2 of standard input is not UTF-8 text: the byte 0xe2"),
        (b'"""\nhello\n\xc0\xaf"""\n', 0, "line 3 of standard input is not UTF-8 text: the byte 0xc0"),
        (b"\xed\xa0\x80\n", 0, "line 1 of standard input is not UTF-8 text: the byte 0xed"),
        (b"hello\n" + b"\xc3\xa9" * (1 << 20), 1, "line 2 of standard input is longer than 1048576 bytes"),
    ],
)
def test_a_chat_answers_up_to_the_line_that_is_no_text(
    call: Call, swarm: Swarm, said: bytes, num_answers: int, says: str
) -> None:
    swarm.replies = [[Piece((1,), "hi", 0), Finished("stop", STATS)]]
    result = call("chat", "--join", JOIN, stdin=said)
    assert (result.code, result.out) == (2, "hi\n" * num_answers)
    assert result.err.splitlines()[-1].startswith(f"error: {says}")


@pytest.mark.parametrize(
    "said", [b"caf\xe9", "hi".encode("utf-16"), "hi".encode("utf-32"), b"a" + b"\xc3\xa9" * (1 << 19)]
)
def test_a_prompt_on_stdin_that_is_no_text(call: Call, swarm: Swarm, said: bytes) -> None:
    result = call("run", "--join", JOIN, "-", stdin=said)
    assert (result.code, result.out) == (2, "")
    wrong = "is not UTF-8 text: the byte 0x" if len(said) < 100 else "is longer than 1048576 bytes"
    assert f"error: what comes on standard input {wrong}" in result.err

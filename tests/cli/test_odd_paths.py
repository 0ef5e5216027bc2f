"""Folders that nobody has, names that no system takes, a folder that alice stands in and is gone: no bug of ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsdnode import files
from dsdnode.cli import control
from dsdnode.engine.gguf import file_sha256
from dsdnode.errors import NotRunning
from dsdnode.models import demo_target
from dsdnode.weights.store import Store
from tests.cli.conftest import JOIN, Result, Swarm

Call = Callable[..., Result]
NOBODY_S = "~nobody-of-that-name/x"
LONG = "a" * 300
"""More than a file system takes for a name."""
COMMANDS = {
    "model": ("start", "--role", "shard", "-m"),
    "draft model": ("start", "--role", "drafter", "-md"),
    "data dir": ("status", "--data-dir"),
    "identity": ("identity", "show", "--identity"),
    "friends": ("start", "--allow", "@"),
    "swarm key": ("start", "--swarm-key", "@"),
    "key of a service": ("service", "install", "--print", "--swarm-key", "@"),
    "schema": ("run", "hello", "--json-schema", "@"),
    "model that is here": ("models", "add"),
    "models": ("models", "list", "--data-dir"),
}


def check(result: Result) -> None:
    assert result.code in (0, 1, 2, 3, 5), result.err
    assert "is a bug" not in result.err and "Traceback" not in result.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_of_a_user_who_is_not_there(call: Call, name: str) -> None:
    *words, last = COMMANDS[name]
    result = call(*words, *((last, NOBODY_S) if last != "@" else (f"@{NOBODY_S}",)))
    check(result)
    assert result.code == 2 and "there is no home folder ~nobody-of-that-name here" in result.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_name_that_is_too_long(call: Call, name: str) -> None:
    *words, last = COMMANDS[name]
    result = call(*words, *((last, LONG) if last != "@" else (f"@{LONG}",)))
    check(result)
    assert result.code in (2, 5) or name in ("models", "data dir")


@pytest.mark.parametrize("key", ["data_dir", "identity", "model", "model_draft"])
def test_a_configuration_s_path_with_a_nul_in_it(call: Call, home: Path, key: str) -> None:
    (home / "node.toml").write_text(f'{key} = "a\\u0000b"\n')
    result = call("config", "show", "--config", home / "node.toml")
    assert result.code == 2 and f"{key}: 'a\\x00b' is no path" in result.err


def test_a_user_without_a_home(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for words in (("config", "path"), ("status",), ("models", "list"), ("run", "hello", "--join", JOIN)):
        result = call(*words)
        assert (result.code, result.out) == (2, "")
        assert result.err == "error: no home folder of this user is known here: set HOME to one that is his\n"


def test_settings_that_cannot_be_read_are_not_passed_over(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", f"/{LONG}")
    result = call("config", "show")
    assert result.code == 2 and "cannot read the configuration" in result.err and "File name too long" in result.err
    check(call("service", "status"))


@pytest.mark.parametrize(
    "words",
    [
        ("models", "add", "t.gguf"),
        ("split", str(demo_target()), "--layers", "0:1", "-o", "part.gguf"),
        ("service", "install", "--print"),
    ],
    ids=" ".join,
)
def test_the_folder_in_which_alice_stands_is_gone(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()
    result = call(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: the folder that this was called in is gone: go to another one (cd)\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EROFS])
def test_what_the_system_refuses_is_no_bug(call: Call, swarm: Swarm, home: Path, number: int) -> None:
    swarm.replies = [[OSError(number, os.strerror(number), "/disk/x")]]
    result = call("run", "hello", "--join", JOIN, "--data-dir", home)
    assert result.code == 1 and result.err.startswith(f"error: /disk/x: {os.strerror(number)} (the traceback is in")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_that_there_is_no_room_is_no_bug(call: Call, swarm: Swarm, home: Path, error: Exception) -> None:
    swarm.replies = [[error]]
    result = call("run", "hello", "--join", JOIN, "--data-dir", home)
    assert result.code == 1 and "memory" in result.err and "is a bug" not in result.err


def test_a_cache_that_cannot_be_looked_into_is_no_fault_of_the_model() -> None:
    assert file_sha256(demo_target(), Path(f"/{LONG}")) == file_sha256(demo_target())


def test_of_a_model_s_folder_that_is_a_link_the_link_goes(call: Call, home: Path) -> None:
    """Alice has put it onto a larger disk."""
    assert call("models", "add", demo_target(), "--data-dir", home).code == 0
    [entry] = Store(home).entries()
    folder = home / "models" / entry.name
    folder.rename(home / "disk")
    folder.symlink_to(home / "disk")
    assert call("models", "rm", entry.name, "--data-dir", home).code == 0
    assert not folder.is_symlink() and (home / "disk" / "model.json").exists()
    assert Store(home).entries() == []


async def test_a_daemon_that_dies_as_it_answers_has_just_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "json.dumps", lambda told: '{"command": "status", "ok": tr'
    )  # of the answer, as of the question
    with control.hold(tmp_path):
        async with control.serve(tmp_path, {}):
            with pytest.raises(NotRunning, match="has just ended"):
                await control.ask(tmp_path, "status", dict[str, int])


def test_whether_a_file_can_be_read_says_whoever_opens_it(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not click, which would call a model that alice may not read wrong usage."""
    monkeypatch.setattr("os.access", lambda *asked, **how: False)
    assert call("split", demo_target(), "--layers", "0:1", "-o", home / "part.gguf").code == 0


# --- pipes: a shell's <(...) is one, and so is what somebody has forgotten in a folder

READERS = {
    "configuration": ("config", "show", "--config", ""),
    "friends": ("start", "--allow", "@"),
    "swarm key": ("start", "--swarm-key", "@"),
    "schema": ("run", "hello", "--json-schema", "@"),
    "prompts": ("bench", "--prompts", ""),
    "scenario": ("sim", "run", ""),
    "trace": ("sim", "plan", "--trace", ""),
}


@pytest.mark.parametrize("command", READERS.values(), ids=list(READERS))
def test_a_pipe_that_nobody_writes_into_is_not_waited_for(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(files, "WRITER_S", 0.01)
    os.mkfifo(home / "pipe", 0o600)
    refused = call(*command[:-1], f"{command[-1]}{home / 'pipe'}")
    assert (refused.code, refused.out) == (2, "")
    assert str(home / "pipe") in refused.err and "a pipe that nobody writes into" in refused.err

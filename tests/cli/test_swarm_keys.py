"""Where alice's swarm key may come from, who else on her machine sees it, and what she is told."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dsdnode.cli import control, swarm_keys
from dsdnode.cli.settings import resolve
from dsdnode.errors import BadInput
from tests.cli.conftest import JOIN, ROOT, Daemon, Result

Call = Callable[..., Result]
Start = Callable[..., Daemon]
KEY, OLD = "correct horse battery staple", "an old key of our swarm"
linux = pytest.mark.skipif(sys.platform != "linux", reason="read in /proc")


def file_of(folder: Path, text: str | bytes, mode: int = 0o600, name: str = "swarm.key") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def read(*said: object) -> tuple[str, ...]:
    keys: tuple[str, ...] = resolve({"swarm_key": said}, {}, None)["swarm_key"]
    return keys


# --- files


@pytest.mark.parametrize("text", [KEY, f"{KEY}\n", f"  {KEY}\r\nnot this\n", b"\xef\xbb\xbf" + KEY.encode()])
def test_the_first_line_of_a_file_is_a_key(tmp_path: Path, text: str | bytes) -> None:
    assert read(f"@{file_of(tmp_path, text)}") == (KEY,)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o666, 0o777])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = file_of(tmp_path, KEY, mode)
    with pytest.raises(BadInput, match=f"others: chmod 600 {path}") as error:
        read(f"@{path}")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_group_may_read_it_and_alice_is_told(tmp_path: Path, mode: int) -> None:
    path = file_of(tmp_path, KEY, mode)
    assert read(f"@{path}") == (KEY,)
    warnings = swarm_keys.warnings_about((f"@{path}",), (KEY,), on_command_line=True)
    assert ["group" in one for one in warnings] == ([True] if mode & 0o040 else [])


@pytest.mark.parametrize("said", ["@/no/such/file", "@/", "@", " ", "@/dev/null", "x" * 2000])
def test_what_is_no_key(said: str) -> None:
    with pytest.raises(BadInput, match=r"--swarm-key: .*(swarm key|text)"):
        read(said)


def test_a_key_through_a_pipe() -> None:
    with swarm_keys.handed_over([KEY, OLD]) as (words, pipes):
        assert words[0] == words[2] == "--swarm-key" and len(pipes) == 2
        assert read(words[1], words[3]) == (KEY, OLD)


def test_the_key_of_the_apis_through_another_pipe() -> None:
    with swarm_keys.handed_over([OLD], KEY) as (words, pipes):
        assert words[0::2] == ["--swarm-key", "--api-key"] and len(pipes) == 2
        assert resolve({"api_key": words[3]}, {}, None)["api_key"] == KEY
        assert read(words[1]) == (OLD,)


@pytest.mark.parametrize("mode", [0o644, 0o604])
def test_a_configuration_that_others_read_holds_no_key(tmp_path: Path, mode: int) -> None:
    for text in (f"swarm_key = '{KEY}'", f"swarm_key = ['@{file_of(tmp_path, OLD)}', '{KEY}']"):
        path = file_of(tmp_path, text, mode, "node.toml")
        with pytest.raises(BadInput, match=f"chmod 600 {path}"):
            resolve({}, {}, path)
        path.chmod(0o600)
        assert resolve({}, {}, path)["swarm_key"][-1] == KEY
    named = file_of(tmp_path, f"swarm_key = '@{file_of(tmp_path, KEY)}'", mode, "node.toml")
    assert resolve({}, {}, named)["swarm_key"] == (KEY,)


def test_two_keys_and_not_three() -> None:
    assert read(KEY, OLD) == (KEY, OLD)
    assert read(KEY, KEY) == (KEY,)
    with pytest.raises(BadInput, match="two swarm keys at most"):
        read(KEY, OLD, "a third key of our swarm")


# --- what alice is told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("--swarm-key", KEY), ["command line"]),
        ((f"--swarm-key={KEY}",), ["command line"]),
        (("--swarm-key", "short"), ["command line", "can be guessed"]),
    ],
)
def test_a_key_on_the_command_line_is_warned_of(call: Call, home: Path, said: tuple[str, ...], told: list[str]) -> None:
    result = call("config", "show", "--json", *said)
    assert json.loads(result.out)["swarm_key"] == {"value": "(hidden)", "source": "--swarm-key"}
    lines = result.err.splitlines()
    assert len(lines) == len(told) and all(words in line for words, line in zip(told, lines, strict=True))
    assert KEY not in result.err and "short" not in result.err.replace("short@", "")


def test_a_file_or_a_variable_is_not(call: Call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("config", "show", "--swarm-key", f"@{file_of(home, KEY)}").err == ""
    monkeypatch.setenv("DSDNODE_SWARM_KEY", KEY)
    result = call("config", "show", "--json")
    assert json.loads(result.out)["swarm_key"] == {"value": "(hidden)", "source": "DSDNODE_SWARM_KEY"}
    assert result.err == ""
    assert "DSDNODE_SWARM_KEY" not in os.environ, "whatever is started now would have it"


def test_the_same_holds_of_the_key_of_the_apis(call: Call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(The port is in use: what is told comes before.)"""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serve = ("serve", "--join", JOIN, "--api-port", str(taken.getsockname()[1]), "--api-key")
        result = call(*serve, "short")
        assert "--api-key @FILE, or set DSDNODE_API_KEY" in result.err and "can be guessed" in result.err
        assert "command line" not in call(*serve, f"@{file_of(home, KEY)}").err
        monkeypatch.setenv("DSDNODE_API_KEY", KEY)
        assert "command line" not in call(*serve[:-1]).err and "DSDNODE_API_KEY" not in os.environ


# --- who else sees it


@pytest.mark.parametrize(
    ("argv", "left"),
    [
        (["start", "--swarm-key", KEY, "-v"], ["start", "-v"]),
        (["start", f"--swarm-key={KEY}", "--swarm-key", f"@{OLD}"], ["start"]),
        (["start", "--join", JOIN], ["start", "--join", JOIN]),
        (["start", "--swarm-key"], ["start", "--swarm-key"]),
        (["start", "--api-key", KEY, f"--api-key={KEY}", "-v"], ["start", "-v"]),
    ],
)
def test_a_command_line_without_its_keys(argv: list[str], left: list[str]) -> None:
    assert swarm_keys.without_keys(argv) == left


def seen_of(process: psutil.Process) -> str:
    """By others in `ps`, and by who reads its environment."""
    return " ".join(process.cmdline()) + " ".join(f"{name}={value}" for name, value in process.environ().items())


@linux
@pytest.mark.slow
@pytest.mark.parametrize("said", [(f"--swarm-key={KEY}",), ("--swarm-key", KEY, "--swarm-key", OLD)])
def test_ps_does_not_show_a_daemon_s_key(daemon: Start, said: tuple[str, ...]) -> None:
    alice = daemon(*said)
    alice.ready()
    seen = seen_of(psutil.Process(alice.process.pid))
    assert "--swarm-key" in seen and "bootstrap" in seen
    assert KEY not in seen and OLD not in seen


@linux
@pytest.mark.slow
@pytest.mark.parametrize("how", ["literal", "file", "variable"])
def test_nor_does_a_detached_one(call: Call, home: Path, how: str) -> None:
    words = ["--role", "bootstrap", "--listen", "tcp://127.0.0.1:0", "--data-dir", str(home / "d")]
    words += {"literal": ["--swarm-key", KEY], "file": [f"--swarm-key=@{file_of(home, KEY)}"], "variable": []}[how]
    env = {**os.environ, "DSDNODE_SWARM_KEY": KEY} if how == "variable" else None
    command = [sys.executable, "-m", "dsdnode.cli", "start", "--detach", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False, env=env)
    try:
        assert done.returncode == 0, done.stderr
        assert ("command line" in done.stderr) == (how == "literal")
        [pid] = [int(word) for word in done.stdout.replace(",", "").split() if word.isdecimal()]
        assert KEY not in seen_of(psutil.Process(pid))
        assert asyncio.run(control.ask(home / "d", "connection", control.Connection)).swarm_keys == (KEY,)
        assert KEY not in (home / "d" / "node.log").read_text()
    finally:
        assert call("stop", "--data-dir", home / "d").code == 0

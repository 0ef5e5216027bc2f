from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from dsdnode.cli import main
from dsdnode.cli.main import cli
from dsdnode.cli.report import protection_of
from dsdnode.engine.cage import Protection
from dsdnode.errors import DsdError, EngineLost, ModelRefused, NoPipeline, NotRunning, PeerUnavailable
from dsdnode.models import demo_target
from tests.cli.conftest import JOIN, ROOT, Result, Swarm

Call = Callable[..., Result]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name in group.list_commands(context := click.Context(group)):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", sorted(commands(cli)), ids=" ".join)
def test_every_help_ends_with_an_example(call: Call, path: tuple[str, ...]) -> None:
    result = call(*path, "--help")
    assert result.code == 0
    example = result.out.rstrip().partition("Example")[2]
    assert "dsdnode" in example or "scripts/demo" in example
    assert len(example.splitlines()) <= 3 and max(map(len, result.out.splitlines())) <= 80


def truncated(home: Path) -> Path:
    path = home / "truncated.gguf"
    path.write_bytes(demo_target().read_bytes()[: 1 << 20])
    return path


def not_gguf(home: Path) -> Path:
    path = home / "not.gguf"
    path.write_text("once upon a time")
    return path


def odd_config(home: Path) -> Path:
    path = home / "odd.toml"
    path.write_text("thread = 4")
    return path


SPLIT = ("-o", "out.gguf", "--layers")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("split", "nowhere.gguf", *SPLIT, "0:4"), 5, "nowhere.gguf"),
        (("split", not_gguf, *SPLIT, "0:4"), 5, "GGUF"),
        (("split", truncated, *SPLIT, "0:4"), 5, "truncated.gguf"),
        (("split", demo_target(), *SPLIT, "0:99"), 2, "it has layers 0:"),
        (("split", demo_target(), *SPLIT, "4:4"), 2, "empty or out of range"),
        (("split", demo_target(), *SPLIT, "half"), 2, "write 0:16 (half-open) or 0-15 (inclusive)"),
        (("split", demo_target(), "--layers", "0:4", "-o", "no/such/folder/out.gguf"), 2, "there is no folder"),
        (("split", demo_target(), "--layers", "0:4"), 2, "--output"),
        (("start", "--role", "boss"), 2, "unknown role boss: choose from drafter, shard, bootstrap"),
        (("start", "--layers", "8"), 2, "--layers: '8' is not a layer range"),
        (("start", "--join", "127.0.0.1:1"), 2, "is not a join address"),
        (("start", "--config", odd_config), 2, "unknown setting 'thread'; did you mean 'threads'?"),
        (("start", "--config", "nowhere.toml"), 2, "cannot read the configuration nowhere.toml"),
        (("start", "--data-dir", "/proc/nowhere"), 2, "cannot use /proc/nowhere as data dir"),
        (("start", "--colour"), 2, "No such option"),
        (("strat",), 2, "No such command 'strat'"),
        ((), 2, "Usage: dsdnode"),
        (("run",), 2, "give a prompt"),
        (("run", "x", "--prompt-tokens", "1"), 2, "not both"),
        (("run", "--prompt-tokens", "1,two"), 2, "token ids like 1,2,3"),
        (("run", "--prompt-tokens", 5000 * "9"), 2, "token ids like 1,2,3"),
        (("run", " "), 2, "the prompt is empty"),
        (("run", "x", "--temperature", "hot"), 2, "temperature is a number from 0 to 100, not 'hot'"),
        (("run", "x", "--top-p", "0"), 2, "top_p is a number"),
        (("run", "x", "--seed", "-1"), 2, "seed is a whole number from 0"),
        (("run", "x", "--stop", ""), 2, "--stop"),
        (("run", "x"), 3, "run `dsdnode start`, or pass --join"),
        (("chat",), 3, "run `dsdnode start`, or pass --join"),
        (("status",), 3, "start one with `dsdnode start`"),
        (("peers",), 3, "start one with `dsdnode start`"),
        (("models",), 3, "start one with `dsdnode start`"),
        (("stop",), 3, "start one with `dsdnode start`"),
        (("demo", "--shards", "99"), 2, "--shards 1 to "),
        (("demo", "--json"), 2, "--json goes with --prompt"),
        (("demo", "--api-port", "0"), 2, "--api-port goes with --serve"),
    ],
)
def test_bad_input_gets_a_line_and_its_exit_code(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], code: int, says: str
) -> None:
    monkeypatch.chdir(home)
    result = call(*(word(home) if callable(word) else word for word in words))
    assert result.code == code
    assert says in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DsdError("x"), 1),
        (EngineLost("x"), 1),
        (PeerUnavailable("x"), 1),
        (NotRunning("x"), 3),
        (NoPipeline("layers 3:5 are hosted by nobody"), 4),
        (ModelRefused("x"), 5),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_errors_have_their_exit_codes(call: Call, swarm: Swarm, error: BaseException, code: int) -> None:
    swarm.replies = [[error]]
    result = call("run", "hello", "--join", JOIN)
    assert result.code == code
    assert str(error) in result.err
    assert "Traceback" not in result.err


def test_a_bug_is_a_line_and_a_traceback_in_a_file(call: Call, swarm: Swarm, home: Path) -> None:
    swarm.replies = [[RuntimeError("queue is a list")]]
    result = call("run", "hello", "--join", JOIN, "--data-dir", home / "d")
    assert result.code == 1
    crash = home / "d" / "crash.log"
    assert f"unexpected RuntimeError: queue is a list (this is a bug; the traceback is in {crash})" in result.err
    assert "Traceback" not in result.err
    assert "Traceback" in crash.read_text()


def test_verbose_shows_the_traceback(call: Call, swarm: Swarm) -> None:
    swarm.replies = [[RuntimeError("queue is a list")]]
    assert "Traceback" in call("run", "hello", "--join", JOIN, "-v").err


def test_split_cuts_and_says_what(call: Call, home: Path) -> None:
    out = home / "shard.gguf"
    result = call("split", demo_target(), "--layers", "1-2", "-o", out, "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    assert made["layers"] == [1, 3]
    assert made["size_bytes"] == out.stat().st_size
    refused = call("split", out, "--layers", "0:1", "-o", home / "again.gguf")
    assert refused.code == 5
    assert "is a shard already" in refused.err


def test_identity_is_shown_without_its_secret(call: Call, home: Path) -> None:
    shown = json.loads(call("identity", "show", "--json").out)
    path = Path(shown["path"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().split()[-1]
    text = call("identity", "show").out
    assert shown["peer_id"] in text
    assert secret not in text


def test_config_show_tells_values_and_origins_but_no_key(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSDNODE_SWARM_KEY", "opensesame")
    monkeypatch.setenv("DSDNODE_THREADS", "4")
    text = call("config", "show").out
    assert "opensesame" not in text
    assert [line.split() for line in text.splitlines() if line.startswith("threads")] == [
        ["threads", "4", "DSDNODE_THREADS"]
    ]
    monkeypatch.setenv("DSDNODE_LAYERS", "0-15")
    assert "layers        0:16 " in call("config", "show").out
    monkeypatch.setenv("DSDNODE_SWARM_KEY", "opensesame")  # each call forgets it
    shown = json.loads(call("config", "show", "--json", "--join", JOIN).out)
    assert shown["join"] == {"value": [JOIN], "source": "--join"}
    assert shown["swarm_key"] == {"value": "(hidden)", "source": "DSDNODE_SWARM_KEY"}
    assert call("config", "path").out.strip() == str(home / "config" / "dsdnode" / "config.toml")


def test_version(call: Call) -> None:
    assert {"dsdnode", "protocol", "python"} <= json.loads(call("version", "--json").out).keys()
    assert call("--version").out.startswith("dsdnode 0.")


def test_help_is_a_command_too(call: Call) -> None:
    assert call("help").out == call("--help").out
    assert call("help", "sim", "plan").out == call("sim", "plan", "--help").out
    assert call("help", "sim", "nothing").code == 2 and "`dsdnode help`" in call("help", "nothing").err


def test_the_entry_point_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dsdnode", "strat"])
    monkeypatch.setattr("dsdnode.cli.streams.take_over", lambda: None)  # pytest has them
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2


def test_ctrl_c_before_all_is_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "platformdirs.py").write_text("import os\nos.kill(os.getpid(), 2)\n")  # in the midst of it
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "dsdnode.cli", "status"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_what_a_system_leaves_out_of_the_cage_is_said() -> None:
    whole = Protection(("clean environment", "seccomp"))
    assert protection_of(whole) == "clean environment, seccomp"
    mac = Protection(("clean environment",), ("landlock: not on this system", "seccomp: not on this system"))
    without = "(without landlock: not on this system; seccomp: not on this system)"
    assert protection_of(mac) == f"clean environment {without}"
    assert protection_of(Protection(())) == "none"

"""Every command that writes a file, told to write into what is none; paths, folders and files as they really are."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from dsdnode.bench.prompts import Prompt, read_prompts
from dsdnode.cli import logs
from dsdnode.models import demo_target
from dsdnode.sim.traces import read_traces
from tests.cli.conftest import JOIN, ROOT, Result, Swarm

Call = Callable[..., Result]
SCENARIO = """
[load]
requests = 1
reply_tokens = 4
[[peers]]
role = "shard"
[[peers]]
role = "drafter"
"""
RAW = os.fsdecode(b"caf\xe9")
"""A name that is not UTF-8."""


@pytest.fixture
def scenario(home: Path) -> str:
    (home / "small.toml").write_text(SCENARIO)
    return str(home / "small.toml")


@pytest.fixture
def pipe(home: Path) -> Path:
    """Nobody reads it: who opens it to write waits for ever."""
    os.mkfifo(home / "pipe.svg")
    return home / "pipe.svg"


COMMANDS: dict[str, tuple[str, ...]] = {
    "split": ("split", str(demo_target()), "--layers", "0:2", "-o"),
    "sim run": ("sim", "run", "SCENARIO", "--plot"),
    "sim sweep": ("sim", "sweep", "SCENARIO", "--plot"),
    "sim sweep, results": ("sim", "sweep", "SCENARIO", "--out"),
    "bench": ("bench", "--plot"),
    "bench, record": ("bench", "--record"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_is_refused_before_any_work_is_done(call: Call, scenario: str, pipe: Path, name: str) -> None:
    (pipe.parent / "link.svg").symlink_to(pipe)
    for output in (pipe, pipe.parent / "link.svg"):
        refused = call(*(scenario if word == "SCENARIO" else word for word in COMMANDS[name]), output)
        assert (refused.code, refused.out) == (2, "")
        assert "is a pipe, not a file that can be written" in refused.err
    assert stat.S_ISFIFO(pipe.lstat().st_mode) and (pipe.parent / "link.svg").is_symlink()


def test_split_writes_through_a_link(call: Call, home: Path) -> None:
    (home / "disk").mkdir()
    (home / "part.gguf").symlink_to("disk/real.gguf")
    for layers in ("0:2", "2:4"):
        assert call(*COMMANDS["split"][:3], layers, "-o", home / "part.gguf").code == 0
    assert (home / "part.gguf").is_symlink() and (home / "disk" / "real.gguf").stat().st_size > 1 << 16
    (home / "model.gguf").symlink_to(demo_target())
    refused = call(*COMMANDS["split"], home / "model.gguf")
    assert refused.code == 2 and "is the model itself" in refused.err


@pytest.mark.slow
def test_pictures_and_results_are_written_through_links(call: Call, scenario: str, home: Path) -> None:
    for link, target in (("chart.svg", "real.svg"), ("results", "real.jsonl")):
        (home / target).write_text("")
        (home / link).symlink_to(target)
    assert call("sim", "run", scenario, "--plot", home / "chart.svg").code == 0
    assert call("sim", "sweep", scenario, "--jobs", "1", "--out", home / "results").code == 0
    assert (home / "real.svg").stat().st_size > 1000 and len((home / "real.jsonl").read_text().splitlines()) == 1
    assert (home / "chart.svg").is_symlink() and (home / "results").is_symlink()
    assert list(home.rglob("swarm.json")) == []  # peers of a simulation are nobody's


def test_the_traceback_of_a_bug_leaves_a_pipe_alone(call: Call, swarm: Swarm, home: Path) -> None:
    os.mkfifo(home / "crash.log")
    swarm.replies = [[RuntimeError(RAW)]]
    result = call("run", "hello", "--join", JOIN, "--data-dir", home)
    assert result.code == 1 and "-v shows the traceback" in result.err
    assert stat.S_ISFIFO((home / "crash.log").lstat().st_mode)


# --- names that are not UTF-8


def test_outputs_and_models_have_any_name(call: Call, home: Path) -> None:
    (home / RAW).mkdir()
    model = home / RAW / f"{RAW}.gguf"
    model.write_bytes(demo_target().read_bytes())
    for as_json in ((), ("--json",)):
        made = call("split", model, "--layers", "0:2", "-o", home / RAW / "part.gguf", *as_json)
        assert made.code == 0 and "caf\\xe9" in made.out.replace("\\\\", "\\")
    missing = call("split", home / RAW / "none.gguf", "--layers", "0:2", "-o", home / "part.gguf")
    assert missing.code == 5 and "No such file" in missing.err


def test_a_data_dir_and_a_configuration_have_any_name(call: Call, home: Path) -> None:
    config = home / f"{RAW}.toml"
    config.write_text("threads = 3")
    for as_json in ((), ("--json",)):
        told = call("config", "show", "--config", config, "--data-dir", home / RAW, *as_json)
        assert told.code == 0 and told.out.count("caf") >= 2
        shown = call("identity", "show", "--data-dir", home / RAW, *as_json)
        assert shown.code == 0 and "caf" in shown.out
    assert (home / RAW / "identity.key").exists()
    assert call("status", "--data-dir", home / RAW).code == 3
    missing = call("config", "show", "--config", home / RAW / "none.toml")
    assert missing.code == 2 and "cannot read the configuration" in missing.err


# --- a byte order mark


def test_files_of_editors_that_begin_them_with_a_mark(call: Call, swarm: Swarm, home: Path) -> None:
    mark = b"\xef\xbb\xbf"
    (home / "node.toml").write_bytes(mark + b"threads = 3")
    (home / "key").write_bytes(mark + b"between us\r\n")
    (home / "key").chmod(0o600)
    told = call("config", "show", "--json", "--config", home / "node.toml", "--swarm-key", f"@{home / 'key'}")
    assert json.loads(told.out)["threads"]["value"] == 3
    swarm.replies = [[], []]
    call("run", "-", "--join", JOIN, "--swarm-key", f"@{home / 'key'}", stdin="\ufeffhello")
    assert swarm.swarm_keys == ("between us",)
    call("chat", "--join", JOIN, stdin="\ufeffhello\n")
    assert [request.messages for request in swarm.requests] == 2 * [[{"role": "user", "content": "hello"}]]
    (home / "prompts").write_bytes(mark + b'{"prompt": "hello"}\n')
    assert read_prompts(home / "prompts", 9, 0) == [Prompt("hello")]
    (home / "traces").write_bytes(mark + b'{"accepted": [1, 0]}\n')
    assert read_traces(home / "traces").traces[0].accepted == (True, False)


def test_a_file_in_another_encoding_is_told(call: Call, home: Path) -> None:
    (home / "node.toml").write_bytes("threads = 3".encode("utf-16"))
    refused = call("config", "show", "--config", home / "node.toml")
    assert refused.code == 2 and "is not TOML" in refused.err


# --- whose folder it is


@pytest.mark.parametrize(
    "words",
    [
        ("start", "--role", "bootstrap"),
        ("start", "--role", "bootstrap", "--detach"),
        ("status",),
        ("stop",),
        ("chat",),
        ("run", "hello"),
        ("identity", "show"),
    ],
)
def test_nothing_is_believed_in_a_folder_where_others_may_write(call: Call, home: Path, words: tuple[str, ...]) -> None:
    folder = home / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    refused = call(*words, "--data-dir", folder)
    assert (refused.code, refused.out) == (2, "")
    assert f"others may write to the data dir {folder}: chmod go-w" in refused.err
    assert list(folder.iterdir()) == []


# --- the log


@contextmanager
def logging_elsewhere(stderr: Path) -> Iterator[None]:
    """A log of a file takes stderr along: here one that nobody needs."""
    root, ours = logging.getLogger(), sys.stderr
    handlers, level = root.handlers[:], root.level
    with stderr.open("w") as stream:
        sys.stderr = stream
        try:
            yield
        finally:
            sys.stderr = ours
            root.handlers[0].close()
            root.handlers[:] = handlers
            root.setLevel(level)
            structlog.reset_defaults()


def test_strangers_cannot_fill_the_disk_with_the_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 4096)
    monkeypatch.setattr(logs, "MAX_LINES", 300)
    path = home / "node.log"
    with logging_elsewhere(home / "stderr"):
        logs.set_up("info", "json")
        logs.to_file(path)
        log = structlog.get_logger("alice")
        for number in range(300):
            log.info("greeting refused", number=number, name=RAW)
        os.write(sys.stderr.fileno(), b"Assertion failed\n")
    files = [home / "node.log.1", path]
    assert sorted(home.glob("node.log*")) == sorted(files)
    assert sum(file.stat().st_size for file in files) <= 2 * 4096 + 512
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert lines.pop() == "Assertion failed"
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == list(range(numbers[0], 300)) and len(numbers) > 20


@pytest.mark.slow
def test_a_detached_node_logs_into_its_data_dir_and_says_there_why_it_ended(call: Call, home: Path) -> None:
    """Its log is as long as one may be: it begins anew, and the one before it is kept."""
    folder = home / RAW
    folder.mkdir(mode=0o700)
    (folder / "node.log").write_bytes(b"error: of long ago\n" * (logs.MAX_LOG_BYTES // 19))
    words = [sys.executable, "-m", "dsdnode.cli", "start", "--detach", "--role", "bootstrap", "--data-dir", str(folder)]
    done = subprocess.run([*words, "--listen", "127.0.0.1:0", "-v"], capture_output=True, cwd=ROOT, timeout=60)
    try:
        assert done.returncode == 0, done.stderr
        assert b"caf\\xe9/node.log" in done.stdout
    finally:
        assert call("stop", "--data-dir", folder).code == 0
    assert "draining" in (folder / "node.log").read_text()
    assert (folder / "node.log.1").stat().st_size > logs.MAX_LOG_BYTES // 2 > (folder / "node.log").stat().st_size
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run([*words, "--listen", listen], capture_output=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2 and b"is in use" in done.stderr and b"long ago" not in done.stderr


# --- what is told to leave

HALF = """
import os, signal, sys
from dsdnode.cli.main import main
from dsdnode.engine import gguf
from dsdnode.files import replacing

def cut(model, start, end, out, *rest):
    with replacing(out) as file:
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), NUMBER)
        signal.pause()

gguf.cut = cut
NUMBER = int(sys.argv.pop())
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_split_that_is_ended_leaves_no_half(home: Path, number: signal.Signals) -> None:
    """Of a large model that is a disk full of nothing."""
    words = ["split", "model.gguf", "--layers", "0:2", "-o", str(home / "part.gguf"), str(int(number))]
    done = subprocess.run([sys.executable, "-c", HALF, *words], check=False)
    assert done.returncode == 128 + number
    assert list(home.iterdir()) == []

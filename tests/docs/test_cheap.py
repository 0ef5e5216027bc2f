"""Commands that cost little are really run, each by a user without settings: they end with the exit codes that the
pages promise, within seconds. One of each way to end is a process of its own, as a shell starts it; to start all of
them so would load the package thirty times."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsdnode.cli import main
from dsdnode.models import demo_target
from tests.docs.pages import ROOT, pages

pytestmark = pytest.mark.slow

MAX_CPU_S = 5.0
"""Of the command and what it starts: on a busy machine the clock on the wall tells nothing."""
MAX_WALL_S = 60.0
OK, USAGE, NO_NODE, REFUSED = 0, 2, 3, 5


@dataclass(frozen=True)
class Cheap:
    """`says`: in what it prints, on either stream. {home}: the user's folder, {target}: the demo's model."""

    command: str
    code: int
    says: str
    alone: bool = False
    """In a process of its own."""


CHEAP = (
    Cheap("version", OK, "llama-cpp-python", alone=True),
    Cheap("version --json", OK, '"protocol"'),
    Cheap("config show", OK, "draft_max"),
    Cheap("config path", OK, "dsdnode"),
    Cheap("identity show", OK, "peer id"),
    Cheap("split {target} --layers 0:4 -o {home}/part.gguf", OK, "layers 0:4 of 8"),
    Cheap("sim plan --stages 2 --trace {home}/replies.jsonl", OK, "tokens a second", alone=True),
    Cheap("sim plan --stages none", USAGE, "--stages"),
    Cheap("", USAGE, "Usage", alone=True),
    Cheap("fly", USAGE, "No such command"),
    Cheap("start --role miner", USAGE, "unknown role"),
    Cheap("run hello --window wide", USAGE, "no window policy"),
    *(Cheap(command, NO_NODE, "dsdnode start") for command in ("status", "peers", "models", "stop", "invite", "chat")),
    Cheap("run hello", NO_NODE, "dsdnode start", alone=True),
    Cheap("split nowhere.gguf --layers 0:4 -o {home}/part.gguf", REFUSED, "nowhere.gguf"),
    Cheap("start --role drafter -md nowhere.gguf", REFUSED, "nowhere.gguf", alone=True),
    *(
        Cheap(f"{command} --help", OK, "Usage")
        for command in ("", "start", "chat", "run", "bench", "split", "demo", "sim run", "sim sweep", "sim plan")
    ),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    reply = {"accepted": [1, 1, 0, 1] * 8, "confidence": [0.9] * 32, "entropy": [0.2] * 32, "second": [0] * 32}
    (tmp_path / "replies.jsonl").write_text(json.dumps({"prompt_tokens": 16, **reply}) + "\n")
    return tmp_path


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has none, in the folder that is home."""
    for name in [name for name in os.environ if name.startswith("DSDNODE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DSDNODE_LISTEN", "127.0.0.1:0")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.chdir(home)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("cheap", CHEAP, ids=lambda cheap: cheap.command or "nothing")
def test_it_ends_as_promised(cheap: Cheap, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = cheap.command.format(home=home, target=demo_target()).split()
    before_s = cpu_s()
    code = in_a_process(words) if cheap.alone else main.call(words)
    said = "".join(capfd.readouterr())
    assert code == cheap.code, said
    assert cheap.says in said
    assert "Traceback" not in said
    assert cpu_s() - before_s < MAX_CPU_S


def in_a_process(words: list[str]) -> int:
    command = [sys.executable, "-m", "dsdnode.cli", *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=MAX_WALL_S, check=False).returncode


def cpu_s() -> float:
    """Of this process, and of those begun here that are over."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def test_the_pages_promise_these_codes() -> None:
    told = re.findall(r"[Ee]xit codes?\b(?:[^\n]|\n(?!\n))*", "\n\n".join(page.read_text() for page in pages()))
    promised = {int(code) for text in told for code in re.findall(r"(?<![\d.:])\d{1,3}(?![\d.:])", text)}
    assert {cheap.code for cheap in CHEAP} | {1, 4, 130} <= promised

"""`dsdnode bench` as it is typed: what is refused, and one small run of real daemons with everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dsdnode.bench.daemons import Daemon, take_down
from dsdnode.errors import DsdError
from dsdnode.sim.traces import read_traces
from tests.bench.test_report import KEYS
from tests.cli.conftest import ROOT, Result
from tests.cli.test_demo import alive

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "dsdnode.cli", "bench"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--shards", "two"), "--shards: 'two' is not a whole number from 1 to 64"),
        (("--shards", "9"), "the target has 8 layers: --shards 1 to 8, not 9"),
        (("--latency-ms", "-1"), "--latency-ms: '-1' is not a number from 0 to 60000"),
        (("--latency-ms", "1/2"), "--latency-ms has 2 values, one a shard, and --shards is 3"),
        (("--loss", "1"), "--loss: '1' is not a number from 0 to 0.9"),
        (("--stage-ms", "nan"), "--stage-ms: 'nan' is not a number"),
        (("--schemes", "fastest"), "'fastest' is no scheme"),
        (("--wire", "f64"), "no type for hidden states"),
        (("--sessions", "1,0"), "--sessions: '0' is not a whole number"),
        (("--slow-down", "1:5"), "--slow-down is SHARD:FACTOR:TOKEN"),
        (("--slow-down", "1.5:5:50"), "--slow-down: '1.5' is not a whole number"),
        (("--slow-down", "1/2:5:50"), "--slow-down: '1/2' is not a whole number"),
        (("--slow-down", "1:5:0.5"), "--slow-down: '0.5' is not a whole number"),
        (("--prompts", "/nowhere/at/all"), "cannot read the prompts /nowhere/at/all"),
        (("--record", "/nowhere/at/all"), "there is no folder /nowhere/at"),
        (("--plot", "chart.gif"), "--plot chart.gif: name it .svg"),
        (("--temperature", "nan"), "'nan' is not a number"),
        (("--draft-ms", "1/2"), "'1/2' is not a valid float"),
        (("--num-prompts", "0"), "Invalid value for '--num-prompts'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(
    call: Callable[..., Result], words: tuple[str, ...], says: str
) -> None:
    refused = call("bench", *words)
    assert (refused.code, refused.out) == (2, "")
    assert says in refused.err
    assert "Traceback" not in refused.err


def test_a_model_that_is_none_is_refused(call: Callable[..., Result], home: Path) -> None:
    (home / "no.gguf").write_bytes(b"no")
    assert call("bench", "-m", home / "no.gguf").code == 5
    drafter = Daemon(home / "d", "--role", "drafter", "-md", str(home / "no.gguf"))
    with pytest.raises(DsdError, match=r"^a daemon did not start: .*no.gguf: not a GGUF file$") as caught:
        drafter.ready()
    take_down([drafter])
    assert caught.value.exit_code == 5


def test_what_was_recorded_before_stays_where_nothing_is_measured(call: Callable[..., Result], home: Path) -> None:
    (home / "no.gguf").write_bytes(b"no")
    (home / "trace.jsonl").write_text("yesterday's\n")
    assert call("bench", "-m", home / "no.gguf", "--record", home / "trace.jsonl").code == 5
    assert (home / "trace.jsonl").read_text() == "yesterday's\n"


@pytest.mark.timeout(300)
def test_two_shards_two_prompts_and_nothing_is_left(home: Path) -> None:
    words = ["--shards", "2", "--latency-ms", "0,5", "--num-prompts", "2", "--max-tokens", "8", "--sessions", "1,2"]
    files = ["--plot", str(home / "speeds.svg"), "--record", str(home / "trace.jsonl")]
    done = subprocess.run(
        [*COMMAND, *words, *files, "--schemes", "plain,rounds-4,alone", "--stage-ms", "2", "--draft-ms", "1", "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home), "DSDNODE_ROLE": "bootstrap"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["config"]["latency_ms"] == [0.0, 5.0]
    for cell in shown["cells"]:
        plain, rounds, alone = cell["schemes"]
        assert list(plain) == list(rounds) == list(alone) == KEYS
        assert alone["text_equal"] and 0 < alone["cpu_ms_per_token"] < plain["cpu_ms_per_token"]
        assert alone["messages_per_token"] == 0 and alone["tokens_per_second"] > 0
        assert rounds["speedup"] > 0 and rounds["text_equal"]
        assert plain["messages_per_token"] >= 3 - 1e-9  # two blocks and a verdict
        assert rounds["messages_per_token"] < plain["messages_per_token"]
        assert plain["tokens_per_second"] < plain["bound_tokens_per_second"] <= 250.0  # two stages of 2 ms
        assert [[one["num_sessions"] for one in each["sessions"]] for each in cell["details"]] == [[2], [2], []]
    slow, fast = shown["cells"][1]["schemes"][0], shown["cells"][0]["schemes"][0]
    assert slow["tokens_per_second"] < fast["tokens_per_second"]  # 3 x 5 ms a token more
    assert "8/8" in done.stderr.splitlines()[-1] or "2 shards, 5 ms" in done.stderr
    assert (home / "speeds.svg").read_text().startswith("<?xml")
    assert len(read_traces(home / "trace.jsonl").traces) == 2
    assert alive(home) == []
    assert not list(home.glob("dsdnode-bench-*"))


@pytest.fixture
def running(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A long bench in the middle of its measurements."""
    bench = subprocess.Popen(
        [*COMMAND, "--shards", "1", "--num-prompts", "1000", "--latency-ms", "50"],
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home)},
    )
    try:
        assert bench.stderr is not None
        for line in bench.stderr:
            if b"1 shard, 50 ms" in line:
                break
        assert len(alive(home)) >= 2
        yield bench
    finally:
        bench.kill()
        bench.communicate()


@pytest.mark.timeout(120)
def test_a_signal_takes_everything_down(home: Path, running: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, which takes the same way, is the demo's (test_demo.py)."""
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 128 + signal.SIGTERM
    assert alive(home) == []
    assert not list(home.glob("dsdnode-bench-*"))


@pytest.mark.timeout(120)
def test_a_killed_bench_leaves_no_process(running: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(running.pid).children(recursive=True)
    assert len(family) >= 5  # the link emulator, two daemons, their workers
    running.kill()
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_its_help_ends_with_an_example(call: Callable[..., Result]) -> None:
    shown = call("bench", "--help")
    assert shown.code == 0
    assert "Example:\n    dsdnode bench --shards 4" in shown.out

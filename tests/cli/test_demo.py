"""The whole thing, as a newcomer meets it: real daemons, real models, one command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from dsdnode.bench.daemons import leaving_by_exception, run_leaving
from tests.cli.conftest import ROOT, Daemon, Result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
"""Five processes that load models: seconds, but not on a machine that has much else to do."""
COMMAND = [sys.executable, "-m", "dsdnode.cli"]
PROMPT = "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?"


def alive(folder: Path) -> list[list[str]]:
    """Command lines of the processes that were given something in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(str(folder) in word for word in words):
            found.append(words)
    return found


def test_one_prompt_and_nothing_is_left(home: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--shards", "2", "--prompt", PROMPT, "--json", "--max-tokens", "40", "--seed", "3"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home), "DSDNODE_ROLE": "bootstrap"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["text"] and shown["stats"]["seed"] == 3
    assert [stage["layers"] for stage in shown["stats"]["pipeline"]] == [[0, 4], [4, 8]]
    assert "a bootstrap, 2 shards (layers 0:4, 4:8) and a drafter, up in " in done.stderr
    assert alive(home) == []
    assert not list(home.glob("dsdnode-demo-*"))


def test_with_nothing_on_stdin_it_shows_a_reply_all_the_same(home: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--shards", "1", "--temperature", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home)},
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stdout.strip().endswith("59.")) == (0, True), done.stderr
    assert f"> {PROMPT}" in done.stderr


def test_ctrl_c_takes_everything_down(home: Path) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--shards", "1"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home)},
    )
    try:
        assert demo.stderr is not None
        assert b"up in" in demo.stderr.readline()
        assert len(alive(home)) >= 3
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=60) == 130  # its stdin is open still: the end of it would be another reason to leave
        assert alive(home) == []
    finally:
        demo.kill()
        demo.communicate()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_being_told_to_leave_comes_between_two_steps(number: signal.Signals, error: type[BaseException]) -> None:
    seen = []

    def step() -> None:
        signal.raise_signal(number)
        seen.append("a whole step")

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(step)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("the end")

    before = signal.getsignal(number)
    with leaving_by_exception(), pytest.raises(error):
        run_leaving(wait())
    assert seen == ["a whole step", "the end"]
    assert signal.getsignal(number) == before


def test_chat_and_run_find_the_node_that_runs_here(call: Callable[..., Result], daemon: Callable[..., Daemon]) -> None:
    alice = daemon("--role", "drafter", "--role", "shard", "--swarm-key", "opensesame", "--ctx-size", "1024")
    assert alice.ready()["layers"] == [0, 8]
    there = ("--data-dir", alice.data_dir)
    answered = call("run", PROMPT, "--max-tokens", "8", "--json", *there)
    assert answered.code == 0, answered.err
    assert len(json.loads(answered.out)["tokens"]) == 8
    assert call("chat", "--max-tokens", "8", *there, stdin=f"{PROMPT}\n").out.strip()
    (model,) = json.loads(call("models", "--json", *there).out)
    assert (model["complete"], model["drafters"]) == (True, 1)
    assert "0:8 x1" in call("models", *there).out
    status = call("status", *there).out
    assert "opensesame" not in status
    if sys.platform == "linux":
        assert re.search("^protection +clean environment, limits, no new privileges, ", status, re.MULTILINE)
    assert re.search(r"^sent +\d+ messages of replies \(.+B\), \d+ of the swarm's upkeep", status, re.MULTILINE)
    stranger = call("run", PROMPT, "--join", json.loads(call("status", "--json", *there).out)["join"])
    assert stranger.code == 1
    assert "--swarm-key" in stranger.err
    assert alice.end() == 0
    forgotten = call("run", PROMPT, *there)
    assert forgotten.code == 3


def test_uncovered_layers_are_named(call: Callable[..., Result], daemon: Callable[..., Daemon]) -> None:
    alice = daemon("--role", "drafter", "--role", "shard", "--layers", "2-5", "--threads", "1", "--ctx-size", "1024")
    join = alice.ready()["join"]
    answered = call("run", PROMPT, "--join", join)
    assert answered.code == 4
    assert answered.out == ""
    assert "0:2" in answered.err and "6:8" in answered.err
    assert "\nlayers 0:2, 6:8 of" in call("models", "--data-dir", alice.data_dir).out
    wrong = call("run", PROMPT, "--join", join, "-m", "gpt")
    assert wrong.code == 5
    assert "no model named 'gpt' in this swarm" in wrong.err


def test_serve_prints_a_page_and_a_line_of_curl_that_work_until_ctrl_c(home: Path) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--shards", "1", "--serve", "--api-port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home)},
        start_new_session=True,
    )
    try:
        assert demo.stdout is not None
        said = "".join(iter(demo.stdout.readline, "Ctrl-C ends all of it\n"))
        curl = said[said.index("  curl ") :]
        answer = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=120, check=True)
        assert json.loads(answer.stdout)["choices"][0]["finish_reason"] == "stop"
        page = re.search(r"http://\S+/$", said, re.MULTILINE)
        assert page is not None and "<title>dsdnode" in httpx.get(page[0]).text
    finally:
        demo.send_signal(signal.SIGINT)
        code = demo.wait(60)
    assert code == 130 and alive(home) == []


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none_is_refused_before_anything_begins(call: Callable[..., Result], port: str) -> None:
    refused = call("demo", "--serve", "--api-port", port)
    assert refused.code == 2 and "--api-port" in refused.err and "0<=x<=65535" in refused.err

"""Real daemons in processes of their own, asked through their control sockets and ended by signals."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsdnode.cli import control
from dsdnode.errors import DsdError, NotRunning
from dsdnode.node.status import EngineStatus, NodeStatus, Sessions
from tests.cli.conftest import ROOT, Daemon, Result

pytestmark = pytest.mark.slow

Call = Callable[..., Result]
Start = Callable[..., Daemon]
STATUS = [
    "uptime_s", "peer_id", "name", "address", "join", "roles", "layers", "known_peers", "sent", "sessions", "engines",
    "protection", "twin", "num_records", "num_relay_circuits", "reach", "resting", "given", "api",
]  # fmt: skip
PEER = [
    "peer_id", "addresses", "roles", "layers", "model", "free_sessions", "rtt_ms",
    "seen_s", "name", "link", "fixed_ms", "slope_ms", "model_ids", "queue",
]  # fmt: skip


def test_ready_status_stop(call: Call, daemon: Start) -> None:
    alice = daemon()
    ready = alice.ready()
    assert list(ready) == ["event", "peer_id", "address", "join", "roles", "layers", "api", "resting"]
    assert (ready["event"], ready["roles"], ready["layers"]) == ("ready", ["bootstrap"], None)
    assert ready["join"].startswith("dsd://127.0.0.1:")
    status = json.loads(call("status", "--json", "--data-dir", alice.data_dir).out)
    assert list(status) == STATUS and status["sessions"] == {"shard": 0, "drafter": 0} and status["engines"] == []
    assert (status["peer_id"], status["join"]) == (ready["peer_id"], ready["join"])
    assert ready["peer_id"] in call("status", "--data-dir", alice.data_dir).out
    assert call("peers", "--data-dir", alice.data_dir).out == "no other peers\n"
    assert json.loads(call("models", "--json", "--data-dir", alice.data_dir).out) == []
    for name, mode in (("control.sock", 0o600), ("lock", 0o600), ("identity.key", 0o600), ("", 0o700)):
        assert stat.S_IMODE((alice.data_dir / name).stat().st_mode) == mode
    stopped = call("stop", "--data-dir", alice.data_dir)
    assert (stopped.code, stopped.out) == (0, "stopped\n")
    alice.process.wait(timeout=30)
    assert alice.process.returncode == 0
    assert call("status", "--data-dir", alice.data_dir).code == 3


def test_alice_is_told_again_where_her_page_is(call: Call, daemon: Start) -> None:
    alice = daemon("--role", "bootstrap", "--role", "gateway", "--api-port", "0")
    url = alice.ready()["api"]
    assert json.loads(call("status", "--json", "--data-dir", alice.data_dir).out)["api"] == url
    assert f"page, APIs   {url}/, {url}/v1\n" in call("status", "--data-dir", alice.data_dir).out
    bob = daemon(name="bob")
    bob.ready()
    assert "page, APIs" not in call("status", "--data-dir", bob.data_dir).out


def test_alice_keeps_her_identity_and_bob_finds_her(call: Call, daemon: Start) -> None:
    alice = daemon()
    ready = alice.ready()
    bob = daemon("--join", ready["join"], name="bob")
    assert bob.ready()["peer_id"] != ready["peer_id"]
    peers = json.loads(call("peers", "--json", "--data-dir", bob.data_dir).out)
    assert [peer["peer_id"] for peer in peers] == [ready["peer_id"]] and list(peers[0]) == PEER
    assert alice.end() == 0
    assert daemon().ready()["peer_id"] == ready["peer_id"]


def test_signals_drain(daemon: Start) -> None:
    alice, bob = daemon(), daemon(name="bob")
    alice.ready(), bob.ready()
    assert alice.end(signal.SIGTERM) == 0
    assert bob.end(signal.SIGINT) == 130


def test_the_window_of_the_terminal_is_closed(daemon: Start) -> None:
    """Alice's replies end before the node does, though there is nobody to tell so."""
    ours, theirs = pty.openpty()
    at_it: dict[str, Any] = {
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        "start_new_session": True,
        "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    }
    alice = daemon(**at_it)
    os.close(theirs)
    told = b""
    while b"ready" not in told:
        told += os.read(ours, 4096)
    os.close(ours)
    assert alice.process.wait(30) == 0


def test_a_window_that_is_closed_says_so_twice(daemon: Start) -> None:
    """By its shell, as bash does, and by the system when that has ended."""
    alice = daemon(fake=True)
    alice.ready()
    alice.process.send_signal(signal.SIGHUP)
    alice.log_until("draining")
    alice.process.send_signal(signal.SIGHUP)
    assert alice.end(signal.SIGINT) == 130, "it drains until somebody at a keyboard says more"


@pytest.mark.parametrize("ignored", [False, True])
def test_under_nohup_it_stays(ignored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN if ignored else signal.SIG_DFL)
    assert (signal.SIGHUP in control.endings()) is not ignored


def test_a_second_signal_kills(daemon: Start) -> None:
    alice, bob = daemon(fake=True), daemon(name="bob", fake=True)
    for one, number, code in ((alice, signal.SIGINT, 130), (bob, signal.SIGTERM, 1)):
        one.ready()
        one.process.send_signal(number)
        one.log_until("draining")
        assert one.end(number) == code


def test_a_second_stop_kills(call: Call, daemon: Start) -> None:
    alice = daemon(fake=True)
    alice.ready()
    asyncio.run(control.ask(alice.data_dir, "stop", dict))
    stopped = call("stop", "--data-dir", alice.data_dir)
    assert (stopped.code, stopped.out) == (0, "stopped\n")


def test_one_daemon_a_data_dir(call: Call, daemon: Start) -> None:
    alice = daemon()
    alice.ready()
    again = call("start", "--role", "bootstrap", "--data-dir", alice.data_dir)
    assert again.code == 1
    assert "already running" in again.err


def test_a_daemon_killed_hard_leaves_nothing_in_the_way(call: Call, daemon: Start) -> None:
    alice = daemon()
    alice.ready()
    alice.end(signal.SIGKILL)
    assert call("status", "--data-dir", alice.data_dir).code == 3
    assert daemon().ready()["event"] == "ready"


def test_port_in_use(call: Call, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = call("start", "--role", "bootstrap", "--listen", f"tcp://127.0.0.1:{port}")
    assert result.code in (1, 2)
    assert str(port) in result.err
    assert "in use" in result.err
    assert "Traceback" not in result.err


NODE = ("start", "--listen", "tcp://127.0.0.1:0", "--role")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("shard", "--layers", "0:99"), 2, "0:8"),
        (("shard", "--model", "nowhere.gguf"), 5, "nowhere.gguf"),
        (("shard", "--model", __file__), 5, "GGUF"),
        (("drafter", "--model-draft", "nowhere.gguf"), 5, "nowhere.gguf"),
        (("shard", "--max-memory", "1kB"), 5, "--max-memory"),
        (("bootstrap", "--identity", __file__), 2, "identity file"),
        (("drafter", "--layers", "0:4"), 2, "--layers is for the role shard"),
        (("shard", "--api-port", "8080"), 2, "add --role gateway"),
        (("auto", "--api-port", "8080"), 2, "add --role auto --role gateway"),
    ],
)
def test_what_a_node_cannot_start_with(call: Call, words: tuple[str, ...], code: int, says: str) -> None:
    result = call(*NODE, *words)
    assert result.code == code
    assert says in result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.err


def test_a_wrong_swarm_key_gets_nothing(call: Call, daemon: Start) -> None:
    join = daemon("--swarm-key", "opensesame").ready()["join"]
    result = call(*NODE, "bootstrap", "--join", join, "--swarm-key", "wrong")
    assert (result.code, result.out) == (1, "")
    assert "swarm key" in result.err


def test_detach_returns_when_ready_and_stop_ends_it(call: Call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsdnode.cli.start.QUIET_S", 0.0)
    done = call(*NODE, "bootstrap", "--detach", "--data-dir", home / "d")
    try:
        assert done.code == 0, done.err
        assert done.err == f"not ready yet; what it does is in {home / 'd' / 'node.log'}, and Ctrl-C ends it\n"
        assert "dsdnode start --join dsd://127.0.0.1:" in done.out
        assert f"its log in {home / 'd' / 'node.log'}" in done.out
        assert f"`dsdnode stop --data-dir {home / 'd'}` ends it" in done.out
    finally:
        assert call("stop", "--data-dir", home / "d").code == 0


def test_a_detached_start_that_fails_says_why(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = ("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        words = ("--role", "bootstrap", "--data-dir", str(home / "d"), *listen)
        command = [sys.executable, "-m", "dsdnode.cli", "start", "--detach", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "is in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_detached_start_that_can_log_nothing_says_why(home: Path) -> None:
    """The disk is full: no key can be made, and nothing be said of it."""
    full = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    command = [
        *full,
        sys.executable,
        "-m",
        "dsdnode.cli",
        *NODE,
        "bootstrap",
        "--detach",
        "--data-dir",
        str(home / "d"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {home / 'd' / 'node.log'} cannot be written: File too large\n"


def test_a_bug_in_the_daemon_is_not_the_askers(call: Call, daemon: Start) -> None:
    alice = daemon(fake=True)
    alice.ready()
    result = call("models", "--data-dir", alice.data_dir)
    assert result.code == 1
    assert "Traceback" not in result.err


async def test_a_daemon_of_another_version_is_told_apart(home: Path) -> None:
    async def status() -> dict[str, str]:
        return {"mood": "fine"}

    async with control.serve(home, {"status": status}):
        with pytest.raises(DsdError, match="of another version"):
            await control.ask(home, "status", NodeStatus)


async def test_rubbish_on_the_control_socket_is_answered_in_words(home: Path) -> None:
    async def hello() -> str:
        return "hello"

    async with control.serve(home, {"hello": hello}):
        assert await control.ask(home, "hello", str) == "hello"
        with pytest.raises(DsdError, match="not a request"):
            await control.ask(home, "goodbye", str)
        for rubbish in (b"\xff\n", b"[]\n", b'{"command": {}}\n', b"x" * 100_000 + b"\n", b""):
            reader, writer = await asyncio.open_unix_connection(home / "control.sock")
            writer.write(rubbish)
            writer.write_eof()
            answer = await reader.read()
            assert not answer or json.loads(answer)["ok"] is False
            writer.close()
        assert await control.ask(home, "hello", str) == "hello"
    assert not (home / "control.sock").exists()


async def test_a_path_longer_than_a_sockets_address_will_do(home: Path) -> None:
    async def hello() -> str:
        return "hello"

    deep = home / ("long" * 30)
    deep.mkdir()
    with pytest.raises(NotRunning):
        await control.ask(deep / "nowhere", "hello", str)
    async with control.serve(deep, {"hello": hello}):
        assert await control.ask(deep, "hello", str) == "hello"
    with pytest.raises(NotRunning):
        await control.ask(deep, "hello", str)


def test_a_log_that_nobody_reads_holds_no_daemon_up(call: Call, daemon: Start) -> None:
    alice = daemon(fake=True)
    alice.ready()
    there = ("--data-dir", alice.data_dir)
    assert call("peers", *there).out == "no other peers\n"  # which makes it log megabytes
    assert call("status", *there).code == 0
    for number in range(100):
        assert f'"number": {number},' in alice.log_until("much to say")
    call("peers", *there)
    lost = re.search(r"(\d+) lines before this one are lost", alice.log_until("are lost: nobody took them"))
    assert lost and 0 < int(lost[1]) < 100
    assert '"number": 0,' in alice.log_until("much to say")


@pytest.mark.parametrize(("kind", "reason"), [("closed", "it is closed"), ("full", "No space"), ("left", "roken pipe")])
def test_a_daemon_serves_whatever_becomes_of_its_standard_output(
    call: Call, daemon: Start, kind: str, reason: str
) -> None:
    reading, left = os.pipe()
    os.close(reading)
    with open("/dev/full", "wb") as full:
        kinds: dict[str, dict[str, Any]] = {
            "closed": {"preexec_fn": lambda: os.close(1)},
            "full": {"stdout": full},
            "left": {"stdout": left},
        }
        alice = daemon(**kinds[kind])
    os.close(left)
    assert reason in alice.log_until("nobody was told that the node is ready")
    assert call("status", "--data-dir", alice.data_dir).code == 0
    assert alice.end() == 0


def test_a_data_dir_may_have_any_name(call: Call, daemon: Start) -> None:
    alice = daemon("--name", "alice", name=os.fsdecode(b"caf\xe9"))
    alice.ready()
    assert call("status", "--data-dir", alice.data_dir).code == 0
    assert call("stop", "--data-dir", alice.data_dir).out == "stopped\n"
    assert alice.process.wait(timeout=30) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
def test_a_node_takes_as_many_descriptors_as_it_may() -> None:
    program = (
        "import resource\n"
        "from dsdnode.cli.start import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 200))\n"
        "for _ in range(2):\n"
        "    raise_descriptor_limit()\n"
        "    print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["200"] * 4


@pytest.mark.parametrize(
    ("rests", "words"),
    [
        (
            "quarantined for 60 s: it died 3 times",
            "is quarantined for 60 s: it died 3 times; then it is tried, and offered",
        ),
        ("the model file was written to", "is not offered: the model file was written to\n"),
    ],
)
def test_what_status_says_of_an_engine_that_rests(
    rests: str, words: str, call: Call, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    engine = EngineStatus(
        "shard", "m", "", "", None, 4096, 1.0, 1.0, 0.0, num_deaths=7, last_death="SIGSEGV\x1b[2J", quarantined=rests
    )

    async def ask(*_: object) -> NodeStatus:
        return NodeStatus(1.0, "ab", "n", "a", "j", ("shard",), (0, 4), 0, {}, Sessions(), (engine,))

    monkeypatch.setattr(control, "ask", ask)
    said = call("status", "--data-dir", home).out
    assert "deaths of the shard's worker: 7; the last one: SIGSEGV" in said and "\x1b" not in said
    assert f"the shard's engine {words}" in said

"""Real daemons that are reached, joined and copied in ways that people do by accident."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Daemon, Result

pytestmark = pytest.mark.slow

Call = Callable[..., Result]
Start = Callable[..., Daemon]


@pytest.mark.parametrize(
    "advertise", ["tcp://127.0.0.1:2", "tcp://no-such-host.invalid:29170", "tcp://192.0.2.1:29170", "HAIRPIN"]
)
def test_alice_s_own_commands_reach_her_node_whatever_it_tells_others(
    call: Call, daemon: Start, advertise: str
) -> None:
    """Nobody hosts a model: that is what a client says once it is in."""
    if advertise == "HAIRPIN":  # the router answers, but not with her node
        advertise = daemon(name="router").ready()["address"]
    alice = daemon("--advertise", advertise)
    ready = alice.ready()
    assert ready["address"] == advertise and advertise.removeprefix("tcp://") in ready["join"]
    for command in (("run", "hello"), ("chat",)):
        result = call(*command, "--data-dir", alice.data_dir, stdin="hello\n")
        assert (result.code, "nobody in this swarm hosts a model yet" in result.err) == (4, True), result
    assert json.loads(call("status", "--json", "--data-dir", alice.data_dir).out)["join"] == ready["join"]


def test_one_configuration_for_all_may_name_the_first_node_itself(daemon: Start) -> None:
    first = daemon()
    join = first.ready()["join"]
    port = join.split("/")[2].rpartition(":")[2]
    assert first.end() == 0
    for words in ((), ("--listen", f"tcp://127.0.0.1:{port}")):  # an old port, and the present one
        again = daemon("--join", join, *words)
        assert again.ready()["event"] == "ready"
        again.log_until("the only peer to join is this node itself")
        assert again.end() == 0


def test_a_node_whose_folder_was_copied_does_not_start_beside_the_first(call: Call, daemon: Start, home: Path) -> None:
    bob = daemon(name="bob").ready()["join"]
    alice = daemon("--join", bob)
    join = alice.ready()["join"]
    for name, words in (("copy", ("--join", bob)), ("again", ("--join", join)), ("remembers", ())):
        shutil.copytree(alice.data_dir, home / name, ignore=shutil.ignore_patterns("*.sock", "lock"))
        copy = daemon(*words, name=name)
        _, err = copy.process.communicate(timeout=30)
        assert copy.process.returncode == 2, err
        assert "error: this node's identity is in use already" in err and "--identity" in err
    status = call("status", "--data-dir", alice.data_dir)
    assert "this identity is in use twice" in status.out
    assert json.loads(call("status", "--json", "--data-dir", alice.data_dir).out)["twin"].startswith("tcp://127.0.0.1:")
    alice.log_until("identity is in use twice")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "255.255.255.255:29170"), "not the address of one machine"),
        (("--listen", "[fe80::1%eth0]:29170"), "zone"),
        (("--advertise", "127.0.0.1:0"), "port 0"),
        (("--advertise", "0.0.0.0:29170"), "not the address of one machine"),
        (("--join", f"dsd://224.0.0.1:29170/{'3b' * 32}"), "join address"),
        (("--join", f"dsd://127.1:29170/{'3b' * 32}"), "join address"),
    ],
)
def test_addresses_that_are_none_are_refused_in_words(call: Call, words: tuple[str, ...], said: str) -> None:
    result = call("start", "--role", "bootstrap", *words)
    assert result.code == 2 and result.err.startswith("error: ") and said in result.err

"""What alice reads when she asks the doctor: in words, for a program, for others; and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsdnode.cli import doctor
from dsdnode.config import NodeConfig
from dsdnode.doctor import examine
from dsdnode.doctor.facts import Answer, Facts, Member, Tried
from tests.cli.conftest import JOIN, KEY, Daemon, Result
from tests.doctor.test_findings import WELL, replace

Call = Callable[..., Result]
TYPO = Member(JOIN, KEY, tried=(Tried("tcp://bob.example:29170", Answer.UNKNOWN_NAME),))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Facts]:
    """What is found out is scripted."""
    facts = [WELL]

    async def examine(config: NodeConfig) -> Facts:
        return facts[0]

    monkeypatch.setattr(doctor, "_examine", examine)
    return facts


def test_alice_is_told_the_worst_first_and_what_to_do_within_eighty_columns(call: Call, found: list[Facts]) -> None:
    found[0] = replace(WELL, members=(TYPO,))
    result = call("doctor", "--join", JOIN)
    first, *others = result.out.splitlines()
    assert result.code == 1 and first.startswith("broken  Member 3b6a27bcceb6") and "ten seconds at most" in result.err
    assert "Next: Look for a typing error in --join" in result.out and others[-1] == "1 thing is broken: see above."
    assert max(map(len, result.out.splitlines())) <= 80


def test_where_nothing_is_broken_it_ends_well(call: Call, found: list[Facts]) -> None:
    result = call("doctor")
    assert (result.code, result.out.splitlines()[-1]) == (0, "Nothing is broken.")


def test_programs_get_all_of_it_and_others_nothing_that_names_anybody(call: Call, found: list[Facts]) -> None:
    found[0] = replace(WELL, members=(TYPO,))
    told = json.loads(call("doctor", "--json").out)
    assert told["broken"] and told["findings"][0] == {
        "level": "broken",
        "kind": "join-name",
        "says": "Member 3b6a27bcceb6 cannot be joined. There is no host called bob.example.",
        "step": told["findings"][0]["step"],
    }
    blotted = call("doctor", "--json", "--blot")
    assert "bob.example" not in blotted.out and KEY[:12] not in blotted.out and "11.7.7.7" not in blotted.out


def test_a_data_dir_of_somebody_else_is_a_finding(call: Call, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each other command refuses to begin."""
    monkeypatch.setattr(examine, "ALONE_S", 0.0)
    (home / "shared").mkdir()
    os.chmod(home / "shared", 0o777)
    words: Sequence[Any] = ("--json", "--data-dir", home / "shared", "--listen", "tcp://127.0.0.1:0")
    told = json.loads(call("doctor", *words).out)
    assert told["findings"][0]["kind"] == "data-dir"
    assert call("status", "--data-dir", home / "shared").code == 2


@pytest.mark.slow
def test_a_node_that_runs_is_asked(call: Call, daemon: Callable[..., Daemon]) -> None:
    alice = daemon()
    address = alice.ready()["address"]
    told = json.loads(call("doctor", "--json", "--data-dir", alice.data_dir).out)
    said = {one["kind"]: one["says"] for one in told["findings"]}
    assert said["node"] == f"A node is running here, and listens at {address}."
    assert "Nobody to join" in said["join-none"] and "reach-unknown" in said

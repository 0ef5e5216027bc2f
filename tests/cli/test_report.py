"""What alice sees of a swarm in which some are there, some were, and some never were."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dsdnode.cli import start
from dsdnode.cli.render import wrapped
from dsdnode.cli.report import models_table, peers_table
from dsdnode.node.status import NodeStatus, Sessions
from dsdnode.swarm.info import Coverage, ModelInfo, PeerInfo

AT = ("tcp://192.0.2.9:29170",)


def test_the_living_are_told_from_ghosts() -> None:
    bob = PeerInfo("b" * 64, AT, ("shard",), (0, 4), "demo", 1, 1.5, 0.0)
    dave = PeerInfo("b" * 64, AT, ("shard",), (0, 4), "demo", 1, 61.5, 0.0, link="relayed")
    carol = PeerInfo("c" * 64, AT, ("shard",), (4, 8), "demo", 1, None, 73.4)
    mallory = PeerInfo("d" * 64, AT, ("shard",), (4, 8), "demo", 99, None, None)
    lines = peers_table([bob, dave, carol, mallory]).splitlines()
    way, seen = (lines[0].index(column) for column in ("WAY", "SEEN"))
    assert [line[seen:].split("  ")[0] for line in lines] == ["SEEN", "now", "now", "73 s ago", "never"]
    assert [line[way:seen].strip() for line in lines] == ["WAY", "-", "relayed", "-", "-"]


def test_names_are_shown_where_anybody_has_one() -> None:
    bob = PeerInfo("b" * 64, AT, ("shard",), (0, 4), "demo", 1, 1.5, 0.0, "bob\x1b[2J")
    carol = PeerInfo("c" * 64, AT, ("shard",), (4, 8), "demo", 1, 1.5, 0.0)
    assert "NAME" not in peers_table([carol])
    head, his, hers = (line.split() for line in peers_table([bob, carol]).splitlines())
    assert head[:2] == ["PEER", "NAME"]
    assert (his[1], hers[1]) == ("bob\N{REPLACEMENT CHARACTER}[2J", "-")


def test_what_is_complete_is_told_from_what_was() -> None:
    both = (Coverage((0, 4), 2, 2), Coverage((4, 8), 3, 1))
    whole = ModelInfo("whole", "a" * 64, 8, both, 1, True, "", True, {"punched": 1, "relayed": 2})
    gone = (Coverage((0, 4), 2, 2), Coverage((4, 8), 1, 0))
    was = ModelInfo("was", "b" * 64, 8, gone, 1, False, "layers 4:8 of was are hosted by nobody", True)
    never = ModelInfo("never", "c" * 64, 8, gone[:1], 0, False, "layers 4:8 of never are hosted by nobody", False)
    _, *rows = models_table([whole, was, never]).splitlines()
    assert [row.split("  ")[-1].strip() for row in rows[:3]] == ["yes", "not now", "no"]
    assert "0:4 x2, 4:8 x3 (1)" in rows[0] and "punched x1, relayed x2" in rows[0]
    assert "0:4 x2, 4:8 x1 (0)" in rows[1]
    assert rows[3:] == [was.missing, never.missing]


# --- whether others reach her


class Alices:
    """A node that others do not reach, until they do; its discovery, and its checks."""

    def __init__(self) -> None:
        self.discovery = self.checks = self
        self.is_usable, self.asked, self.reached = False, asyncio.Semaphore(0), asyncio.Event()

    async def until_usable(self) -> None:
        self.asked.release()
        await self.reached.wait()
        self.is_usable = True

    def status(self) -> NodeStatus:
        reach = "others reach this node: tcp://11.1.1.1:40001" if self.is_usable else "others do not reach this node"
        return NodeStatus(7.04, "ab", "", "", "", (), None, 0, {}, Sessions(), (), reach=reach)


async def test_start_says_how_alice_is_reached_once_that_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    node = Alices()
    telling = asyncio.create_task(start._tell_reach(cast(Any, node)))
    await node.asked.acquire()
    assert capsys.readouterr().out == ""
    node.reached.set()
    await telling
    assert capsys.readouterr().out == "after 7.0 s: others reach this node: tcp://11.1.1.1:40001\n"


async def test_where_that_takes_long_it_says_so_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "REACHED_S", 0.0)
    node = Alices()
    telling = asyncio.create_task(start._tell_reach(cast(Any, node)))
    await node.asked.acquire()
    await node.asked.acquire()
    assert capsys.readouterr().out == "after 7.0 s: others do not reach this node\n"
    node.reached.set()
    await telling
    assert capsys.readouterr().out == "after 7.0 s: others reach this node: tcp://11.1.1.1:40001\n"


def test_prose_is_wrapped_for_a_terminal_and_addresses_stay_whole() -> None:
    address = "tcp://[2a11:1234:5678:9abc:def0:1234:5678:9abc]:29170"
    lines = wrapped(f"reach        others do not reach this node: nobody answered them at {address}, {address}", 13)
    first, *rest = lines.splitlines()
    assert max(map(len, [first, *rest])) <= 80 and lines.count(address) == 2
    assert first.startswith("reach        others") and all(line.startswith(13 * " " + "tcp") for line in rest[-2:])

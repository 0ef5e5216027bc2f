"""What alice sees of a swarm in which some are there, some were, and some never were."""

from __future__ import annotations

from dsdnode.cli.report import models_table, peers_table
from dsdnode.swarm.info import Coverage, ModelInfo, PeerInfo

AT = ("tcp://192.0.2.9:29170",)


def test_the_living_are_told_from_ghosts() -> None:
    bob = PeerInfo("b" * 64, AT, ("shard",), (0, 4), "demo", 1, 1.5, 0.0)
    dave = PeerInfo("b" * 64, AT, ("shard",), (0, 4), "demo", 1, 61.5, 0.0, "relayed")
    carol = PeerInfo("c" * 64, AT, ("shard",), (4, 8), "demo", 1, None, 73.4)
    mallory = PeerInfo("d" * 64, AT, ("shard",), (4, 8), "demo", 99, None, None)
    lines = peers_table([bob, dave, carol, mallory]).splitlines()
    seen = [line.removesuffix(AT[0]).removesuffix("ADDRESSES").rstrip().rpartition("  ")[2] for line in lines]
    assert seen == ["SEEN", "now", "now, relayed", "73 s ago", "never"]


def test_what_is_complete_is_told_from_what_was() -> None:
    both = (Coverage((0, 4), 2, 2), Coverage((4, 8), 3, 1))
    whole = ModelInfo("whole", "a" * 64, 8, both, 1, True, "", True)
    gone = (Coverage((0, 4), 2, 2), Coverage((4, 8), 1, 0))
    was = ModelInfo("was", "b" * 64, 8, gone, 1, False, "layers 4:8 of was are hosted by nobody", True)
    never = ModelInfo("never", "c" * 64, 8, gone[:1], 0, False, "layers 4:8 of never are hosted by nobody", False)
    _, *rows = models_table([whole, was, never]).splitlines()
    assert [row.split("  ")[-1].strip() for row in rows[:3]] == ["yes", "not now", "no"]
    assert "0:4 x2, 4:8 x3 (1)" in rows[0]
    assert "0:4 x2, 4:8 x1 (0)" in rows[1]
    assert rows[3:] == [was.missing, never.missing]

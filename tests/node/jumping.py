"""The simulator's loop, under the name that tests of the node know it by."""

from __future__ import annotations

from dsdnode.sim.loop import JumpingLoop, run

__all__ = ["JumpingLoop", "run"]

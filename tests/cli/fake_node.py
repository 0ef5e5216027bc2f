"""`python -m tests.cli.fake_node start ...`: the daemon around a node that logs much and never finishes its replies."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import structlog

from dsdnode.cli.main import main
from dsdnode.config import NodeConfig
from dsdnode.node import node
from dsdnode.node.status import Inviting, NodeStatus, Sessions
from dsdnode.swarm.info import ModelInfo, PeerInfo

NUM_LINES, LINE_CHARACTERS = 200, 10_000
"""Logged whenever somebody asks for the peers: more than waits for a reader."""


class BusyNode:
    """Ready at once; its drain takes for ever."""

    peer_id = bytes(32)
    address = "tcp://127.0.0.1:1"
    join = join_here = "dsd://127.0.0.1:1/" + 64 * "0"
    roles = ("drafter", "shard")
    layers = (0, 4)
    discovery = SimpleNamespace(checks=SimpleNamespace())

    @classmethod
    async def start(cls, config: NodeConfig, user: object = None) -> BusyNode:
        return cls()

    def status(self) -> NodeStatus:
        return NodeStatus(
            1.0, self.peer_id.hex(), "", self.address, self.join, self.roles, self.layers, 0, {}, Sessions(), ()
        )

    async def peers(self) -> list[PeerInfo]:
        for number in range(NUM_LINES):
            structlog.get_logger().warning(f"much to say {number % 10}", number=number, words="x" * LINE_CHARACTERS)
        return []

    async def models(self) -> list[ModelInfo]:
        raise ValueError("a bug")

    async def reached_elsewhere(self, told: str) -> str:
        await asyncio.Event().wait()
        return told

    async def inviting(self) -> Inviting:
        return Inviting((self.join,), (), False, "nobody was there to try")

    async def drain(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


if __name__ == "__main__":
    node.Node = BusyNode  # type: ignore[misc, assignment]
    main()

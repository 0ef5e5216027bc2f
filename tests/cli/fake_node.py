"""`python -m tests.cli.fake_node start ...`: the daemon around a node that never finishes its replies."""

from __future__ import annotations

import asyncio
from typing import Any

from dsdnode.cli.main import main
from dsdnode.config import NodeConfig
from dsdnode.node import node


class BusyNode:
    """Ready at once; its drain takes for ever."""

    peer_id = bytes(32)
    address = "tcp://127.0.0.1:1"
    join = "dsd://127.0.0.1:1/" + 64 * "0"
    roles = ("drafter", "shard")
    layers = (0, 4)

    @classmethod
    async def start(cls, config: NodeConfig) -> BusyNode:
        return cls()

    def status(self) -> dict[str, Any]:
        return {"roles": list(self.roles), "engines": [], "sent": {}}

    async def peers(self) -> list[dict[str, Any]]:
        return []

    async def models(self) -> list[dict[str, Any]]:
        raise ValueError("a bug")

    async def drain(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


if __name__ == "__main__":
    node.Node = BusyNode  # type: ignore[misc, assignment]
    main()

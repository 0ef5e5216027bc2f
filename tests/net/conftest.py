from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from secrets import token_hex
from typing import Any

import pytest

from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport

SWARM_KEYS = (token_hex(16),)
"""Of this run alone: whoever listens on all addresses is heard by other runs on this machine, and called."""
Start = Callable[..., Awaitable[Rpc]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(b"a")`: a peer over real sockets, on loopback and any free port unless told otherwise."""
    started: list[Rpc] = []

    async def start_one(name: bytes, listen: str | None = "tcp://127.0.0.1:0", **settings: Any) -> Rpc:
        rpc = Rpc(await ZmqTransport.open(Identity(name * 32), listen=listen, **settings))
        started.append(rpc)
        rpc.start()
        return rpc

    yield start_one
    for rpc in started:
        await rpc.close()

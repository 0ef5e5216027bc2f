"""Programs of a lab that are no node: `python -m tests.nat.helpers WHAT ...` says "ready", and goes on until its end.

router HOST PUBLIC_IP    a router of a house that gives ports (PCP, NAT-PMP), at this address of its own
names                    a name server that knows nobody
listen PORT              somebody else's program, at a port
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine

from tests.net.routers import FakeRouter, RouterSocket

NAME_PORT = 53
_NO_SUCH_NAME = 0x8183
"""An answer, and what it says."""


async def router(host: str, public_ip: str) -> None:
    await RouterSocket.open(FakeRouter(public_ip=public_ip), (host, 5351))
    await _ready()


async def names() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(_Names, local_addr=("0.0.0.0", NAME_PORT))
    await _ready()


async def listen(port: str) -> None:
    with socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True):
        await _ready()


class _Names(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data[:2] + _NO_SUCH_NAME.to_bytes(2, "big") + data[4:6] + bytes(6) + data[12:], addr)


async def _ready() -> None:
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _WHAT: dict[str, Callable[..., Coroutine[None, None, None]]] = {"router": router, "names": names, "listen": listen}
    asyncio.run(_WHAT[sys.argv[1]](*sys.argv[2:]))

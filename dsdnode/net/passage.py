"""How libzmq takes over a connection that it has not made: it is joined to one that libzmq makes to this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from dsdnode.net.door import plain_host
from dsdnode.net.port import ATTEMPT_TIMEOUT_S
from dsdnode.net.relay.calls import Splice, held


class Passage:
    """From a local `endpoint`, which one caller gets through, to wherever a socket of ours is connected to.

    When either end hangs up, or nobody comes in time, it is over. (Another process of this machine may come first: it
    gets what it would get by calling there itself, and our own call fails.)
    """

    def __init__(self, far: socket.socket) -> None:
        """`far` belongs to the passage from now on. Raises OSError."""
        self.local = plain_host(far.getsockname()[0])
        """The IP address of ours that it leaves from."""
        self._loop = asyncio.get_running_loop()
        self._door = socket.create_server(("127.0.0.1", 0), backlog=1)
        self._door.setblocking(False)
        self.endpoint = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self._far = far
        self._task = self._loop.create_task(self._carry())
        self._task.add_done_callback(self._over)

    def close(self) -> None:
        self._task.cancel()

    async def _carry(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                near, _ = await self._loop.sock_accept(self._door)
            self._door.close()
            splice = Splice(await held(self._far), await held(near))
            try:
                await splice.over
            finally:
                splice.close()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._door.close()
        self._far.close()

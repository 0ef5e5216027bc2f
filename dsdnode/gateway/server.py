"""The gateway on a port of this machine, from its first request to its drain."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dsdnode.errors import BadInput
from dsdnode.gateway.app import make_app
from dsdnode.gateway.doors import Rules, hostname, is_loopback
from dsdnode.gateway.map import Here
from dsdnode.gateway.port import Swarm

DRAIN_S = 30
"""Replies in flight may take so long to end."""
END_S = 2.0
"""And then so long to say that they do not."""
MAX_CONNECTIONS = 1000
"""One more is told 503: each may hold a reply, and takes a descriptor."""
HEAD_S = 20.0
"""So long a connection may take to say what it asks: who says nothing takes a place of those who would."""
READ_S = 120.0
"""So long nothing may be taken of what was written: a reply that nobody reads keeps its place in the swarm."""
MAX_AHEAD_BYTES = 64 << 10
"""Read behind a request that is being answered: whoever hangs up is heard only as long as we read."""
KEEP_ALIVE_S = 75
"""Longer than clients keep connections that are not in use: of two that close at once one sees an error."""
MAX_WAITING = 256
"""Connections that the system takes for us before we do."""


def bind(host: str, port: int) -> socket.socket:
    """Raises BadInput."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), port))
        bound.listen(MAX_WAITING)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot listen at {host}:{port}: {why}; --api-port chooses another port") from None
    return bound


def check_exposed(host: str, key: str) -> None:
    """Raises BadInput."""
    if not key and not is_loopback(hostname(host if ":" not in host else f"[{host.strip('[]')}]")):
        raise BadInput(f"at {host} anybody who reaches this machine could ask: --api-key @FILE says who may")


class Connection(H11Protocol):
    """Ends when its request's head does not come in time, also where it comes byte by byte, and when nobody reads."""

    _overdue: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The system holds enough for who reads: so whatever waits here stops the reply, and is seen, after a close too.
        transport.set_write_buffer_limits(high=0)
        self._expect()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(0)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._await_nobody()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) < MAX_AHEAD_BYTES:
            self.flow.resume_reading()
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_nothing()
        elif self._overdue is None:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._await_nobody()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing is wrong: Java's clients offer HTTP/2 with each request, and are answered in HTTP/1.1."""

    def _expect(self) -> None:
        self._overdue = self.loop.call_later(HEAD_S, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _await_reader(self, before: int) -> None:
        """`before`: bytes that were not taken when it was looked last."""
        left = self.transport.get_write_buffer_size()
        if before and left >= before:
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(READ_S, self._await_reader, left)

    def _await_nobody(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class Server(uvicorn.Server):
    """Signals are its caller's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Gateway:
    """Listens from the beginning, at `url`; `await gateway.run(swarm)` answers until `stop`."""

    def __init__(self, host: str, port: int, rules: Rules) -> None:
        """Raises BadInput."""
        check_exposed(host, rules.key)
        self._rules = rules
        self._socket = bind(host, port)
        self._server: Server | None = None
        self._stopped = False

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def has_key(self) -> bool:
        return bool(self._rules.key)

    async def run(self, swarm: Swarm, here: Here | None = None) -> None:
        """`here`: tells of the node beside it."""
        config = uvicorn.Config(
            make_app(swarm, self._rules, here),
            http=Connection,
            timeout_keep_alive=KEEP_ALIVE_S,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            backlog=MAX_WAITING,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._server = Server(config)
        self._server.should_exit = self._stopped
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._socket.close()
            answering = self._end(self._server)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await asyncio.gather(*answering, return_exceptions=True)

    def _end(self, server: Server) -> list[asyncio.Task[None]]:
        """Those that answer yet: they tell their clients, and the swarm, which is there until `run` returns."""
        answering = list(server.server_state.tasks)
        for task in answering:
            if not task.cancelling():
                task.cancel()
        return answering

    def stop(self) -> None:
        """What was asked is answered. Asked twice: no more."""
        if self._server is not None:
            self._server.force_exit = self._stopped
            self._server.should_exit = True
            if self._stopped:  # from Python 3.12 on it waits for their connections all the same
                self._end(self._server)
        self._stopped = True

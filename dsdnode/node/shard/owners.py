"""Whether the owners of sessions live: one that is gone would hold its places until its leases are over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from dsdnode.errors import DsdError
from dsdnode.identity import short_id
from dsdnode.net.port import Transport
from dsdnode.swarm.pings import Pings

STRANDED_S = 1.0
"""So often a stage that is in no network looks whether it is in one again."""

log = structlog.get_logger(__name__)


class Owners:
    """`gone(owner)` is called for one that does not answer."""

    def __init__(self, transport: Transport, pings: Pings, gone: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._pings = pings
        self._gone = gone
        self._checks: dict[bytes, asyncio.Task[None]] = {}

    async def close(self) -> None:
        for check in self._checks.values():
            check.cancel()
        await asyncio.gather(*self._checks.values(), return_exceptions=True)

    def check(self, owner: bytes) -> None:
        """Its link was lost."""
        if owner not in self._checks:
            self._checks[owner] = asyncio.create_task(self._check(owner), name="check an owner")

    async def _check(self, owner: bytes) -> None:
        try:
            while not await self._is_told(owner):  # noqa: ASYNC110 (nobody tells of that)
                await asyncio.sleep(STRANDED_S)
        finally:
            del self._checks[owner]

    async def _is_told(self, owner: bytes) -> bool:
        """Is it known whether it lives? Not while we are in no network ourselves: the leases run on."""
        try:
            await self._pings.ping(owner)
        except DsdError as error:
            if self._transport.is_stranded:
                return False
            log.info("owner lost", peer=short_id(owner), reason=str(error))
            self._gone(owner)
        return True

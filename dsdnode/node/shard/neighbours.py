"""What a stage knows of the other stages that an Open names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dsdnode.identity import peer_id
from dsdnode.net.port import Transport
from dsdnode.wire.messages import Refused, StagePlace

LOOK_AGAIN_S = 2.0
"""Stages that an Open names and that are unknown here are looked for no more often."""


class Neighbours:
    """An Open decides whom we call, never where: that we have from themselves, and from their records."""

    def __init__(self, transport: Transport, look: Callable[[], Awaitable[object]] | None) -> None:
        """`look` finds out who else hosts layers of the model; the transport then knows where they are."""
        self._transport = transport
        self._look = look
        self._looking = asyncio.Lock()
        self._looked_s = float("-inf")

    async def refusal(self, index: int, stages: Sequence[StagePlace]) -> Refused | None:
        """Why stage `index`, which is we, cannot serve beside these others; None: it can call the next one."""
        peers = [peer_id(stage.contact.public_key) for stage in stages]
        if not all(map(self._is_known, (*peers[:index], *peers[index + 1 :]))):
            await self._look_around()
        if all(map(self._is_known, peers[index + 1 : index + 2])):
            return None
        return Refused("nobody here has heard of the next stage", retry=True)

    def _is_known(self, peer: bytes) -> bool:
        return self._transport.contact_of(peer) is not None

    async def _look_around(self) -> None:
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._look is not None and now >= self._looked_s + LOOK_AGAIN_S:
                self._looked_s = now
                await self._look()

"""Gives the file that this shard's model is read with to whoever owns its replies, in pieces, so much an hour."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from cachetools import LRUCache

from dsdnode.net.rpc import Response, Rpc
from dsdnode.node.admission import NOT_YOU
from dsdnode.wire.messages import TEXT_PIECE_BYTES, FindText, Refused, TextPiece

HOUR_S = 3600.0
MAX_FILES_AN_HOUR = 64
"""For each network; a drafter keeps what it got."""
MAX_NETWORKS = 4096


class TextGiver:
    """`read` gives the file; it is read when somebody asks, and kept as it travels. `serves`: may a peer have it?"""

    def __init__(
        self,
        rpc: Rpc,
        text_hash: str,
        read: Callable[[], Awaitable[bytes]],
        serves: Callable[[bytes], bool] = lambda peer: True,
    ) -> None:
        self._rpc = rpc
        self._hash = text_hash
        self._read = read
        self._serves = serves
        self._pieces: list[bytes] = []
        self._num_bytes = 0
        self._reading = asyncio.Lock()
        self._given: LRUCache[str, tuple[float, int]] = LRUCache(MAX_NETWORKS)
        """Since when, and how many pieces, by network."""
        rpc.on_request(FindText, self._find)

    async def _find(self, peer: bytes, message: FindText, buffers: list[bytes]) -> Response:
        if not self._serves(peer):
            return NOT_YOU, []
        if message.text_hash != self._hash:
            return Refused("the model that is hosted here is read with another text file"), []
        async with self._reading:
            if not self._pieces:
                text = await self._read()
                self._num_bytes = len(text)
                self._pieces = await asyncio.to_thread(_packed, text)
        if message.piece >= len(self._pieces):
            return Refused(f"the text file has {len(self._pieces)} pieces"), []
        if not self._may_have(self._rpc.account_of(peer).network):
            return Refused("your network has had this file often enough for an hour", retry=True), []
        return TextPiece(self._num_bytes), [self._pieces[message.piece]]

    def _may_have(self, network: str) -> bool:
        now = asyncio.get_running_loop().time()
        since_s, num = self._given.get(network, (now, 0))
        if now - since_s > HOUR_S:
            since_s, num = now, 0
        if num >= MAX_FILES_AN_HOUR * len(self._pieces):
            return False
        self._given[network] = since_s, num + 1
        return True


def _packed(text: bytes) -> list[bytes]:
    return [zlib.compress(text[at : at + TEXT_PIECE_BYTES]) for at in range(0, len(text), TEXT_PIECE_BYTES)]

"""So many bytes a second, and no more: of all that is fetched, or given to others, together."""

from __future__ import annotations

import asyncio
from math import inf

SLACK_S = 0.25


class Pace:
    """`bytes_per_s`: infinite, where nothing is said. Who takes waits until what was taken before has had its time."""

    def __init__(self, bytes_per_s: float = inf) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_s = float("-inf")

    async def take(self, num_bytes: int) -> None:
        if self._bytes_per_s == inf:
            return
        now = asyncio.get_running_loop().time()
        self._free_s = max(self._free_s, now - SLACK_S) + num_bytes / self._bytes_per_s
        if self._free_s > now:
            await asyncio.sleep(self._free_s - now)

"""Who gives bytes of a model that is in files elsewhere: its source, and what we have read of it before."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from urllib.parse import urlsplit

from dsdnode.weights.fetch import PEER
from dsdnode.weights.plan import file_starts
from dsdnode.weights.sources import Remote
from dsdnode.weights.web import Denied, SourceFailed, Web

NUM_LANES = 4
"""Requests at once: enough for one line, and no more than a hub likes."""


class FromHub:
    """All of it; what came already when the header was looked for (`beginnings` of its files) is not fetched again.
    `read` raises SourceFailed, SourceChanged.
    """

    num_lanes = NUM_LANES
    is_peer = False

    def __init__(self, web: Web, remote: Remote, beginnings: Sequence[bytes]) -> None:
        self.name = remote.host
        self._web = web
        self._files = remote.files
        self._beginnings = beginnings
        self._starts = file_starts([file.size_bytes for file in remote.files])

    def forget(self) -> None:
        """What came before is asked for again, too."""
        self._beginnings = [b""] * len(self._files)

    def has(self, start: int, end: int) -> bool:
        return True

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        while start < end:
            index = bisect_right(self._starts, start) - 1
            file, begins = self._files[index], self._starts[index]
            stop = min(end, self._starts[index + 1])
            known = self._beginnings[index][start - begins : stop - begins]
            if known:
                yield known
                start += len(known)
                continue
            try:
                async with aclosing(self._web.read(file, start - begins, stop - begins)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except Denied as denied:
                host = urlsplit(file.url).hostname
                raise SourceFailed(f"{host} does not give {file.name} any more: it says {denied}") from None
            start = stop


class FromHeaders:
    """What came when the header was looked for, and is behind it: from the source, or from members."""

    num_lanes = 1

    def __init__(self, remote: Remote, beginnings: Sequence[bytes], is_peer: bool) -> None:
        self.name, self.is_peer = f"{PEER if is_peer else f'{remote.host}, '}read before", is_peer
        self._beginnings = beginnings
        self._starts = file_starts([file.size_bytes for file in remote.files])

    def _place(self, start: int) -> tuple[int, int]:
        index = bisect_right(self._starts, start) - 1
        return index, start - self._starts[index]

    def has(self, start: int, end: int) -> bool:
        index, at = self._place(start)
        return at + end - start <= len(self._beginnings[index])

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        while start < end:
            index, at = self._place(start)
            part = self._beginnings[index][at : at + end - start]
            yield part
            start += len(part)

"""Models that are fetched before a node can serve: from where, and who is asked before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from math import inf
from pathlib import Path
from typing import Protocol

import structlog

from dsdnode.config import NodeConfig
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.net.rpc import Rpc
from dsdnode.node.proposal import Proposal
from dsdnode.node.targets import Target
from dsdnode.placement.ranges import Range
from dsdnode.weights.from_members import prepare
from dsdnode.weights.members import Member, who_has
from dsdnode.weights.pull import Progress, Pull, Quote, pulling
from dsdnode.weights.store import Store, size

log = structlog.get_logger(__name__)


class User(Progress, Protocol):
    """Whom this machine belongs to."""

    @property
    def has_agreed(self) -> bool:
        """To whatever is fetched later, too."""

    async def agree(self, proposal: Proposal, quotes: Sequence[Quote]) -> None:
        """Hears what is to be done, and fetched. Raises DsdError where nothing is to be done; what is cancelled here
        leaves nothing."""

    def tell(self, words: str) -> None: ...


class Nobody:
    """There is no one to ask: what is not here is not fetched."""

    has_agreed = False

    async def agree(self, proposal: Proposal, quotes: Sequence[Quote]) -> None:
        num_bytes = sum(quote.fetch_bytes for quote in quotes)
        if num_bytes:
            raise BadInput(f"{size(num_bytes)} would be fetched, and nobody can be asked here: say so with --yes")

    def tell(self, words: str) -> None:
        log.info(words)

    def begin(self, num_bytes: int, num_done_bytes: int) -> None: ...

    def step(self, source: str, num_bytes: int) -> None: ...


class _Counted:
    """Passes on how far it is, and remembers who gave what."""

    def __init__(self, progress: Progress) -> None:
        self.by_source: dict[str, int] = {}
        self._progress = progress

    def begin(self, num_bytes: int, num_done_bytes: int) -> None:
        self._progress.begin(num_bytes, num_done_bytes)

    def step(self, source: str, num_bytes: int) -> None:
        self.by_source[source] = self.by_source.get(source, 0) + num_bytes
        self._progress.step(source, num_bytes)


class Hubs:
    """A context: what was looked at in it can be fetched while it lasts, and leaves nothing behind otherwise."""

    def __init__(self, config: NodeConfig, user: User, rpc: Rpc | None) -> None:
        """`rpc`: to members, if there are any."""
        self._store = Store(config.data_dir, config.max_disk_bytes)
        limit = config.max_download_bytes_per_s
        self._bytes_per_s = inf if limit is None else limit
        self._user = user
        self._rpc = rpc
        self._peers: dict[str, Sequence[bytes]] = {}
        """That host some of a model, by its weights hash."""
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Hubs:
        return self

    async def __aexit__(self, *ended: object) -> None:
        await self._open.aclose()

    async def fetch(self, target: Target, layers: Range | None) -> Path:
        """These layers of it, or all, if they are not in the store yet; where they are then. Raises DsdError."""
        assert target.pull is not None, "a target is here, or at a source"
        part = target.pull.part(layers)
        if (known := part.known) is not None:
            return self._store.path_of(known)
        counted = _Counted(self._user)
        members = await self._members(part.manifest.weights_hash)
        path = await part.run(self._user.tell, counted, self._rpc, members)
        log.info("fetched", path=str(path), bytes_by_source=counted.by_source)
        return path

    async def _members(self, weights_hash: str) -> list[Member]:
        peers = self._peers.get(weights_hash, ())
        return await who_has(self._rpc, peers, weights_hash) if self._rpc is not None and peers else []

    async def among(self, peers: Sequence[bytes], weights_hash: str) -> Pull:
        self._peers[weights_hash] = peers
        members = await self._members(weights_hash)
        if self._rpc is None or not members:
            raise ModelRefused("no member gives bytes of it")
        tell = self._user.tell
        return await prepare(self._store, self._rpc, members, None, weights_hash, tell, self._bytes_per_s)

    async def look(self, source: str, weights_hash: str, peers: Sequence[bytes] = ()) -> Pull:
        if peers:
            self._peers[weights_hash] = peers
        opened = pulling(
            self._store,
            source,
            None,
            self._user.tell,
            weights_hash=weights_hash,
            bytes_per_s=self._bytes_per_s,
            keep=False,
        )
        return await self._open.enter_async_context(opened)

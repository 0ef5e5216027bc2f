"""Which models this node gives bytes of to other members: those of its store, and its target if that is whole."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path

import msgspec
import structlog

from dsdnode.config import NodeConfig
from dsdnode.engine.gguf import state_of
from dsdnode.errors import BadInput, DsdError, ModelRefused
from dsdnode.files import replacing
from dsdnode.identity import Identity
from dsdnode.net.rpc import Rpc
from dsdnode.node.admission import Admission
from dsdnode.weights.holdings import MAX_KEPT_BYTES, Holding, Tensors, hashed, holding, kept
from dsdnode.weights.sharing import Sharing
from dsdnode.weights.store import TENSORS, Entry, Store

LOOK_AGAIN_S = 10.0
"""Strangers' questions have us look into the store no more often: something may have been pulled meanwhile."""

log = structlog.get_logger(__name__)


class Giving:
    def __init__(self, config: NodeConfig, identity: Identity, rpc: Rpc, admission: Admission) -> None:
        self._rate = config.models_bytes_per_s
        self._sharing = Sharing(rpc, self.find, self._rate, admission.refusal)
        self._learning: asyncio.Task[None] | None = None
        self._store = Store(config.data_dir)
        self._target = config.model
        self._cache_folder = config.data_dir / "cache"
        self._identity = identity
        self._stored: dict[str, Holding] = {}
        """By the name in the store."""
        self._own: Holding | None = None
        """The target."""
        self._holdings: dict[str, Holding] = {}
        """The most of each model, by weights hash."""
        self._looked_s = float("-inf")
        self._read: dict[str, int] = {}
        """When what is said of a folder of the store was written that was read last: it may be long."""

    def start(self) -> None:
        if self._rate:
            self._sharing.start()
            self._learning = asyncio.create_task(self._learn(), name="hash the target")

    async def close(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        await self._sharing.close()

    async def _learn(self) -> None:
        """Hash the target, which may take a minute or more; the store's models were hashed when they came."""
        if self._target is None or self._target.is_relative_to(self._store.folder):
            return
        try:
            tensors = await self._of_target(self._target)
            self._own = holding(tensors, self._target.parent, self._identity)
            self._looked_s = float("-inf")
        except (DsdError, OSError) as error:
            log.info("the target's file is not given to other members", reason=str(error))

    async def _of_target(self, path: Path) -> Tensors:
        """Raises ModelRefused."""
        state = state_of(path)
        entry = self._cache_folder / f"{hashlib.sha256(os.fsencode(state)).hexdigest()}.tensors"
        try:
            return msgspec.json.decode(entry.read_bytes()[:MAX_KEPT_BYTES], type=Tensors)
        except (OSError, msgspec.DecodeError):
            tensors = await hashed(path)
        if state_of(path) != state:
            raise ModelRefused(f"{path} was written to while it was hashed")
        with contextlib.suppress(OSError, BadInput, UnicodeEncodeError):  # next time it is hashed again
            await asyncio.to_thread(entry.parent.mkdir, parents=True, exist_ok=True)
            with replacing(entry) as file:
                file.write(msgspec.json.encode(tensors))
        return tensors

    def find(self, weights_hash: str) -> Holding | None:
        """What is given of this model."""
        now = asyncio.get_running_loop().time()
        if now > self._looked_s + LOOK_AGAIN_S:
            self._looked_s = now
            self._look()
        return self._holdings.get(weights_hash)

    def _look(self) -> None:
        """Of a model that is here in several ways, the most; of what has gone or changed, nothing any more."""
        here = {entry.name: entry for entry in self._store.entries()}
        self._stored = {name: one for name, one in self._stored.items() if name in here and one.is_as_it_was}
        if self._own is not None and not self._own.is_as_it_was:
            log.info("the target's file has changed since it was hashed: it is given to nobody any more")
            self._own = None
        for entry in here.values():
            self._read_again(entry)
        self._read = {name: written_ns for name, written_ns in self._read.items() if name in here}
        self._holdings = {}
        for one in [*self._stored.values(), *([] if self._own is None else [self._own])]:
            known = self._holdings.get(one.manifest.weights_hash)
            if known is None or len(known.places) < len(one.places):
                self._holdings[one.manifest.weights_hash] = one

    def _read_again(self, entry: Entry) -> None:
        """What is said of a model of the store, if that was written meanwhile."""
        folder, written_ns = self._store.folder / entry.name, 0
        with contextlib.suppress(OSError):
            written_ns = (folder / TENSORS).stat().st_mtime_ns
            if self._read.get(entry.name) == written_ns:
                return
            self._read[entry.name] = written_ns
        self._stored.pop(entry.name, None)
        tensors = kept(folder)
        if tensors is None or tensors.weights_hash != entry.weights_hash:
            return
        try:
            one = holding(tensors, folder, self._identity)
            if any(changed_ns > written_ns for _, _, changed_ns in one.states.values()):
                raise ModelRefused("it was written to since it was fetched")
            self._stored[entry.name] = one
        except DsdError as error:
            log.info("a model of the store is not given to other members", name=entry.name, reason=str(error))

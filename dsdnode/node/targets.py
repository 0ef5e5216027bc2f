"""Which models a start is about: what the user named, or what the swarm serves and can be had here.

A record may say where its provider has a model's file from. That leads nobody anywhere by itself: what is found there
is the model that is meant, by the hash of its file and by all else that its id is made of, or nothing is taken there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from dsdnode.config import AUTO, NodeConfig
from dsdnode.engine.gguf import Manifest, fits_header, read_manifest, shard_bytes
from dsdnode.engine.gguf_header import Header
from dsdnode.engine.gguf_parts import read_model, size_bytes_of
from dsdnode.errors import DsdError, ModelRefused
from dsdnode.models import demo_draft, demo_target
from dsdnode.node.engines import claim_of, needs_of
from dsdnode.node.machine import Needs
from dsdnode.placement.layers import Fits
from dsdnode.placement.parts import ENOUGH_DRAFTERS, still_serves
from dsdnode.placement.ranges import Range
from dsdnode.swarm.catalogue import models_of
from dsdnode.weights.pull import Pull
from dsdnode.weights.store import Store
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import NO_HASH, ProviderRecord

log = structlog.get_logger(__name__)

MAX_SOURCES = 4
"""Of one model that are looked at: who hosts it may name what he likes."""
MAX_MODELS = 8
"""Of a swarm that are looked at, those that the most host first."""


class Sources(Protocol):
    """Where models that are not here are fetched from."""

    async def look(self, source: str, weights_hash: str, peers: Sequence[bytes] = ()) -> Pull:
        """What is there; nothing is fetched but its header. `weights_hash`: what it must be, or ""; `peers`: members
        that may give some of it, too. Raises DsdError."""

    async def among(self, peers: Sequence[bytes], weights_hash: str) -> Pull:
        """What these members give of a model that no source is known of. Raises DsdError."""


@dataclass(frozen=True)
class Target:
    """A model, or a shard of one, that is on this disk (`path`), or would be fetched (`pull`)."""

    manifest: Manifest
    header: Header
    size_bytes: int
    path: Path | None = None
    pull: Pull | None = None

    @classmethod
    async def read(cls, config: NodeConfig, path: Path) -> Target:
        """Raises ModelRefused."""

        def read() -> Target:
            return cls(read_manifest(path, config.data_dir / "cache"), read_model(path), size_bytes_of(path), path)

        return await asyncio.to_thread(read)

    @classmethod
    def at(cls, pull: Pull) -> Target:
        whole = pull.part(None)
        return cls(whole.manifest, pull.header, pull.remote.size_bytes, pull=pull)

    @property
    def held(self) -> Range:
        return self.manifest.start, self.manifest.end

    @property
    def is_whole(self) -> bool:
        return self.manifest.first and self.manifest.last

    @property
    def layer_bytes(self) -> int:
        """At least one, whatever a stranger's header says."""
        return max(1, self.size_bytes // (self.manifest.end - self.manifest.start))

    def needs(self, config: NodeConfig) -> Needs:
        """Of memory; layers that are not in the file are taken to be like those that are."""
        return needs_of(config, self.manifest, self.layer_bytes)

    def fits(self) -> Fits:
        return fits_header(self.header)

    def bytes_of(self, layers: Range) -> int:
        """Of these layers as a file."""
        return self.size_bytes if layers == self.held else shard_bytes(self.header, *layers)

    def kind(self, config: NodeConfig, contact: Contact) -> ProviderRecord:
        """A record of the whole model, as if this machine had it; whoever only looks has no address to tell."""
        return claim_of(config, self.manifest, Contact(contact.public_key, contact.addresses or ("tcp://127.0.0.1:1",)))


async def target_of(config: NodeConfig, others: Sequence[ProviderRecord], sources: Sources) -> Target | None:
    """The model to host layers of: what the user named, or of those that the swarm serves the first that can be had,
    in the order of how many networks host them. None: none of them.

    What lacks layers draws nobody by that: any number of models can be made up that lack almost all of theirs.
    """
    if AUTO not in config.roles and "shard" not in config.roles:
        return None
    if config.model_source:
        return await _named(config, config.model_source, sources)
    models = models_of(others)
    if config.model is not None or AUTO not in config.roles or not models:
        return await Target.read(config, config.model or demo_target())
    answering = {one.peer_id for one in others}
    for model in sorted(models, key=lambda one: one.rank(answering, ()))[:MAX_MODELS]:
        here = await _here(config, model.model_id, model.shards)
        found = here or await _elsewhere(model.model_id, model.shards, sources)
        if found is not None:
            return found
    return None


async def draft_of(
    config: NodeConfig, target: Target | None, others: Sequence[ProviderRecord], sources: Sources
) -> Target | None:
    """The draft model: what the user named, or one that is here and right for the swarm; or else one that others draft
    with, while there are few of them."""
    if AUTO not in config.roles and "drafter" not in config.roles:
        return None
    if config.no_draft_model:
        return None
    if config.draft_model_source:
        return await _named(config, config.draft_model_source, sources)
    if config.draft_model is not None or AUTO not in config.roles:
        return await Target.read(config, config.draft_model or demo_draft())
    useful = {one.tokenizer_hash for one in others} if target is None else {target.manifest.tokenizer_hash}
    bundled = await Target.read(config, demo_draft())
    if bundled.manifest.tokenizer_hash in useful:
        return bundled
    drafting = [one for one in others if one.role == "drafter" and one.tokenizer_hash in useful]
    drafters = [one for one in drafting if one.weights_hash != NO_HASH]
    for model_id, _ in Counter(one.model_id for one in drafters).most_common(MAX_MODELS):
        theirs = [one for one in drafters if one.model_id == model_id]
        here = await _here(config, model_id, ())
        if here is not None:
            return here
        if len(drafters) < ENOUGH_DRAFTERS and (found := await _elsewhere(model_id, theirs, sources)) is not None:
            return found
    return None


async def _named(config: NodeConfig, source: str, sources: Sources) -> Target:
    """What the user named, if it is not in the store as a whole."""
    store = Store(config.data_dir, config.max_disk_bytes)
    known = store.find(source, None)
    if known is not None and known.layers == (0, known.num_layers):
        return await Target.read(config, store.path_of(known))
    return Target.at(await sources.look(source, ""))


async def _here(config: NodeConfig, model_id: str, shards: Sequence[ProviderRecord]) -> Target | None:
    """Of this model what is on the disk: all of it, or a part that is of as much use as any."""
    store = Store(config.data_dir, config.max_disk_bytes)
    paths = [store.path_of(one) for one in store.entries() if one.model_id == model_id]
    for path in [demo_target(), *paths]:
        try:
            found = await Target.read(config, path)
        except ModelRefused as error:  # its files are gone, say
            log.info("not of use", path=str(path), reason=str(error))
            continue
        if found.manifest.model_id == model_id and (found.is_whole or still_serves(shards, found.held)):
            return found
    return None


async def _elsewhere(model_id: str, records: Sequence[ProviderRecord], sources: Sources) -> Target | None:
    """Where those who have it say that it is, what the most say first; or else from themselves."""
    peers = list(dict.fromkeys(one.peer_id for one in records))
    told = Counter((one.source, one.weights_hash) for one in records if one.source)
    for (source, weights_hash), _ in told.most_common(MAX_SOURCES):
        try:
            pull = await sources.look(source, weights_hash, peers)
        except DsdError as error:
            log.warning("a source that the swarm names is of no use", source=source, reason=str(error))
            continue
        found = Target.at(pull)
        if pull.remote.weights_hash == weights_hash and found.manifest.model_id == model_id:
            return found
        log.warning("a source that the swarm names has another model, or does not say which", source=source)
    try:
        found = Target.at(await sources.among(peers, records[0].weights_hash))
    except DsdError as error:
        log.info("members do not give this model", reason=str(error))
        return None
    return found if found.manifest.model_id == model_id else None

"""Which models a start is about: what the user named, or what the swarm serves and can be had here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdnode.config import AUTO, NodeConfig
from dsdnode.engine.gguf import Manifest, fits, read_manifest
from dsdnode.engine.gguf_parts import size_bytes_of
from dsdnode.models import demo_draft, demo_target
from dsdnode.node.engines import claim_of
from dsdnode.node.machine import Needs
from dsdnode.placement.layers import Fits
from dsdnode.placement.pipelines import Range
from dsdnode.swarm.catalogue import models_of
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model, or a shard of one, that is on this disk."""

    path: Path
    manifest: Manifest
    size_bytes: int

    @classmethod
    async def read(cls, config: NodeConfig, path: Path) -> ModelFile:
        """Raises ModelRefused."""
        manifest = await asyncio.to_thread(read_manifest, path, config.data_dir / "cache")
        return cls(path, manifest, size_bytes_of(path))

    @property
    def held(self) -> Range:
        return self.manifest.start, self.manifest.end

    @property
    def is_whole(self) -> bool:
        return self.manifest.first and self.manifest.last

    def needs(self, context_tokens: int) -> Needs:
        """Of memory; layers that are not in the file are taken to be like those that are."""
        num_held = self.manifest.end - self.manifest.start
        return Needs.of(self.size_bytes, num_held, self.manifest.width, context_tokens)

    async def fits(self) -> Fits:
        return await asyncio.to_thread(fits, self.path)

    def kind(self, config: NodeConfig, contact: Contact) -> ProviderRecord:
        """A record of the whole model, as if this machine had it; whoever only looks has no address to tell."""
        return claim_of(config, self.manifest, Contact(contact.public_key, contact.addresses or ("tcp://127.0.0.1:1",)))


async def target_of(config: NodeConfig, others: Sequence[ProviderRecord]) -> ModelFile | None:
    """The model to host layers of: what the user named, or of those that the swarm serves the one that the most
    networks host. None: it is not here.

    What lacks layers draws nobody by that: any number of models can be made up that lack almost all of theirs.
    """
    if AUTO not in config.roles and "shard" not in config.roles:
        return None
    bundled = await ModelFile.read(config, config.model or demo_target())
    models = models_of(others)
    if config.model is not None or AUTO not in config.roles or not models:
        return bundled
    answering = {one.peer_id for one in others}
    first = min(models, key=lambda one: one.rank(answering, ()))
    return bundled if first.model_id == bundled.manifest.model_id else None


async def draft_of(config: NodeConfig, target: ModelFile | None, others: Sequence[ProviderRecord]) -> ModelFile | None:
    """The draft model: what the user named, or the bundled one where it is of use."""
    if AUTO not in config.roles and "drafter" not in config.roles:
        return None
    bundled = await ModelFile.read(config, config.draft_model or demo_draft())
    if config.draft_model is not None or AUTO not in config.roles:
        return bundled
    useful = {one.tokenizer_hash for one in others} if target is None else {target.manifest.tokenizer_hash}
    return bundled if bundled.manifest.tokenizer_hash in useful else None

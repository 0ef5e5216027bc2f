"""From a model file to a running engine: which layers, cut them, start the worker, see how fast it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import structlog

from dsdnode.config import NodeConfig
from dsdnode.cost import UNKNOWN, CostLine
from dsdnode.engine.client import LOAD_TIMEOUT_S, WorkerEngine
from dsdnode.engine.gguf import Manifest, cut, fits, read_manifest
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_parts import read_model, size_bytes_of
from dsdnode.engine.gguf_tokenizer import tokenizer_hash
from dsdnode.engine.ipc import MAX_SEQUENCES, EngineOptions
from dsdnode.engine.nodraft import NoDraft
from dsdnode.engine.pairs import Fit, fit
from dsdnode.engine.port import Chunk, Engine, ShardInfo, TextEngine
from dsdnode.engine.slow import Pace, SlowEngine
from dsdnode.engine.text import TextProcess
from dsdnode.errors import BadInput, DsdError, ModelRefused
from dsdnode.node.drafter.texts import Draft
from dsdnode.node.machine import Needs
from dsdnode.node.shard.claiming import claim_layers
from dsdnode.node.shard.sessions import SEQUENCES_PER_SESSION
from dsdnode.speculation.actions import MAX_BRANCHES
from dsdnode.speculation.sampling import Sampling
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import ProviderRecord, RoundTrip

log = structlog.get_logger(__name__)

PROBE_POSITIONS = (2, 10)
"""Not 1: llama.cpp took three times as long for one position as for two (the demo pair, half precision)."""
PROBE_ROUNDS = 3


def options_of(config: NodeConfig, manifest: Manifest, num_sequences: int, strict: bool) -> EngineOptions:
    context_tokens = config.context_tokens
    if manifest.rope_switch_tokens:  # all stages must rotate alike, whatever each one's cache holds
        context_tokens = min(context_tokens, manifest.rope_switch_tokens)
    if strict:
        return EngineOptions.strict(context_tokens=context_tokens, max_sequences=num_sequences)
    return EngineOptions(
        threads=config.threads or 0,
        context_tokens=context_tokens,
        max_sequences=num_sequences,
        gpu_layers=config.gpu_layers,
        max_memory_bytes=config.max_memory_bytes or 0,
    )


async def start_draft(config: NodeConfig, path: Path) -> TextEngine:
    """The draft model, whole. Raises ModelRefused."""
    manifest = await asyncio.to_thread(read_manifest, path, config.data_dir / "cache")
    if not (manifest.first and manifest.last):
        raise ModelRefused(
            f"{path}: a draft model is needed whole; this file holds layers {manifest.start}:{manifest.end}"
        )
    options = options_of(config, manifest, config.max_sessions * MAX_BRANCHES, strict=False)
    return _emulated(config, await _start(config, path, options), drafts=True)


def text_tools(draft: Path | None) -> Draft:
    """With the tokenizer of the draft model at `draft`; None: there is none, and any tokenizer will do."""

    def compared(path: Path) -> tuple[str, Fit]:
        target = read_header(path)
        return tokenizer_hash(target), Fit() if draft is None else fit(read_model(draft), target)

    async def compare(path: Path) -> tuple[str, Fit]:
        return await asyncio.to_thread(compared, path)

    return Draft(compare, lambda path: TextProcess(path, LOAD_TIMEOUT_S))


@dataclass(frozen=True, slots=True)
class Wish:
    """Layers [start, end) that were chosen, and how many fit, should others have chosen the same."""

    layers: tuple[int, int]
    capacity_layers: int


async def start_shard(config: NodeConfig, path: Path, discovery: Discovery, wish: Wish | None = None) -> Engine:
    """Layers `config.layers` of the target, or those that the swarm needs most. Raises ModelRefused, BadInput."""
    manifest = await asyncio.to_thread(read_manifest, path, config.data_dir / "cache")
    start, end = await _layers(config, manifest, path, discovery, wish)
    if (start, end) != (manifest.start, manifest.end):
        path = await asyncio.to_thread(_shard_file, config, manifest, path, start, end)
    return await start_layers(config, path)


async def start_layers(config: NodeConfig, path: Path) -> Engine:
    """All that is in a file. Raises ModelRefused."""
    manifest = await asyncio.to_thread(read_manifest, path, config.data_dir / "cache")
    options = options_of(config, manifest, num_sequences_of(config), config.strict)
    options = replace(options, guesses=manifest.guesses and not config.strict)
    return _emulated(config, await _start(config, path, options), drafts=False)


def _emulated(config: NodeConfig, engine: WorkerEngine, *, drafts: bool) -> TextEngine:
    if config.emulate is None:
        return engine
    return SlowEngine(engine, Pace(config.emulate, drafts), config.slowdown_file)


async def _start(config: NodeConfig, path: Path, options: EngineOptions) -> WorkerEngine:
    engine = await WorkerEngine.start(path, options, cache_folder=config.data_dir / "cache")
    if not engine.shard.can_truncate:
        await engine.close()
        raise ModelRefused(
            f"{engine.shard.model_name}: the cache of {engine.shard.architecture} cannot be rolled back, "
            "which speculation and recovery need"
        )
    return engine


async def _layers(
    config: NodeConfig, manifest: Manifest, path: Path, discovery: Discovery, wish: Wish | None
) -> tuple[int, int]:
    if (span := span_of(config, manifest, path)) is not None:
        return span
    capacity_layers = wish.capacity_layers if wish else _capacity_layers(config, manifest, path)
    claim, may_be_cut = claim_of(config, manifest, discovery.contact), await asyncio.to_thread(fits, path)
    start, end = await claim_layers(discovery, claim, capacity_layers, may_be_cut, wish.layers if wish else None)
    log.info("layers chosen", layers=f"{start}:{end}", of=manifest.num_layers)
    return start, end


def span_of(config: NodeConfig, manifest: Manifest, path: Path) -> tuple[int, int] | None:
    """The layers that the user named, or those that the file has, where it has not all; None: any. Raises BadInput."""
    whole = manifest.first and manifest.last
    if config.layers is None:
        return None if whole else (manifest.start, manifest.end)
    start, end = config.layers
    if end > manifest.num_layers:
        raise BadInput(f"layers {start}:{end} do not exist: {manifest.model_name} has 0:{manifest.num_layers}")
    if not whole and (start, end) != (manifest.start, manifest.end):
        raise BadInput(f"{path} holds layers {manifest.start}:{manifest.end} alone, not {start}:{end}")
    return start, end


def claim_of(config: NodeConfig, manifest: Manifest, contact: Contact) -> ProviderRecord:
    """As `record_of` will say it when there is an engine, of the whole model."""
    context_tokens = min(config.context_tokens, manifest.train_context_tokens)
    return _offer(manifest, contact, "shard", (0, manifest.num_layers), context_tokens)


def _offer(
    model: Manifest | ShardInfo, contact: Contact, role: str, layers: tuple[int, int], context_tokens: int
) -> ProviderRecord:
    """What does not change while it is offered."""
    return ProviderRecord(
        public_key=contact.public_key,
        addresses=contact.addresses,
        role="shard" if role == "shard" else "drafter",
        weights_hash=model.weights_hash,
        architecture=model.architecture,
        model_name=model.model_name,
        start=layers[0],
        end=layers[1],
        num_layers=model.num_layers,
        tokenizer_hash=model.tokenizer_hash,
        text_hash=model.text_hash,
        vocab_size=model.vocab_size,
        width=model.width,
        context_tokens=context_tokens,
        free_sessions=0,
    )


def _capacity_layers(config: NodeConfig, manifest: Manifest, path: Path) -> int:
    """How many layers fit `max_memory`. Raises ModelRefused: not one."""
    if config.max_memory_bytes is None:
        return manifest.num_layers
    needs = needs_of(config, manifest, size_bytes_of(path) // manifest.num_layers)
    return needs.capacity_of(manifest.model_name, config.max_memory_bytes, manifest.num_layers)


def num_sequences_of(config: NodeConfig) -> int:
    """Of a shard's engine."""
    return min(config.max_sessions * SEQUENCES_PER_SESSION, MAX_SEQUENCES)


def needs_of(config: NodeConfig, manifest: Manifest, layer_bytes: int) -> Needs:
    """Of memory, for layers of this model of so many bytes each."""
    like = manifest.width, config.context_tokens, manifest.state_bytes
    return Needs.of(layer_bytes, *like, num_sequences_of(config))


def shard_path(config: NodeConfig, model_id: str, start: int, end: int) -> Path:
    """Where these layers are kept, once they are cut."""
    return config.data_dir / "shards" / f"{model_id[:16]}-{start}-{end}.gguf"


def _shard_file(config: NodeConfig, manifest: Manifest, source: Path, start: int, end: int) -> Path:
    """Cut once, kept in the data dir under the model's id."""
    path = shard_path(config, manifest.model_id, start, end)
    guesses = manifest.guesses and end == manifest.num_layers
    if not path.exists() or not _is_cut(read_manifest(path), manifest, guesses):
        log.info("cutting", layers=f"{start}:{end}", model=manifest.model_name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut(source, start, end, path)
        except OSError as error:
            raise DsdError(f"{path}: the layers cannot be written there ({error.strerror or error})") from None
    return path


def _is_cut(kept: Manifest, whole: Manifest, guesses: bool) -> bool:
    """By today's rules."""
    return kept.model_id == whole.model_id and kept.guesses >= guesses


async def measure(engine: Engine) -> CostLine:
    """The cost line, from a few decodes of two positions and of ten; the first, cold one of each does not count."""
    if isinstance(engine, NoDraft):
        return UNKNOWN
    best: list[float] = []
    for num_positions in PROBE_POSITIONS:
        times = [await _probe(engine, num_positions) for _ in range(1 + PROBE_ROUNDS)]
        best.append(min(times[1:]))
    few, many = PROBE_POSITIONS
    slope_s = max(0.0, (best[1] - best[0]) / (many - few))
    return CostLine(max(0.0, best[0] - slope_s * few), slope_s)


async def _probe(engine: Engine, num_positions: int) -> float:
    shard = engine.shard
    inputs = (
        np.zeros(num_positions, np.int32)
        if shard.first
        else np.zeros((num_positions, shard.width), np.float32)
    )  # fmt: skip
    num_draws = num_positions if shard.last else 0
    outputs = await engine.forward([Chunk(0, 0, inputs, num_draws, Sampling() if num_draws else None)])
    await engine.release(0)
    return outputs[0].compute_s


def record_of(
    engine: Engine,
    role: str,
    cost: CostLine,
    free_sessions: int,
    contact: Contact,
    queue: float = 0.0,
    round_trips: tuple[RoundTrip, ...] = (),
    source: str = "",
) -> ProviderRecord:
    """What the node offers with this engine."""
    shard = engine.shard
    context_tokens = min(shard.context_tokens, shard.train_context_tokens)
    return msgspec.structs.replace(
        _offer(shard, contact, role, (shard.start, shard.end), context_tokens),
        free_sessions=free_sessions,
        fixed_ms=1e3 * cost.fixed_s,
        slope_ms=1e3 * cost.slope_s,
        queue=queue,
        round_trips=round_trips,
        source=source,
        num_guesses=shard.num_guesses if role == "shard" else 0,
    )

"""How fast this machine is: layers are run here for a moment, before anything is promised to anybody."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from dsdnode.config import NodeConfig
from dsdnode.cost import CostLine
from dsdnode.engine.gguf import cut, fits_header, read_manifest, shard_bytes
from dsdnode.engine.gguf_parts import read_model
from dsdnode.engine.gguf_sample import write_sample
from dsdnode.errors import DsdError
from dsdnode.node.engines import measure, start_draft, start_layers
from dsdnode.placement.ranges import Range

PROBE_BYTES = 256_000_000
"""Of layers that are run: far more than any cache of a processor, and loaded in a second."""
MAX_SAMPLE_LAYERS = 8


async def stage_cost(config: NodeConfig, path: Path, layers: Range) -> CostLine:
    """Of these layers of the model at `path`; where they are large, by some of them. Raises ModelRefused, DsdError."""
    manifest = await asyncio.to_thread(read_manifest, path, config.data_dir / "cache")
    if layers == (manifest.start, manifest.end):
        return await _measured(config, path)
    piece = await asyncio.to_thread(_piece, path, layers)
    cost = await _of_file(config, lambda file: cut(path, *piece, file, cache_folder=config.data_dir / "cache"))
    if piece == layers or config.emulate is not None:
        return cost
    header = await asyncio.to_thread(read_model, path)
    return cost.times(shard_bytes(header, *layers) / shard_bytes(header, *piece))


async def sample_cost(config: NodeConfig, width: int, layer_bytes: int) -> CostLine:
    """Of one layer of a model that is not here, by what is known of it. Raises DsdError."""
    num_layers = max(1, min(MAX_SAMPLE_LAYERS, PROBE_BYTES // layer_bytes))
    cost = await _of_file(config, lambda file: write_sample(file, width, layer_bytes, num_layers))
    return cost.times(1 / num_layers)


async def draft_cost(config: NodeConfig, path: Path) -> CostLine:
    """Of the draft model. Raises ModelRefused, DsdError."""
    engine = await start_draft(config, path)
    try:
        return await measure(engine)
    finally:
        await engine.close()


async def _of_file(config: NodeConfig, write: Callable[[Path], object]) -> CostLine:
    try:
        with tempfile.TemporaryDirectory(prefix="dsdnode-") as folder:
            file = Path(folder, "probe.gguf")
            await asyncio.to_thread(write, file)
            return await _measured(config, file)
    except OSError as error:
        raise DsdError(
            "how fast this machine is cannot be measured: no file can be written for that "
            f"({error.strerror or error}); TMPDIR names another folder"
        ) from None


async def _measured(config: NodeConfig, file: Path) -> CostLine:
    engine = await start_layers(config, file)
    try:
        return await measure(engine)
    finally:
        await engine.close()


def _piece(path: Path, layers: Range) -> Range:
    """The last of them, with the head where there is one: as many as are not too large, or as few as may be cut."""
    start, end = layers
    header = read_model(path)
    may_be_cut = fits_header(header)
    pieces = [(first, end) for first in range(start, end) if may_be_cut(first, end)] or [layers]
    return next((one for one in pieces if shard_bytes(header, *one) <= PROBE_BYTES), pieces[-1])

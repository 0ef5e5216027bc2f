"""A whole bench run: daemons up, each cell of the grid measured, daemons down; then figures, ties, traces."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec import structs

from dsdnode.bench import summary
from dsdnode.bench.bounds import bound, costs_of
from dsdnode.bench.config import BenchConfig, PerShard
from dsdnode.bench.daemons import isolate, leaving_by_exception, run_leaving
from dsdnode.bench.emulator import Emulator
from dsdnode.bench.measure import Ask, Laboratory, MeasuredReply, Measurements
from dsdnode.bench.oracle import Oracle
from dsdnode.bench.prompts import Prompt, of_length, read_prompts
from dsdnode.bench.swarm import Swarm, swarm
from dsdnode.client.client import Client
from dsdnode.engine.gguf import read_manifest
from dsdnode.errors import BadInput
from dsdnode.files import output, replacing, words
from dsdnode.models import demo_target
from dsdnode.speculation.sampling import Sampling

MAX_CONTEXT_TOKENS = 4096
MAX_RECORDED_TIES = 100


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of shards and one latency: a result and its details for each scheme, in their order."""

    num_shards: int
    latency_ms: PerShard
    results: tuple[summary.SchemeResult, ...]
    details: tuple[summary.Details, ...]


class Progress(Protocol):
    """Who looks on."""

    def begin(self, num_steps: int) -> None: ...

    def cell(self, text: str) -> None:
        """What comes next."""

    def step(self, text: str) -> None:
        """One more step is done."""


def bench(config: BenchConfig, env_prefix: str, ask: Ask, progress: Progress) -> list[Cell]:
    """Raises BadInput, DsdError; leaves no process and no file behind (but `record`), whatever ends it."""
    prompts = read_prompts(config.prompts, config.num_prompts, config.seed)
    num_cells = len(config.shards) * len(config.latencies_ms)
    steps_per_prompt = 1 + sum(num > 1 for num in config.sessions) / len(prompts)
    progress.begin(round(num_cells * len(config.schemes) * len(prompts) * steps_per_prompt))
    cells: list[Cell] = []
    if config.record is not None:
        _check(config.record)
    with leaving_by_exception(), _folder() as folder:
        isolate(folder, env_prefix)
        with Emulator(config.seed) as emulator:
            for num_shards in config.shards:
                progress.cell(f"{num_shards} shards: starting {num_shards + 1} daemons")
                with swarm(config, num_shards, emulator, folder) as made:
                    run = _Run(config, made, prompts, ask, progress)
                    cells += run_leaving(run.cells(None if cells else config.record))
    return cells


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dsdnode-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _check(record: Path) -> None:
    """A path that cannot be written is told before anything is measured. Raises BadInput."""
    folder = output(record).parent
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{record} cannot be written: nothing may be written into {folder}")


class _Run:
    """All latencies at one set of daemons."""

    def __init__(
        self, config: BenchConfig, swarm: Swarm, prompts: Sequence[Prompt], ask: Ask, progress: Progress
    ) -> None:
        self._config = config
        self._swarm = swarm
        self._prompts = prompts
        self._ask = ask
        self._progress = progress
        manifest = read_manifest(config.model or demo_target())
        self._width = manifest.width
        sampling = Sampling(config.temperature, seed=config.seed)
        self._oracle = Oracle(config.model, config.draft_model, sampling, MAX_CONTEXT_TOKENS, config.threads)

    async def cells(self, record: Path | None) -> list[Cell]:
        config = self._config
        cells: list[Cell] = []
        async with self._oracle:
            tokens = [await self._oracle.render(prompt.text) for prompt in self._prompts]
            if config.prompt_tokens:
                tokens = of_length(tokens, config.prompt_tokens)
            for latency_ms in config.latencies_ms:
                self._progress.cell(cell_name(self._swarm.num_shards, latency_ms))
                self._swarm.link(latency_ms)
                measured = await self._measure(tokens)
                cells.append(await self._cell(latency_ms, measured, tokens))
                if record is not None and len(cells) == 1:
                    await self._record(measured, tokens, record)
        return cells

    async def _measure(self, tokens: Sequence[Sequence[int]]) -> Measurements:
        client = await Client.connect([self._swarm.join])
        try:
            laboratory = Laboratory(self._config, self._swarm, client, self._oracle, tokens, self._ask)
            return await laboratory.measure(self._progress.step)
        finally:
            await client.close()

    async def _cell(self, latency_ms: PerShard, measured: Measurements, tokens: Sequence[Sequence[int]]) -> Cell:
        results, details = [], []
        schemes = self._config.schemes
        reference = {reply.prompt: reply for reply in measured.replies if reply.scheme == schemes[0]}
        for scheme in schemes:
            replies = [reply for reply in measured.replies if reply.scheme == scheme]
            crowds = [crowd for crowd in measured.crowds if crowd.scheme == scheme]
            costs = costs_of(
                self._config, self._swarm.num_shards, latency_ms, scheme.wire, measured.statuses, self._width
            )
            ties = [] if scheme.threshold else await self._near_ties(replies, reference, tokens)
            best = bound(scheme, costs, [reply.stats for reply in replies])
            results.append(summary.result_of(replies, reference, best, ties))
            details.append(summary.details_of(replies, reference, crowds, self._prompts))
        return Cell(self._swarm.num_shards, latency_ms, tuple(results), tuple(details))

    async def _near_ties(
        self, replies: Sequence[MeasuredReply], reference: dict[int, MeasuredReply], tokens: Sequence[Sequence[int]]
    ) -> list[summary.NearTie]:
        ties = []
        for reply, position in summary.differing(replies, reference)[:MAX_RECORDED_TIES]:
            expected = reference[reply.prompt].tokens
            pair = _at(expected, position), _at(reply.tokens, position)
            gap = await self._oracle.gap([*tokens[reply.prompt], *expected[:position]])
            ties.append(summary.NearTie(reply.prompt, position, pair, gap))
        return ties

    async def _record(self, measured: Measurements, tokens: Sequence[Sequence[int]], path: Path) -> None:
        """Traces of the target's own text: the first scheme's replies, plain's. Until all are there, what was recorded
        before stays."""
        lines = []
        for reply in measured.replies:
            if reply.scheme == self._config.schemes[0] and reply.tokens:
                trace = await self._oracle.trace(tokens[reply.prompt], reply.tokens)
                lines.append(json.dumps({"prompt": reply.prompt, **structs.asdict(trace)}) + "\n")
        with words(path), replacing(path) as file:
            file.write("".join(lines).encode())


def _at(tokens: Sequence[int], position: int) -> int | None:
    return tokens[position] if position < len(tokens) else None


def cell_name(num_shards: int, latency_ms: PerShard) -> str:
    links = "/".join(f"{value:g}" for value in latency_ms)
    return f"{num_shards} shard{'s' * (num_shards > 1)}, {links} ms"

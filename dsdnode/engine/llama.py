"""Hosts a layer range on llama.cpp's C API: blocking, single-threaded, one process's only engine (__init__.py).

Rules kept here, each learnt from a crash or a wrong number: no extra buffer types; one unified cache; one ubatch a
decode; explicit threads; every position, count and value checked before llama.cpp sees it, since it aborts on many.
Import only in a worker process or a test of it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from dsdnode.engine.gguf import read_manifest
from dsdnode.engine.ipc import MAX_SEQUENCES, EngineOptions
from dsdnode.engine.llama_api import Batch, Tap, llama_cpp, recent_errors
from dsdnode.engine.port import Chunk, Draws, Output, ShardInfo, check_chunks, check_sequence
from dsdnode.errors import ModelRefused, Overloaded
from dsdnode.speculation.sampling import Sampling

Rows = NDArray[np.float32]
_CELLS: Final = 256
"""llama.cpp rounds the cache up to multiples of this."""


class LlamaEngine:
    """Layers [start, end) of the model at `path`, loaded and proven to decode."""

    def __init__(self, path: Path, options: EngineOptions, cache_folder: Path | None = None) -> None:
        """Raises ModelRefused; a file that makes llama.cpp abort ends the process."""
        manifest = read_manifest(path, cache_folder)
        if not 0 < options.max_sequences <= MAX_SEQUENCES:
            raise ModelRefused(f"{options.max_sequences} sequences: llama.cpp allows 1 to {MAX_SEQUENCES}")
        self._manifest = manifest
        self._max_sequences = options.max_sequences
        self._model = _load_model(path, options)
        self._vocab_size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        self._tap: Tap | None = None
        if not manifest.last:
            self._tap = Tap(f"l_out-{manifest.end - manifest.start - 1}", manifest.width)
        self._context = self._new_context(options)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._context_tokens = int(llama_cpp.llama_n_ctx(self._context))
        self._batch_tokens = int(llama_cpp.llama_n_batch(self._context))
        self._token_batch = Batch(self._batch_tokens, 0)
        self._input_batch = self._token_batch if manifest.first else Batch(self._batch_tokens, manifest.width)
        self._lengths: dict[int, int] = {}
        self.shard = self._describe()
        self.shard = replace(self.shard, can_truncate=self._probe())

    def close(self) -> None:
        """Free context and model; the engine must not be used again."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def length(self, sequence: int) -> int:
        """Positions that are cached of `sequence`."""
        return self._lengths.get(sequence, 0)

    def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        """As `Engine.forward` (port.py). Raises Overloaded (nothing changed), PeerMisbehaved, ValueError (our bug)."""
        begun = time.perf_counter()
        with self._all_or_nothing(chunks):
            outputs = self._draws(chunks) if self.shard.last else self._states(chunks)
        compute_s = time.perf_counter() - begun
        return [replace(output, compute_s=compute_s) for output in outputs]

    def decode(self, chunks: Sequence[Chunk]) -> list[Rows]:
        """Raw rows of each chunk: hidden states [n, width], or logits [num_draws, vocab_size] from the last layer.

        For tests of exactness; in the swarm logits never leave the worker. Raises as `forward`.
        """
        rows: list[Rows] = []
        with self._all_or_nothing(chunks):
            self._run(chunks, lambda part: rows.append(part.copy()))
        ends = np.cumsum([self._num_rows(chunk) for chunk in chunks])
        return np.split(np.concatenate(rows), ends[:-1])

    def copy(self, source: int, target: int, position: int) -> None:
        """As `Engine.copy`. Raises ValueError when `source` is shorter or `target` in use."""
        check_sequence(source, self.shard)
        check_sequence(target, self.shard)
        if source == target or self.length(target) or not 0 <= position <= self.length(source):
            raise ValueError(f"copy of {position} positions, {source} -> {target}: does not fit their lengths")
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, position)
        self._lengths[target] = position

    def truncate(self, sequence: int, position: int) -> None:
        """As `Engine.truncate`; a shorter sequence stays as it is."""
        check_sequence(sequence, self.shard)
        if position < 0:
            raise ValueError(f"truncation to {position}")
        if position < self.length(sequence):
            if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1):
                raise ValueError("this model's cache cannot be truncated")
            self._lengths[sequence] = position

    def release(self, sequence: int) -> None:
        check_sequence(sequence, self.shard)
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._lengths.pop(sequence, None)

    def _new_context(self, options: EngineOptions) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self._cells(options.context_tokens)
        # n_batch below n_seq_max would trip an assertion in output_reserve
        params.n_batch = params.n_ubatch = max(options.batch_tokens, options.max_sequences)
        params.n_seq_max = options.max_sequences
        params.n_threads = params.n_threads_batch = options.threads or psutil.cpu_count(logical=False) or 1
        params.kv_unified = True  # the default permutes rows of several sequences and aborts on partial copies
        params.swa_full = True  # a sliding-window cache could not be rolled back
        enabled, disabled = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        flash = options.flash_attention if options.flash_attention is not None else options.gpu_layers != 0
        params.flash_attn_type = enabled if flash else disabled
        params.no_perf = True
        if self._tap is not None:
            params.cb_eval = ctypes.cast(self._tap.callback, type(params.cb_eval))
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise ModelRefused(f"llama.cpp cannot run the model: {'; '.join(recent_errors) or 'no reason given'}")
        return context

    def _cells(self, wanted: int) -> int:
        """All stages of a pipeline must rotate alike, so none goes beyond where the rotation changes."""
        switch = self._manifest.rope_switch_tokens
        cells = max(_CELLS, -(-wanted // _CELLS) * _CELLS)
        return min(cells, max(_CELLS, switch // _CELLS * _CELLS)) if switch else cells

    def _probe(self) -> bool:
        """Whether caches can be truncated. Decodes a block, so that a crash happens at load; raises ModelRefused."""
        if self.shard.first or self.shard.last:
            self._require(self._vocab_size == self._manifest.vocab_size, "has another vocabulary than it says")
        self._require(int(llama_cpp.llama_model_n_embd(self._model)) == self._manifest.width, "has another width")
        for position in (0, 2):
            rows = self.decode([self._blank(position, 2)])[0]
            self._require(len(rows) == (1 if self.shard.last else 2), "does not show its layers' results")
        can = bool(llama_cpp.llama_memory_seq_rm(self._memory, 0, 1, -1))
        can = can and int(llama_cpp.llama_memory_seq_pos_max(self._memory, 0)) == 0
        llama_cpp.llama_memory_clear(self._memory, True)
        self._lengths.clear()
        return can

    def _require(self, condition: bool, reason: str) -> None:
        if not condition:
            raise ModelRefused(f"{self._manifest.model_name} ({self._manifest.architecture}): {reason}")

    def _blank(self, position: int, count: int) -> Chunk:
        tokens, states = np.zeros(count, np.int32), np.zeros((count, self._manifest.width), np.float32)
        inputs = tokens if self.shard.first else states
        return Chunk(0, position, inputs, int(self.shard.last), Sampling())

    def _describe(self) -> ShardInfo:
        manifest = self._manifest
        return ShardInfo(
            weights_hash=manifest.weights_hash,
            model_name=manifest.model_name,
            architecture=manifest.architecture,
            start=manifest.start,
            end=manifest.end,
            num_layers=manifest.num_layers,
            width=manifest.width,
            vocab_size=manifest.vocab_size,
            tokenizer_hash=manifest.tokenizer_hash,
            context_tokens=self._context_tokens,
            train_context_tokens=manifest.train_context_tokens,
            max_sequences=self._max_sequences,
            can_truncate=False,
        )

    # --- one batch ------------------------------------------------------------------------------------------------

    @contextmanager
    def _all_or_nothing(self, chunks: Sequence[Chunk]) -> Iterator[None]:
        check_chunks(chunks, self.shard, self.length)
        try:
            yield
        except Overloaded:  # perhaps after some batches of several
            for chunk in chunks:
                self.truncate(chunk.sequence, chunk.position)
            raise

    def _num_rows(self, chunk: Chunk) -> int:
        return chunk.num_draws if self.shard.last else len(chunk.inputs)

    def _states(self, chunks: Sequence[Chunk]) -> list[Output]:
        rows: list[Rows] = []
        self._run(chunks, rows.append)
        ends = np.cumsum([len(chunk.inputs) for chunk in chunks])
        return [Output(part, None, None, 0.0) for part in np.split(np.concatenate(rows), ends[:-1])]

    def _draws(self, chunks: Sequence[Chunk]) -> list[Output]:
        drawn = [Draws(chunk) for chunk in chunks]
        self._draw(chunks, drawn)
        left = drawn
        for step in range(max(chunk.extend for chunk in chunks)):
            left = [draws for draws in left if draws.chunk.extend > step]
            self._draw([self._next(draws) for draws in left], left)
        return [draws.output(0.0) for draws in drawn]

    def _next(self, draws: Draws) -> Chunk:
        """What comes next of a chunk that extends itself: the token it drew last."""
        sequence = draws.chunk.sequence
        return Chunk(sequence, self.length(sequence), np.array([draws.last], np.int32), 1)

    def _draw(self, chunks: Sequence[Chunk], drawn: Sequence[Draws]) -> None:
        """Decode, and have each chunk's tokens drawn, straight from llama.cpp's rows."""
        wanted = iter(
            [
                (draws, chunk.position + len(chunk.inputs) - chunk.num_draws + 1 + offset)
                for chunk, draws in zip(chunks, drawn, strict=True)
                for offset in range(chunk.num_draws)
            ]
        )

        def consume(rows: Rows) -> None:
            for row in rows:
                draws, position = next(wanted)
                draws.take(row, position)

        self._run(chunks, consume)

    def _run(self, chunks: Sequence[Chunk], consume: Callable[[Rows], None]) -> None:
        """Decode everything in batches that fit, handing over the rows of each before the next overwrites them."""
        sizes = [len(chunk.inputs) for chunk in chunks]
        sequences = np.repeat(np.array([c.sequence for c in chunks], np.int32), sizes)
        positions = np.concatenate([np.arange(c.position, c.position + len(c.inputs), dtype=np.int32) for c in chunks])
        wanted = np.ones(len(positions), np.int8)
        if self.shard.last:
            offsets = np.concatenate([np.arange(-size, 0) for size in sizes])
            wanted = (offsets >= -np.repeat([c.num_draws for c in chunks], sizes)).astype(np.int8)
        inputs = np.concatenate([chunk.inputs for chunk in chunks])
        for start in range(0, len(inputs), self._batch_tokens):
            part = slice(start, min(start + self._batch_tokens, len(inputs)))
            batch = self._input_batch
            (batch.tokens if self.shard.first else batch.states)[: part.stop - start] = inputs[part]
            self._decode(batch.fill(part, sequences, positions, wanted))
            for sequence, position in zip(sequences[part].tolist(), positions[part].tolist(), strict=True):
                self._lengths[sequence] = position + 1
            consume(self._rows(int(wanted[part].sum())))

    def _decode(self, batch: object) -> None:
        code = int(llama_cpp.llama_decode(self._context, batch))
        if code == 1:
            raise Overloaded("the cache of this engine is full")
        if code != 0:  # the state is unknown: end the worker
            raise RuntimeError(f"llama_decode gave {code}: {'; '.join(recent_errors)}")

    def _rows(self, count: int) -> Rows:
        if self._tap is not None:
            return self._tap.take()
        if count == 0:
            return np.empty((0, self._vocab_size), np.float32)
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (count * self._vocab_size,)).reshape(count, self._vocab_size)


def _load_model(path: Path, options: EngineOptions) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False  # with them every quantised model crashed on machines that advertise AMX
    params.n_gpu_layers = options.gpu_layers
    recent_errors.clear()
    model = llama_cpp.llama_model_load_from_file(bytes(path), params)
    if not model:
        raise ModelRefused(f"{path}: llama.cpp cannot load it: {'; '.join(recent_errors) or 'no reason given'}")
    return model

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
from numpy.typing import NDArray

from dsdnode.engine.cores import usual_threads
from dsdnode.engine.draws import Draws
from dsdnode.engine.gguf import read_manifest
from dsdnode.engine.gguf_arch import PLAIN, SUPPORTED
from dsdnode.engine.gguf_parts import parts_of
from dsdnode.engine.ipc import MAX_SEQUENCES, EngineOptions
from dsdnode.engine.llama_api import Batch, Nodes, llama_cpp, recent_errors
from dsdnode.engine.llama_limits import limits_of_states
from dsdnode.engine.mtp import NUM_GUESSES, guesser_of
from dsdnode.engine.port import Broken, CacheSpoiled, Chunk, Output, ShardInfo, check_chunks, check_sequence
from dsdnode.errors import DsdError, ModelRefused, Overloaded, PeerMisbehaved, WorkFailed
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
        self._alike = options.alike
        self._max_sequences = min(options.max_sequences, MAX_SEQUENCES - self._alike)
        guesses = options.guesses and manifest.guesses
        self._model = _load_model(path, options, guesses)
        self._vocab_size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        architecture = SUPPORTED.get(manifest.architecture, PLAIN)
        self._fed_tokens = manifest.first or bool(architecture.input_node)
        self._nodes = Nodes(
            "" if manifest.first else architecture.input_node,
            "" if manifest.last else architecture.output_node.format(manifest.end - manifest.start - 1),
            manifest.width,
        )
        params = self._params(options)
        self._context = self._new_context(params)
        like = self._model, self._context, params, manifest.width, self._vocab_size
        self._guesser = guesser_of(*like) if guesses else None
        self._memory = llama_cpp.llama_get_memory(self._context)
        num_cells = int(llama_cpp.llama_n_ctx(self._context))
        self._context_tokens = min(self._cells(options.context_tokens), num_cells - self._alike)
        self._batch_tokens = int(llama_cpp.llama_n_batch(self._context)) - self._alike
        self._batch = Batch(self._batch_tokens + self._alike, 0 if self._fed_tokens else manifest.width)
        self._lengths: dict[int, int] = {}
        self._min_state, self._max_state = 0.0, float("inf")
        """States smaller than the one, or as large as the other, are known to spoil the cache."""
        self.shard = self._describe()
        self.shard = replace(self.shard, can_truncate=self._probe())
        if not manifest.first:
            self._min_state, self._max_state = limits_of_states(self._decode_states, manifest.width)

    def close(self) -> None:
        """Free context and model; the engine must not be used again."""
        if self._guesser is not None:
            self._guesser.close()
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def length(self, sequence: int) -> int:
        """Positions that are cached of `sequence`."""
        return self._lengths.get(sequence, 0)

    def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        """As `Engine.forward` (port.py). Raises Overloaded, PeerMisbehaved, WorkFailed (nothing has changed then),
        CacheSpoiled (all is gone), Broken, ValueError (our bug)."""
        begun = time.perf_counter()
        if self._guesser is not None:
            self._guesser.begin(chunks)
        with self._all_or_nothing(chunks):
            outputs = self._draws(chunks) if self.shard.last else self._states(chunks)
        compute_s = time.perf_counter() - begun
        outputs = [replace(output, compute_s=compute_s) for output in outputs]
        return outputs if self._guesser is None else self._guesser.added(chunks, outputs)

    def decode(self, chunks: Sequence[Chunk]) -> list[Rows]:
        """Raw rows of each chunk: hidden states [n, width], or logits [num_draws, vocab_size] from the last layer.

        For tests of exactness; in the swarm logits never leave the worker. Raises as `forward`.
        """
        rows: list[Rows] = []
        with self._all_or_nothing(chunks):
            self._run(chunks, lambda part: rows.append(part.copy()))
        ends = np.cumsum([self._num_rows(chunk) for chunk in chunks])
        return np.split(np.concatenate(rows), ends[:-1])

    def clear(self) -> None:
        """Forget all sequences, with what their cells held: freed ones keep it, and one nan spoils every sequence."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self._lengths.clear()
        if self._guesser is not None:
            self._guesser.clear()

    def copy(self, source: int, target: int, position: int) -> None:
        """As `Engine.copy`. Raises ValueError when `source` is shorter or `target` in use."""
        self._check_copy(source, target, position)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, position)
        self._lengths[target] = position
        self._guesses_follow(source, target, position)

    def truncate(self, sequence: int, position: int) -> None:
        """As `Engine.truncate`; a shorter sequence stays as it is."""
        check_sequence(sequence, self.shard)
        if position < 0:
            raise ValueError(f"truncation to {position}")
        if position < self.length(sequence):
            if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1):
                raise ValueError("this model's cache cannot be truncated")
            self._lengths[sequence] = position
            self._guesses_follow(sequence, sequence, position)

    def release(self, sequence: int) -> None:
        check_sequence(sequence, self.shard)
        self._forget(sequence)
        self._guesses_follow(sequence, sequence, 0)

    def _forget(self, sequence: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._lengths.pop(sequence, None)

    def _guesses_follow(self, source: int, target: int, position: int) -> None:
        """`target` has the first `position` positions of `source` now."""
        if self._guesser is not None:
            self._guesser.follow(source, target, position)

    def _check_copy(self, source: int, target: int, position: int) -> None:
        check_sequence(source, self.shard)
        check_sequence(target, self.shard)
        if source == target or self.length(target) or not 0 <= position <= self.length(source):
            raise ValueError(f"copy of {position} positions, {source} -> {target}: does not fit their lengths")

    @property
    def _first_spare(self) -> int:
        """Of the sequences that nobody outside knows; before it the one of rows of nothing."""
        return self._max_sequences + self._alike

    def _num_spare(self, options: EngineOptions) -> int:
        return 0

    def _params(self, options: EngineOptions) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self._cells(options.context_tokens + self._alike)
        params.n_seq_max = self._first_spare + self._num_spare(options)
        # n_batch below n_seq_max would trip an assertion in output_reserve
        params.n_batch = params.n_ubatch = max(options.batch_tokens, params.n_seq_max) + self._alike
        params.n_threads = params.n_threads_batch = options.threads or usual_threads()
        params.kv_unified = True  # the default permutes rows of several sequences and aborts on partial copies
        params.swa_full = True  # a sliding-window cache could not be rolled back
        enabled, disabled = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        flash = options.flash_attention if options.flash_attention is not None else options.gpu_layers != 0
        params.flash_attn_type = enabled if flash else disabled
        params.no_perf = True
        if self._nodes.wanted:
            params.cb_eval = ctypes.cast(self._nodes.callback, type(params.cb_eval))
        return params

    def _new_context(self, params: Any) -> Any:
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
        can = self._can_truncate()
        self.clear()
        return can

    def _can_truncate(self) -> bool:
        can = bool(llama_cpp.llama_memory_seq_rm(self._memory, 0, 1, -1))
        return can and int(llama_cpp.llama_memory_seq_pos_max(self._memory, 0)) == 0

    def _decode_states(self, states: Rows) -> None:
        self.decode([replace(self._blank(0, len(states)), inputs=states)])
        self.clear()

    def _require(self, condition: bool, reason: str) -> None:
        if not condition:
            raise ModelRefused(f"{self._manifest.model_name} ({self._manifest.architecture}): {reason}")

    def _blank(self, position: int, count: int) -> Chunk:
        tokens, states = np.zeros(count, np.int32), np.ones((count, self._manifest.width), np.float32)
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
            text_hash=manifest.text_hash,
            num_guesses=0 if self._guesser is None else NUM_GUESSES,
        )

    # --- one batch ------------------------------------------------------------------------------------------------

    @contextmanager
    def _all_or_nothing(self, chunks: Sequence[Chunk]) -> Iterator[None]:
        check_chunks(chunks, self.shard, self.length)
        self._check_size(chunks)
        try:
            yield
        except (Broken, CacheSpoiled):
            raise
        except Exception as error:  # perhaps after some batches of several, perhaps of one chunk's numbers
            for chunk in chunks:
                self.truncate(chunk.sequence, chunk.position)
            if isinstance(error, DsdError):
                raise
            raise WorkFailed(f"{type(error).__name__}: {error}") from error

    def _check_size(self, chunks: Sequence[Chunk]) -> None:
        if self._min_state == 0.0 and self._max_state == np.inf:
            return
        sizes = np.concatenate([np.abs(chunk.inputs).max(axis=1) for chunk in chunks])
        least, largest = float(sizes.min()), float(sizes.max())
        if largest >= self._max_state:
            raise PeerMisbehaved(f"hidden states of {largest:.1e}: these layers carry them below {self._max_state:.0e}")
        if least < self._min_state:
            raise PeerMisbehaved(f"hidden states of {least:.1e}: these layers carry none below {self._min_state:.0e}")

    def _num_rows(self, chunk: Chunk) -> int:
        return chunk.num_draws if self.shard.last else len(chunk.inputs)

    def _states(self, chunks: Sequence[Chunk]) -> list[Output]:
        rows: list[Rows] = []
        self._run(chunks, rows.append)
        whole = rows[0] if len(rows) == 1 else np.concatenate(rows)
        if len(chunks) == 1:
            return [Output(whole, None, None, 0.0)]
        ends = np.cumsum([len(chunk.inputs) for chunk in chunks])
        return [Output(part, None, None, 0.0) for part in np.split(whole, ends[:-1])]

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
        wanted, asked = self._wanted(chunks)
        inputs = np.concatenate([chunk.inputs for chunk in chunks])
        for start in range(0, len(inputs), self._batch_tokens):
            part = slice(start, min(start + self._batch_tokens, len(inputs)))
            shown = wanted[part] > 0
            batch = self._batch.fill(part, sequences, positions, wanted)
            lone = self._is_lone(len(shown), int(shown.sum()))
            if lone:
                batch = self._batch.add(self._max_sequences)
            self._feed(inputs[part], lone)
            self._decode(batch)
            if lone:
                llama_cpp.llama_memory_seq_rm(self._memory, self._max_sequences, -1, -1)
            for sequence, position in zip(sequences[part].tolist(), positions[part].tolist(), strict=True):
                self._lengths[sequence] = position + 1
            if self._guesser is not None:
                self._guesser.saw(sequences[part], positions[part])
            rows = self._rows(int(shown.sum()) + lone)[: int(shown.sum())]
            self._check_finite(rows, sequences[part][shown])
            consume(rows if asked[part][shown].all() else rows[asked[part][shown]])

    def _is_lone(self, num_rows: int, num_shown: int) -> bool:
        """Is it to get company?"""
        return self._alike and num_shown < 2

    def _feed(self, inputs: NDArray[Any], lone: bool) -> None:
        """Tokens, or hidden states: in a batch, or in place of what tokens, whichever they are, come to.

        `lone`: a row of nothing goes with them. One row alone is rounded otherwise than two or more, where a matrix is
        not quantised (the router of a mixture of experts).
        """
        if self.shard.first:
            self._batch.tokens[: len(inputs)] = inputs
        elif self._fed_tokens:
            self._nodes.put(np.append(inputs, np.ones((int(lone), self._manifest.width), np.float32), axis=0))
        else:
            self._batch.states[: len(inputs)] = inputs

    def _wanted(self, chunks: Sequence[Chunk]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Positions whose rows llama.cpp is to show, and which of them are asked for. The last one of each chunk is
        shown always: it sees all of its sequence, so what is not finite there is told before others meet it."""
        sizes = [len(chunk.inputs) for chunk in chunks]
        if not self.shard.last:
            return np.ones(sum(sizes), np.int8), np.ones(sum(sizes), np.bool_)
        offsets = np.concatenate([np.arange(-size, 0) for size in sizes])
        asked = offsets >= -np.repeat([chunk.num_draws for chunk in chunks], sizes)
        return (asked | (offsets == -1)).astype(np.int8), asked

    def _check_finite(self, rows: Rows, sequences: NDArray[np.int32]) -> None:
        """`sequences`: of each row. Raises CacheSpoiled."""
        spoiled = ~np.isfinite(rows).all(axis=1)
        if spoiled.any():
            culprits = sorted(set(sequences[spoiled].tolist()))
            self.clear()
            raise CacheSpoiled("what the layers gave is not finite: all caches have been cleared", culprits)

    def _decode(self, batch: object) -> None:
        code = int(llama_cpp.llama_decode(self._context, batch))
        if code == 1:
            raise Overloaded("the cache of this engine is full")
        if code != 0:
            raise Broken(f"llama_decode gave {code}: {'; '.join(recent_errors)}")
        if self._nodes.is_put:
            raise Broken("the model has not taken the hidden states that it was given")

    def _rows(self, count: int) -> Rows:
        if not self.shard.last:
            return self._nodes.take()
        if count == 0:
            return np.empty((0, self._vocab_size), np.float32)
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (count * self._vocab_size,)).reshape(count, self._vocab_size)


def _load_model(path: Path, options: EngineOptions, guesses: bool) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.load_mtp = guesses
    params.use_extra_bufts = False  # with them every quantised model crashed on machines that advertise AMX
    params.n_gpu_layers = options.gpu_layers
    recent_errors.clear()
    model = llama_cpp.llama_model_load_from_file(bytes(parts_of(path)[0]), params)
    if not model:
        raise ModelRefused(f"{path}: llama.cpp cannot load it: {'; '.join(recent_errors) or 'no reason given'}")
    return model

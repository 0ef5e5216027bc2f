"""The block behind a model's layers that guesses at what comes after the next token (multi-token prediction, MTP).

Some models bring one (Qwen3.5, GLM-4.x). For position p it is fed the token there and the hidden state that the layers
gave for p - 1, and says what stands at p + 1; its own hidden state serves for one guess more, and so on. llama.cpp runs
it in a second context on the same model, with a cache of its own, which follows that of the layers here.

What it says is a guess: where it lacks something it guesses worse, or not at all. Nothing of it enters a text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.llama_api import Batch, hidden, llama_cpp, show_hidden
from dsdnode.engine.port import Chunk, Guesses, Output
from dsdnode.speculation.sampling import Sampling, draw, probabilities

log = logging.getLogger(__name__)

NUM_GUESSES: Final = 4
"""The block was made for one; each guess more hangs on those before it."""
LEAST_CHANCE = 0.1
"""Of all guesses so far: one more costs a block and a head. (With dice it says little: a guess is drawn by the very
dice that will draw the token.)"""
Rows = NDArray[np.float32]


@dataclass(slots=True)
class _Seen:
    """Of one sequence: what the layers gave last. `rows` [n, width], of positions from `start` on; `tokens` there."""

    start: int
    tokens: NDArray[np.int32]
    rows: Rows

    def before(self, position: int) -> Rows | None:
        """The row of the position before, [1, width]."""
        index = position - 1 - self.start
        return self.rows[index : index + 1] if 0 <= index < len(self.rows) else None

    def cut(self, position: int) -> _Seen:
        """What of it is before `position`."""
        count = max(0, position - self.start)
        return _Seen(self.start, self.tokens[:count], self.rows[:count])


@dataclass(slots=True)
class _Chain:
    """Guesses at what stands behind position `start`, so far; `token` and `row` are what the next one comes of."""

    sequence: int
    start: int
    token: int
    row: Rows
    sampling: Sampling
    num_wanted: int
    tokens: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Of `token`."""
        return self.start + len(self.tokens)

    @property
    def goes_on(self) -> bool:
        is_likely = self.sampling.temperature > 0 or prod(self.chances) >= LEAST_CHANCE
        return len(self.tokens) < self.num_wanted and is_likely

    def take(self, logits: Rows, row: Rows) -> None:
        self.token, self.row = draw(logits, self.position + 1, self.sampling), row
        self.tokens.append(self.token)
        self.chances += probabilities(logits, (self.token,))

    def told(self) -> Guesses:
        return Guesses(self.start + 1, np.array(self.tokens, np.int32), np.array(self.chances, np.float32))


def guesser_of(*like: Any) -> Guesser | None:
    """As Guesser is made; None where it cannot be had: text needs it not."""
    try:
        return Guesser(*like)
    except RuntimeError as error:
        log.warning("no guesses: %s", error)
        return None


class Guesser:
    """Of one engine: `begin` before a forward, `saw` after each decode of its layers, `guess` at its end."""

    def __init__(self, model: Any, context: Any, params: Any, width: int, vocab_size: int) -> None:
        """`params`: those of the layers' `context`. Raises RuntimeError: llama.cpp will not."""
        self._layers, self._width, self._vocab_size = context, width, vocab_size
        show_hidden(context, masked=False)
        params.ctx_type, params.ctx_other = llama_cpp.LLAMA_CONTEXT_TYPE_MTP, context
        params.cb_eval = type(params.cb_eval)()
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context for it")
        show_hidden(self._context, masked=True)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._capacity = int(llama_cpp.llama_n_batch(self._context))
        self._batch = Batch(self._capacity, width, both=True)
        self._lines: dict[int, Chunk] = {}
        """Of the forward that is being done, by sequence."""
        self._seen: dict[int, _Seen] = {}
        self._lengths: dict[int, int] = {}
        """What is cached here ends before this position; it need not begin with the first."""
        self._behind: dict[int, None] = {}
        """Sequences whose last rows are not fed yet."""

    def close(self) -> None:
        llama_cpp.llama_free(self._context)

    # --- as the layers' cache goes

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
        for known in (self._lines, self._seen, self._lengths, self._behind):
            known.clear()

    def follow(self, source: int, target: int, position: int) -> None:
        """`target`, which may be `source` itself, has its first `position` positions now."""
        if source != target:
            self._copy(source, target, position)
        elif position:
            self.truncate(source, position)
        else:
            self.release(source)

    def _copy(self, source: int, target: int, position: int) -> None:
        position = min(position, self._lengths.get(source, 0))
        if position:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, position)
            self._lengths[target], self._seen[target] = position, self._seen[source].cut(position)

    def truncate(self, sequence: int, position: int) -> None:
        if self._lengths.get(sequence, 0) > position:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1)
            self._lengths[sequence] = position
        if sequence in self._seen:
            self._seen[sequence] = self._seen[sequence].cut(position)

    def release(self, sequence: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        for known in (self._seen, self._lengths, self._behind):
            known.pop(sequence, None)

    # --- a forward

    def added(self, chunks: Sequence[Chunk], outputs: Sequence[Output]) -> list[Output]:
        """With what is guessed behind their draws; whatever goes wrong, that alone is missing."""
        begun = time.perf_counter()
        try:
            drawn = [() if output.tokens is None else output.tokens.tolist() for output in outputs]
            guesses = self.guess(chunks, drawn)
        except Exception as bug:
            self._give_up(bug)
            return list(outputs)
        spent_s = time.perf_counter() - begun
        timed = [None if one is None else replace(one, compute_s=spent_s) for one in guesses]
        return [replace(output, guesses=one) for output, one in zip(outputs, timed, strict=True)]

    def begin(self, chunks: Sequence[Chunk]) -> None:
        """These are run next."""
        self._lines = {chunk.sequence: chunk for chunk in chunks if chunk.line is not None}

    def _give_up(self, bug: Exception) -> None:
        """For now: what comes next begins anew."""
        log.warning("no guesses: %s: %s", type(bug).__name__, bug)
        self.clear()

    def saw(self, sequences: NDArray[np.int32], positions: NDArray[np.int32]) -> None:
        """The layers have just decoded these."""
        if not self._lines:
            return
        try:
            self._saw(sequences, positions)
        except Exception as bug:
            self._give_up(bug)

    def _saw(self, sequences: NDArray[np.int32], positions: NDArray[np.int32]) -> None:
        lines = [chunk for sequence, chunk in self._lines.items() if sequence in sequences]
        if not lines:
            return
        rows = hidden(self._layers, len(sequences), self._width)
        self._feed([chunk.sequence for chunk in lines if chunk.sequence in self._behind])
        for chunk in lines:
            mine = np.flatnonzero(sequences == chunk.sequence)
            start = int(positions[mine[0]])
            assert chunk.line is not None
            tokens = chunk.line[start - chunk.position :][: len(mine)]
            self._link(chunk.sequence, _Seen(start, tokens, rows[mine]))

    def _link(self, sequence: int, new: _Seen) -> None:
        """The row before its first is of the decode before, if that is known: else begin anew behind it."""
        before = self._seen[sequence].before(new.start) if sequence in self._seen else None
        if before is None or self._lengths.get(sequence, 0) < new.start:
            self.release(sequence)
        else:
            self.truncate(sequence, new.start)
            new = _Seen(new.start - 1, np.append(np.int32(0), new.tokens), np.concatenate([before, new.rows]))
        self._seen[sequence], self._behind[sequence] = new, None

    def guess(self, chunks: Sequence[Chunk], drawn: Sequence[Sequence[int]]) -> list[Guesses | None]:
        """Behind the draws of each chunk that asks for it. Raises RuntimeError."""
        chains: dict[int, _Chain] = {}
        for chunk, draws in zip(chunks, drawn, strict=True):
            if chunk.num_guesses and chunk.sequence in self._behind:
                chain = chains[chunk.sequence] = self._chain(chunk, draws)
                self._seen[chunk.sequence] = self._seen[chunk.sequence].cut(chain.start)
        self._feed(list(self._behind), list(chains.values()))
        while going := [chain for chain in chains.values() if chain.goes_on]:
            self._feed([], going)
        for chain in chains.values():
            llama_cpp.llama_memory_seq_rm(self._memory, chain.sequence, chain.start, -1)
        self._lines = {}
        return [chains[chunk.sequence].told() if chunk.sequence in chains else None for chunk in chunks]

    def _chain(self, chunk: Chunk, drawn: Sequence[int]) -> _Chain:
        """From the first draw that is not in the line, or the last one."""
        assert chunk.line is not None and chunk.sampling is not None
        first = len(chunk.inputs) - chunk.num_draws + 1
        known = chunk.line[first:].tolist()
        index = next((i for i, (one, two) in enumerate(zip(drawn, known, strict=False)) if one != two), len(known))
        start = chunk.position + first + index
        row = self._seen[chunk.sequence].before(start)
        if row is None:
            raise RuntimeError("its draws are of several decodes")
        return _Chain(chunk.sequence, start, drawn[index], row, chunk.sampling, chunk.num_guesses)

    def _feed(self, sequences: Sequence[int], chains: Sequence[_Chain] = ()) -> None:
        """What was seen of these sequences, and of each chain the token that came last: one guess more for each."""
        seen = [(sequence, self._seen[sequence]) for sequence in sequences]
        tokens = np.concatenate([*(one.tokens[1:] for _, one in seen), np.array([c.token for c in chains], np.int32)])
        rows = [*(one.rows[:-1] for _, one in seen), *(chain.row for chain in chains)]
        of = [np.full(len(one.tokens[1:]), sequence, np.int32) for sequence, one in seen]
        at = [np.arange(one.start + 1, one.start + len(one.tokens), dtype=np.int32) for _, one in seen]
        places = [np.array([(c.sequence, c.position) for c in chains], np.int32).reshape(-1, 2)]
        of, at = [*of, places[0][:, 0]], [*at, places[0][:, 1]]
        for sequence, one in seen:
            self._lengths[sequence] = one.start + len(one.tokens)
            self._behind.pop(sequence, None)
        if len(tokens):
            wanted = (np.arange(len(tokens)) >= len(tokens) - len(chains)).astype(np.int8)
            self._decode(tokens, np.concatenate(rows), np.concatenate(of), np.concatenate(at), wanted, chains)

    def _decode(
        self,
        tokens: NDArray[np.int32],
        rows: Rows,
        sequences: NDArray[np.int32],
        positions: NDArray[np.int32],
        wanted: NDArray[np.int8],
        chains: Sequence[_Chain],
    ) -> None:
        """`wanted`: the last ones, of the `chains`."""
        left = iter(chains)
        for start in range(0, len(tokens), self._capacity):
            part = slice(start, min(start + self._capacity, len(tokens)))
            batch = self._batch.fill(part, sequences, positions, wanted)
            self._batch.tokens[: part.stop - start] = tokens[part]
            self._batch.states[: part.stop - start] = rows[part]
            code = int(llama_cpp.llama_decode(self._context, batch))
            if code:
                raise RuntimeError(f"llama_decode gave {code}")
            count = int(wanted[part].sum())
            if count:
                logits = np.ctypeslib.as_array(
                    llama_cpp.llama_get_logits(self._context), (count * self._vocab_size,)
                ).reshape(count, self._vocab_size)
                states = hidden(self._context, count, self._width)
                for index in range(count):
                    next(left).take(logits[index], states[index : index + 1])

"""Layers with a running state (Mamba, delta nets) beside others: it holds all that a sequence has said, and cannot be
taken back. What is to be cut back is made anew from a copy that was kept, and from what it was fed since.

llama.cpp has a rollback of its own for some of these, of the last block alone, which gives wrong numbers in silence
where it is asked for more. Copies of a whole sequence cost nothing until one of the two goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.gguf_arch import SUPPORTED
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_parts import parts_of
from dsdnode.engine.ipc import MAX_SEQUENCES, MAX_SPARE, EngineOptions
from dsdnode.engine.llama import LlamaEngine, Rows
from dsdnode.engine.llama_api import llama_cpp
from dsdnode.engine.port import Chunk, ShardInfo, check_sequence

MAX_KEPT = 6
"""Copies of one sequence: the newest, and older ones the sparser the older."""


def open_engine(path: Path, options: EngineOptions, cache_folder: Path | None = None) -> LlamaEngine:
    """The engine for the model at `path`. Raises ModelRefused; a file that makes llama.cpp abort ends the process."""
    name = read_header(parts_of(path)[0]).text("general.architecture")
    is_recurrent = name in SUPPORTED and SUPPORTED[name].is_recurrent
    return (HybridEngine if is_recurrent else LlamaEngine)(path, options, cache_folder)


@dataclass(slots=True, eq=False)
class _Copy:
    """A sequence as it was at `position`; several may have come from it."""

    sequence: int
    position: int
    num_users: int = 1


class HybridEngine(LlamaEngine):
    """As LlamaEngine. One chunk a decode: llama.cpp would mix up the rows of chunks of different lengths."""

    def __init__(self, path: Path, options: EngineOptions, cache_folder: Path | None = None) -> None:
        self._spare = 0
        self._free: list[int] = []
        self._copies: dict[int, list[_Copy]] = {}
        """Of each sequence, the oldest first."""
        self._fed: dict[int, list[NDArray[Any]]] = {}
        """All that each sequence was fed."""
        super().__init__(path, options, cache_folder)
        self._spare = self._num_spare(options)
        self._free = self._all_free()

    def clear(self) -> None:
        super().clear()
        self._copies.clear()
        self._fed.clear()
        self._free = self._all_free()

    def copy(self, source: int, target: int, position: int) -> None:
        self._check_copy(source, target, position)
        self._guesses_follow(source, target, position)
        if position == self.length(source):
            self._copy_whole(source, target)
            self._lengths[target] = position
            self._share(source, target, position)
        else:
            self._share(source, target, position)
            self._make_anew(target, position)

    def truncate(self, sequence: int, position: int) -> None:
        check_sequence(sequence, self.shard)
        if position < 0:
            raise ValueError(f"truncation to {position}")
        if position == 0:
            self.release(sequence)
        elif position < self.length(sequence):
            self._fed[sequence] = _first(self._fed[sequence], position)
            self._guesses_follow(sequence, sequence, position)
            for copy in [copy for copy in self._copies.get(sequence, []) if copy.position > position]:
                self._drop(sequence, copy)
            self._make_anew(sequence, position)

    def release(self, sequence: int) -> None:
        super().release(sequence)
        self._fed.pop(sequence, None)
        for copy in list(self._copies.get(sequence, [])):
            self._drop(sequence, copy)

    # --- how

    def _describe(self) -> ShardInfo:
        return replace(super()._describe(), is_recurrent=True)

    def _num_spare(self, options: EngineOptions) -> int:
        return max(0, min(options.max_sequences, MAX_SPARE, MAX_SEQUENCES - self._first_spare))

    def _is_lone(self, num_rows: int, num_shown: int) -> bool:
        """Beside a longer chunk a row of nothing would be of another length."""
        return self._alike and num_rows < 2

    def _can_truncate(self) -> bool:
        return True

    def _run(self, chunks: Sequence[Chunk], consume: Callable[[Rows], None]) -> None:
        for chunk in chunks:
            self._keep(chunk.sequence)
            super()._run([chunk], consume)
            self._fed.setdefault(chunk.sequence, []).append(np.array(chunk.inputs))

    def _make_anew(self, sequence: int, position: int) -> None:
        """From its newest copy, or from nothing, up to `position`."""
        self._forget(sequence)
        begun = 0
        if copies := self._copies.get(sequence, []):
            begun = copies[-1].position
            self._copy_whole(copies[-1].sequence, sequence)
            self._lengths[sequence] = begun
        if begun < position:
            inputs = np.concatenate(self._fed[sequence])[begun:position]
            super()._run([Chunk(sequence, begun, inputs)], lambda _: None)

    def _share(self, source: int, target: int, position: int) -> None:
        self._fed[target] = _first(self._fed.get(source, []), position)
        self._copies[target] = [copy for copy in self._copies.get(source, []) if copy.position <= position]
        for copy in self._copies[target]:
            copy.num_users += 1

    def _keep(self, sequence: int) -> None:
        """Keep it as it is now, if that is anything, and there is room for one more."""
        position, copies = self.length(sequence), self._copies.setdefault(sequence, [])
        if position == 0 or (copies and copies[-1].position == position):
            return
        if len(copies) >= MAX_KEPT:
            self._drop(sequence, _superfluous(copies, position))
        if not self._free:
            self._make_room()
        if self._free:
            copy = _Copy(self._free.pop(), position)
            self._copy_whole(sequence, copy.sequence)
            copies.append(copy)

    def _make_room(self) -> None:
        """At the cost of the sequence that has most copies."""
        richest = max(self._copies, key=lambda sequence: (len(self._copies[sequence]), sequence))
        while not self._free and self._copies[richest]:
            self._drop(richest, _superfluous(self._copies[richest], self.length(richest)))

    def _drop(self, sequence: int, copy: _Copy) -> None:
        self._copies[sequence].remove(copy)
        copy.num_users -= 1
        if copy.num_users == 0:
            llama_cpp.llama_memory_seq_rm(self._memory, copy.sequence, -1, -1)
            self._free.append(copy.sequence)

    def _copy_whole(self, source: int, target: int) -> None:
        """Of a part, llama.cpp would take the state of the whole all the same."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def _all_free(self) -> list[int]:
        return list(range(self._first_spare, self._first_spare + self._spare))


def _first(fed: Sequence[NDArray[Any]], position: int) -> list[NDArray[Any]]:
    """What was fed up to `position`."""
    kept: list[NDArray[Any]] = []
    for inputs in fed:
        kept.append(inputs[:position])
        position -= len(kept[-1])
        if position == 0:
            break
    return kept


def _superfluous(copies: Sequence[_Copy], tip: int) -> _Copy:
    """The one whose neighbours are closest to each other, as a ratio of how far back they are: who goes back far spends
    as much more on what is fed again. The oldest and the newest stay, where there are more."""
    if len(copies) < 3:
        return copies[0]
    back = [tip - copy.position + 1 for copy in copies]
    return copies[min(range(1, len(copies) - 1), key=lambda index: back[index - 1] / back[index + 1])]

"""Which bytes of a model's files are needed, and where they go: pure.

A model's files count as one, one behind the other (gguf_parts.py): places in it are `start`, `end`. Its bytes come in
blocks, which are whole or not there; what is needed of a block is told by the copies that lie in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from dsdnode.engine.gguf import Manifest, plan_shard
from dsdnode.engine.gguf_header import Header, Tensor
from dsdnode.engine.gguf_parts import stem_of
from dsdnode.engine.gguf_writer import head, offsets_of
from dsdnode.errors import ModelRefused
from dsdnode.weights.sources import Remote

BLOCK_BYTES = 256 << 10
"""What is fetched again, at most, of each connection that a kill ends. (Each costs 0.3 ms, and 60 bytes of journal.)"""
GAP_BYTES = 64 * 1024
"""So few bytes between two tensors are fetched too: asking twice takes longer."""
MAX_BLOCKS = 1 << 23
"""2 TiB of a model, twice the largest one: a stranger may have said how many."""
MAX_TAIL_BYTES = 1 << 20
"""Of a file, behind its last tensor: more than any padding."""
MAX_EMPTY_BYTES = 256 << 20
"""Of a file without tensors."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes [start, end) of the source go to `offset` of output `output`; `tensor` by the source's name."""

    start: int
    end: int
    output: int
    offset: int
    tensor: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """A file that is made: so large, with these bytes at its beginning. What else is not copied is zero."""

    name: str
    size_bytes: int
    head: bytes = b""
    literals: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes [start, end) of the source, all in one of its files."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


class Blocks:
    """The blocks of runs of bytes, in their order. They are made when they are asked for: a large model has millions.

    Raises ModelRefused: too many.
    """

    def __init__(self, runs: Sequence[tuple[int, int]]) -> None:
        self._runs = runs
        self._block_bytes = BLOCK_BYTES
        self._starts = [start for start, _ in runs]
        self._firsts = list(accumulate((-(-(end - start) // BLOCK_BYTES) for start, end in runs), initial=0))
        if len(self) > MAX_BLOCKS:
            raise ModelRefused(f"{len(self) * BLOCK_BYTES >> 40} TiB would have to be fetched: no model is so large")

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(index)
        run = bisect_right(self._firsts, index) - 1
        start, end = self._runs[run]
        at = start + (index - self._firsts[run]) * self._block_bytes
        return Block(at, min(at + self._block_bytes, end))

    @property
    def size_bytes(self) -> int:
        return sum(end - start for start, end in self._runs)

    def index_at(self, at: int) -> int:
        """Of the block that has this byte, which is in one of the runs."""
        run = bisect_right(self._starts, at) - 1
        return self._firsts[run] + (at - self._starts[run]) // self._block_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """`copies` by their `start`: two are of the same bytes (embeddings that are the head, too), or of none in common.
    `tensors` that are needed, whole, by their place."""

    outputs: tuple[Output, ...]
    copies: tuple[Copy, ...]
    blocks: Blocks
    tensors: tuple[Tensor, ...]
    is_whole: bool = False
    """The files as they are."""

    @property
    def size_bytes(self) -> int:
        """To be fetched."""
        return self.blocks.size_bytes

    @property
    def disk_bytes(self) -> int:
        return sum(output.size_bytes for output in self.outputs)

    def within(self, start: int, end: int) -> Iterator[Copy]:
        """The copies of which something lies in [start, end), cut to that."""
        first = bisect_right(self.copies, start, key=lambda copy: copy.end)
        for copy in self.copies[first:]:
            if copy.start >= end:
                return
            low, high = max(start, copy.start), min(end, copy.end)
            if low < high:
                yield Copy(low, high, copy.output, copy.offset + low - copy.start, copy.tensor)

    def blocks_of(self, tensor: Tensor) -> range:
        """Indices of the blocks in which it lies."""
        last = self.blocks.index_at(tensor.offset + tensor.size_bytes - 1)
        return range(self.blocks.index_at(tensor.offset), last + 1)


def file_starts(sizes: Sequence[int]) -> list[int]:
    """Where each file begins, and where all of them end."""
    return list(accumulate(sizes, initial=0))


def plan_files(remote: Remote, header: Header) -> Plan:
    """All files as they are. No block goes on from what lies before a file's tensors into them: that is in hand, and
    was hashed. Raises ModelRefused."""
    starts = file_starts([file.size_bytes for file in remote.files])
    _check_tails(remote, header, starts)
    copies: list[Copy] = []
    for index, (start, end) in enumerate(pairwise(starts)):
        first = min((one.offset for one in header.tensors.values() if start <= one.offset < end), default=end)
        copies += [Copy(low, high, index, low - start) for low, high in ((start, first), (first, end)) if low < high]
    outputs = tuple(Output(file.name, file.size_bytes) for file in remote.files)
    blocks = Blocks([(copy.start, copy.end) for copy in copies])
    return Plan(outputs, tuple(copies), blocks, _in_order(header.tensors.values()), is_whole=True)


def plan_layers(remote: Remote, header: Header, whole: Manifest, start: int, end: int) -> Plan:
    """The shard of layers [start, end) as `cut` would write it. Raises BadInput, ModelRefused."""
    metadata, tensors = plan_shard(header, whole, start, end, Path(remote.files[0].name))
    beginning = head(metadata, tensors)
    offsets, size_bytes = offsets_of(beginning, tensors)
    copies = sorted(
        (
            Copy(one.source.offset, one.source.offset + one.size_bytes, 0, offset, one.source.name)
            for one, offset in zip(tensors, offsets, strict=True)
            if one.source is not None
        ),
        key=lambda copy: copy.start,
    )
    literals = tuple((offset, one.data) for one, offset in zip(tensors, offsets, strict=True) if one.data is not None)
    output = Output(f"{stem_of(Path(remote.files[0].name))}-{start}-{end}.gguf", size_bytes, beginning, literals)
    needed = {one.source.name: one.source for one in tensors if one.source is not None}
    starts = file_starts([file.size_bytes for file in remote.files])
    return Plan((output,), tuple(copies), Blocks(_runs(copies, starts)), _in_order(needed.values()))


def _check_tails(remote: Remote, header: Header, starts: Sequence[int]) -> None:
    """That a file has the size that is said of it, nothing proves before all of it is there. Raises ModelRefused."""
    ends: dict[int, int] = {}
    for tensor in header.tensors.values():
        index = bisect_right(starts, tensor.offset) - 1
        ends[index] = max(ends.get(index, 0), tensor.offset + tensor.size_bytes)
    for index, file in enumerate(remote.files):
        end, most = (ends[index], MAX_TAIL_BYTES) if index in ends else (starts[index], MAX_EMPTY_BYTES)
        if starts[index + 1] - end > most:
            raise ModelRefused(
                f"{file.name}: would have {starts[index + 1] - end} bytes behind its last tensor, by its size; at most "
                f"{most} are believed"
            )


def _in_order(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(sorted(tensors, key=lambda tensor: tensor.offset))


def _runs(copies: Sequence[Copy], starts: Sequence[int]) -> list[tuple[int, int]]:
    """Copies with little between them, none of which goes on into another file."""
    runs: list[tuple[int, int]] = []
    for copy in copies:
        same_file = runs and bisect_right(starts, copy.start) == bisect_right(starts, runs[-1][0])
        if same_file and copy.start - runs[-1][1] <= GAP_BYTES:
            runs[-1] = runs[-1][0], max(runs[-1][1], copy.end)
        else:
            runs.append((copy.start, copy.end))
    return runs

"""A model in several files, as llama-gguf-split writes them: NAME-00001-of-00005.gguf and so on, read as one.

The first part has all metadata, each one the tensors that lie in it and three keys (`split.no`, `split.count`,
`split.tensors.count`) that say which part of how much it is. As one the files lie one behind the other: a tensor's
place is that in all of them together. Where a file stands alone, it is a model of one part.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsdnode.engine.gguf_header import MAX_TENSORS, Header, Tensor, read_header
from dsdnode.errors import ModelRefused

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_PARTS = 512
"""Each is an open file, in the daemon and in the worker; the largest models come in some 60."""
_NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` is a part of, the first one first; a name that says nothing stands for itself.

    Raises ModelRefused for a name that cannot be.
    """
    name = _NAME.fullmatch(path.name)
    if name is None:
        return (path,)
    number, count = int(name["number"]), int(name["count"])
    if not 1 <= number <= count <= MAX_PARTS:
        raise ModelRefused(f"{path}: part {number} of {count} cannot be; from 1 to {MAX_PARTS} are possible")
    return tuple(path.with_name(f"{name['stem']}-{one:05d}-of-{count:05d}.gguf") for one in range(1, count + 1))


def stem_of(path: Path) -> str:
    """The model's name as its files have it."""
    name = _NAME.fullmatch(path.name)
    return name["stem"] if name is not None else path.stem


def size_bytes_of(path: Path) -> int:
    """Of all parts. Raises OSError."""
    return sum(part.stat().st_size for part in parts_of(path))


def read_model(path: Path) -> Header:
    """The header of the model that `path` is (a part of). Raises ModelRefused, as `read_header`, and where a part is
    missing, or is one of something else."""
    paths = parts_of(path)
    return join_parts(path, paths, [_read_part(one, paths) for one in paths])


def join_parts(path: Path, paths: Sequence[Path], headers: Sequence[Header]) -> Header:
    """The model's header by those of its parts, in their order. Raises ModelRefused."""
    for one, (part, header) in enumerate(zip(paths, headers, strict=True)):
        _check_part(part, header, one, len(paths))
    if len(paths) == 1:
        return headers[0]
    return _joined(path, paths, headers)


def _read_part(part: Path, paths: Sequence[Path]) -> Header:
    if len(paths) > 1 and not part.exists():
        raise ModelRefused(f"{part}: is missing; the model is in {len(paths)} files, and all are needed")
    return read_header(part)


def _check_part(part: Path, header: Header, index: int, count: int) -> None:
    said = header.count("split.count", 1) or 1
    number = header.count("split.no", 0)
    if said == count and number == index:
        return
    if count == 1:
        raise ModelRefused(
            f"{part}: is part {number + 1} of {said} of a model; have all of them in one folder, named "
            f"{stem_of(part)}-{number + 1:05d}-of-{said:05d}.gguf and so on"
        )
    raise ModelRefused(f"{part}: is part {number + 1} of {said} by what is in it, not {index + 1} of {count}")


def _joined(path: Path, paths: Sequence[Path], headers: Sequence[Header]) -> Header:
    tensors: dict[str, Tensor] = {}
    before_bytes = 0
    for part, header in zip(paths, headers, strict=True):
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise ModelRefused(f"{part}: the tensor {name!r} is in a part before, too")
            tensors[name] = replace(tensor, offset=tensor.offset + before_bytes)
        before_bytes += header.size_bytes
    wanted = headers[0].count("split.tensors.count")
    if len(tensors) != wanted or wanted > MAX_TENSORS:
        raise ModelRefused(f"{path}: its {len(paths)} parts hold {len(tensors)} tensors; {wanted} were due")
    metadata = {key: value for key, value in headers[0].metadata.items() if not key.startswith("split.")}
    return Header(path.name, metadata, tensors, before_bytes)


def open_model(path: Path) -> io.BufferedReader:
    """All parts as one file to read. Raises OSError, ModelRefused."""
    paths = parts_of(path)
    return paths[0].open("rb") if len(paths) == 1 else io.BufferedReader(_Parts(paths))


class _Parts(io.RawIOBase):
    """The files, one behind the other, as they are when they are opened."""

    def __init__(self, paths: Sequence[Path]) -> None:
        with ExitStack() as opened:
            self._files = [opened.enter_context(path.open("rb", buffering=0)) for path in paths]
            self._starts = [0]
            for file in self._files:
                self._starts.append(self._starts[-1] + file.seek(0, io.SEEK_END))
            self._close = opened.pop_all()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._position >= self._starts[-1]:
            return 0
        part = bisect_right(self._starts, self._position) - 1
        file = self._files[part]
        file.seek(self._position - self._starts[part])
        view = memoryview(buffer).cast("B")[: self._starts[part + 1] - self._position]
        num_read = file.readinto(view) or 0
        self._position += num_read
        return num_read

    def close(self) -> None:
        if not self.closed:
            self._close.close()
        super().close()

"""Writes GGUF files tensor by tensor, never holding more than one piece of a tensor in memory.

The file appears under its name only when it is complete: whoever finds it can trust that it is whole.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dsdnode.engine.gguf_header import (
    ARRAY,
    DEFAULT_ALIGNMENT_BYTES,
    NUMBER_FORMATS,
    STRING,
    Tensor,
    Value,
    padded,
    tensor_size_bytes,
)
from dsdnode.engine.gguf_types import GGMLQuantizationType
from dsdnode.files import replacing

Progress = Callable[[int, int], None]
"""Called with bytes written and bytes in all."""
_COPY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to write: a copy of `source`'s bytes, or `data`, or (neither) zeros that take no space on the disk."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    source: Tensor | None = None
    data: bytes | None = None

    @property
    def size_bytes(self) -> int:
        return tensor_size_bytes(self.shape, self.type)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[NewTensor],
    source: BinaryIO,
    progress: Progress | None = None,
) -> None:
    """Write `path` in one step: into a file beside it, which then takes its name. Raises BadInput, OSError."""
    with replacing(path) as out:
        out.write(head(metadata, tensors))
        _write_tensors(out, tensors, source, progress)
        out.flush()
        os.fsync(out.fileno())


def _write_tensors(out: BinaryIO, tensors: Sequence[NewTensor], source: BinaryIO, progress: Progress | None) -> None:
    total = sum(tensor.size_bytes for tensor in tensors)
    done = 0
    for tensor in tensors:
        start = out.seek(padded(out.tell(), DEFAULT_ALIGNMENT_BYTES))
        if tensor.data is not None:
            out.write(tensor.data)
        elif tensor.source is not None:
            source.seek(tensor.source.offset)
            for _ in range(0, tensor.size_bytes, _COPY_BYTES):
                out.write(source.read(min(_COPY_BYTES, tensor.size_bytes - (out.tell() - start))))
                if progress is not None:
                    progress(done + out.tell() - start, total)
            if out.tell() != start + tensor.size_bytes:
                raise OSError("the source changed while it was copied")
        done += tensor.size_bytes
        out.seek(start + tensor.size_bytes)
    out.truncate(padded(out.tell(), DEFAULT_ALIGNMENT_BYTES))


def offsets_of(beginning: bytes, tensors: Sequence[NewTensor]) -> tuple[list[int], int]:
    """Where each tensor lies in the file that `write_gguf` makes, and the size of that, in bytes."""
    offsets, end = [], len(beginning)
    for tensor in tensors:
        offsets.append(padded(end, DEFAULT_ALIGNMENT_BYTES))
        end = offsets[-1] + tensor.size_bytes
    return offsets, padded(end, DEFAULT_ALIGNMENT_BYTES)


def head(metadata: Mapping[str, Value], tensors: Sequence[NewTensor]) -> bytes:
    """A file up to its tensors' bytes; all of it, where there are none."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key.encode()), _value(value)]
    offset = 0
    for tensor in tensors:
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        parts += [_string(tensor.name.encode()), dimensions, struct.pack("<IQ", tensor.type, offset)]
        offset += padded(tensor.size_bytes, DEFAULT_ALIGNMENT_BYTES)
    head = b"".join(parts)
    return head + bytes(padded(len(head), DEFAULT_ALIGNMENT_BYTES) - len(head))


def _value(value: Value) -> bytes:
    kind, data = value.type, value.data
    if isinstance(data, str):
        return struct.pack("<I", kind) + _string(data.encode("utf-8", "surrogateescape"))
    if isinstance(data, np.ndarray):
        elements = data.astype(np.dtype(NUMBER_FORMATS[value.element_type]).newbyteorder("<")).tobytes()
        return struct.pack("<IIQ", ARRAY, value.element_type, len(data)) + elements
    if isinstance(data, tuple):
        return struct.pack("<IIQ", ARRAY, STRING, len(data)) + b"".join(_string(element) for element in data)
    return struct.pack("<I" + NUMBER_FORMATS[kind], kind, data)


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data
